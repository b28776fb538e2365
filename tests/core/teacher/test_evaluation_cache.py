"""What was measured of a teacher is measured once, and only whole figures are believed."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from core.data.pixels import Pixels
from core.evaluate import Accuracy, Latency, ModelMetrics
from core.models.built import BuiltModel
from core.models.preprocessing import plain_preprocessing
from core.teacher.evaluation_cache import EvaluationCache
from core.train.result_cache import ResultCache

MEASURED = ModelMetrics(
    accuracy=Accuracy(0.5, 1.0, (1.0, None, 0.1), torch.tensor([0, 2, 0, 1]), 4),
    parameters=7, flops=8, size_bytes=9, latency=(Latency(1, 0.25, 50, 2, "cpu"),), judging={"top1_metric": "a rule"},
)  # fmt: skip


def teacher(seed=0):
    torch.manual_seed(seed)
    return BuiltModel(nn.Linear(2, 3), "linear", {"num_classes": 3}, plain_preprocessing(image_size=8, channels=1))


@pytest.fixture
def evaluations(tmp_path):
    return EvaluationCache(ResultCache(tmp_path, torch.device("cpu"), 2), "p-8-test", "logits")


class Measuring:
    """Counts how often a teacher was measured."""

    def __init__(self, measured=MEASURED):
        self.times, self._measured = 0, measured

    def __call__(self, _teacher):
        self.times += 1
        return self._measured


def same(one, other):
    assert one.accuracy.predictions.equal(other.accuracy.predictions)
    nothing = torch.empty(0)
    return [replace(each, accuracy=replace(each.accuracy, predictions=nothing)) for each in (one, other)]


def test_a_teacher_is_measured_once_and_later_jobs_read_the_same_figures(evaluations):
    measure = Measuring()

    first, second = evaluations.of(teacher(), measure), evaluations.of(teacher(), measure)

    assert measure.times == 1
    assert (first.found, second.found) == (False, True)
    one, other = same(first.measured, second.measured)
    assert repr(one) == repr(other)
    assert first.details(None)["evaluation"] == {"hit": False, "saved_seconds": 0.0}
    assert second.details(None)["evaluation"] == {"hit": True, "saved_seconds": round(first.seconds, 3)}
    assert second.details(("a", "b", "c"))["per_class"] == {"a": 1.0, "b": None, "c": 0.1}


def test_without_labels_the_rest_is_kept(evaluations):
    measure = Measuring(replace(MEASURED, accuracy=None))
    evaluations.of(teacher(), measure)

    again = evaluations.of(teacher(), measure)

    assert (again.found, again.measured) == (True, replace(MEASURED, accuracy=None))
    assert evaluations.top1(teacher(), Pixels(None, torch.tensor([0, 2, 1, 1]))) is None


@pytest.mark.parametrize("change", [{"pictures": "q"}, {"judged": "embeddings"}])
def test_other_pictures_or_another_teacher_are_measured_anew(evaluations, change):
    measure = Measuring()
    evaluations.of(teacher(), measure)
    replace(evaluations, **change).of(teacher(), measure)
    evaluations.of(teacher(1), measure)

    assert measure.times == 3


def test_a_disk_that_takes_nothing_ends_no_job(evaluations, tmp_path):
    (tmp_path / "notes").write_text("a file where the folder should be")
    measure = Measuring()

    assert evaluations.of(teacher(), measure).measured is MEASURED
    assert evaluations.of(teacher(), measure).measured is MEASURED


def test_the_look_at_a_known_teacher_is_read_from_its_decisions(evaluations):
    looked_at = Pixels(None, torch.tensor([0, 2, 1, 1]))

    assert evaluations.top1(teacher(), looked_at) is None
    evaluations.of(teacher(), Measuring())
    assert evaluations.top1(teacher(), looked_at) == 0.75

"""A teacher is measured once per split; later jobs read its metrics from the cache."""

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

METRICS = ModelMetrics(
    accuracy=Accuracy(0.5, 1.0, (1.0, None, 0.1), torch.tensor([0, 2, 0, 1]), 4),
    parameters=7, flops=8, size_bytes=9, latency=(Latency(1, 0.25, 50, 2, "cpu"),),
    evaluation_details={"top1_metric": "a rule"},
)  # fmt: skip


def teacher(seed=0):
    torch.manual_seed(seed)
    return BuiltModel(nn.Linear(2, 3), "linear", {"num_classes": 3}, plain_preprocessing(image_size=8, channels=1))


@pytest.fixture
def cache(tmp_path):
    return EvaluationCache(ResultCache(tmp_path, torch.device("cpu"), 2), "p", "logits")


class CountingMeasure:
    """Counts its calls, and returns fixed metrics."""

    def __init__(self, metrics=METRICS):
        self.num_calls, self._metrics = 0, metrics

    def __call__(self, _teacher):
        self.num_calls += 1
        return self._metrics


def without_predictions(one, other):
    """Compare the predictions; return the metrics without them."""
    assert one.accuracy.predictions.equal(other.accuracy.predictions)
    empty = torch.empty(0)
    return [replace(metrics, accuracy=replace(metrics.accuracy, predictions=empty)) for metrics in (one, other)]


def test_a_teacher_is_measured_once_and_later_jobs_read_the_same_metrics(cache):
    measure = CountingMeasure()

    first, second = cache.get_or_measure(teacher(), measure), cache.get_or_measure(teacher(), measure)

    assert measure.num_calls == 1
    assert (first.hit, second.hit) == (False, True)
    one, other = without_predictions(first.metrics, second.metrics)
    assert repr(one) == repr(other)
    assert first.details(None)["evaluation"] == {"hit": False, "saved_seconds": 0.0}
    assert second.details(None)["evaluation"] == {"hit": True, "saved_seconds": round(first.seconds, 3)}
    assert second.details(("a", "b", "c"))["per_class"] == {"a": 1.0, "b": None, "c": 0.1}


def test_without_labels_the_other_metrics_are_cached(cache):
    measure = CountingMeasure(replace(METRICS, accuracy=None))
    cache.get_or_measure(teacher(), measure)

    again = cache.get_or_measure(teacher(), measure)

    assert (again.hit, again.metrics) == (True, replace(METRICS, accuracy=None))
    assert cache.top1(teacher(), Pixels(None, torch.tensor([0, 2, 1, 1]))) is None


@pytest.mark.parametrize("change", [{"dataset": "q"}, {"criterion": "embeddings"}])
def test_another_split_or_criterion_or_teacher_is_a_miss(cache, change):
    measure = CountingMeasure()
    cache.get_or_measure(teacher(), measure)
    replace(cache, **change).get_or_measure(teacher(), measure)
    cache.get_or_measure(teacher(1), measure)

    assert measure.num_calls == 3


def test_a_disk_error_does_not_fail_the_job(cache, tmp_path):
    (tmp_path / "results").write_text("a file where the folder should be")
    measure = CountingMeasure()

    assert cache.get_or_measure(teacher(), measure).metrics is METRICS
    assert cache.get_or_measure(teacher(), measure).metrics is METRICS


def test_subset_accuracy_comes_from_the_cached_predictions(cache):
    subset = Pixels(None, torch.tensor([0, 2, 1, 1]))

    assert cache.top1(teacher(), subset) is None
    cache.get_or_measure(teacher(), CountingMeasure())
    assert cache.top1(teacher(), subset) == 0.75

import json

import pytest
import torch

from core.evaluate import ModelMetrics, score
from core.evaluate.corruptions import CLEAN, CORRUPTIONS
from core.evaluate.evaluation_report import MAX_MATRIX_CLASSES, EvaluationReport, NetworkResult
from core.evaluate.quality_warnings import baseline_warning

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


def network(predictions, *, labels=LABELS, num_classes=3, sharpness=3.0, **more):
    """A network with these predictions, all with the same confidence."""
    logits = sharpness * torch.nn.functional.one_hot(torch.tensor(predictions), num_classes).float()
    metrics = ModelMetrics(
        accuracy=None if labels is None else score(logits, labels),
        parameters=1,
        flops=1,
        size_bytes=1,
        latency=(),
        predictions=logits.argmax(dim=1),
        logits=logits,
    )
    return NetworkResult(metrics=metrics, **more)


def report(student, teachers=(), baseline=None, *, labels=LABELS, classes=("cat", "dog", "owl")):
    return EvaluationReport(
        student=student,
        teachers=teachers,
        baseline=baseline,
        labels=labels,
        classes=classes,
        paths=tuple(f"{index}.png" for index in range(len(student.metrics.logits))),
        dataset="ds_1",
        baseline_note="none was requested.",
        seed=0,
    )


def test_the_figures_of_a_student_two_teachers_and_a_baseline():
    student = network([0, 0, 1, 1, 2, 0])  # 5 of 6
    teachers = [network([0, 1, 1, 0, 0, 0]), network([0, 0, 1, 1, 2, 2])]  # 2 of 6, all
    document = report(student, teachers, network([0, 0, 0, 0, 2, 2])).to_json()
    json.dumps(document)

    assert document["retention"] == {"teacher": 1, "top1": pytest.approx(5 / 6, abs=1e-6)}
    assert document["agreement"] == pytest.approx([3 / 6, 5 / 6])
    assert document["gain"]["top1"] == pytest.approx(1 / 6)
    assert (document["gain"]["only_student_correct"], document["gain"]["only_baseline_correct"]) == (2, 1)
    assert document["verdict"]["code"] == "not_shown"
    owl = document["per_class"][2]
    assert owl == {
        "class": "owl", "num_images": 2, "student": 0.5, "teachers": [0.0, 1.0], "baseline": 1.0, "retention": 0.5,
    }  # fmt: skip
    assert document["worst_classes"][0] == "owl"
    assert document["confusion"]["matrix"] == [[2, 0, 0], [0, 2, 0], [1, 0, 1]]
    assert document["confusion"]["largest"] == [{"class": "owl", "predicted": "cat", "num_images": 1}]
    first = document["disagreements"]["images"][0]
    assert (first["image"], first["path"], first["url"]) == (5, "5.png", "/v1/datasets/ds_1/images/test/5")
    assert (first["label"], first["student"], first["teacher"]) == ("owl", "cat", "owl")
    assert first["divergence"] > document["disagreements"]["images"][1]["divergence"]


@pytest.mark.parametrize(
    ("student_hits", "baseline_hits", "code"), [(90, 60, "helped"), (60, 90, "harmed"), (61, 60, "not_shown")]
)
def test_the_verdict_follows_the_interval(student_hits, baseline_hits, code):
    labels = torch.zeros(100, dtype=torch.int64)

    def with_hits(count):
        return network([0] * count + [1] * (100 - count), labels=labels)

    found = report(with_hits(student_hits), [], with_hits(baseline_hits), labels=labels)
    verdict = found.verdict()

    assert verdict["code"] == code
    if code != "not_shown":
        assert "30.0 points" in verdict["text"]
        low, high = sorted((abs(found.gain.low), abs(found.gain.high)))
        assert f"{100 * low:.1f} to {100 * high:.1f}" in verdict["text"]
    if code == "harmed":
        warning = baseline_warning(found.gain.difference, found.gain.low, found.gain.high)
        assert f"{100 * low:.1f} to {100 * high:.1f}" in warning.message


def test_without_a_baseline_the_report_tells_why_nothing_is_known():
    found = report(network([0, 0, 1, 1, 2, 0]), [network([0, 0, 1, 1, 2, 2])]).to_json()

    assert found["gain"] is None
    assert found["verdict"] == {
        "code": "unknown",
        "text": "Whether the teacher helped is unknown: none was requested.",
    }


def test_the_temperature_is_fitted_on_held_out_images_and_scored_on_test_images():
    held_out = (torch.tensor([[3.0, 0, 0]] * 4), torch.tensor([0, 0, 0, 1]))
    own = report(network([0, 0, 1, 1, 2, 0], held_out=held_out), [network([0, 0, 1, 1, 2, 2])]).to_json()["calibration"]

    scaled = own["student"]["scaled"]
    # Softmax of (3/T, 0, 0) that minimizes the NLL of 3 right and 1 wrong: probability 3/4, so T = 3 / ln(6).
    assert scaled["temperature"] == pytest.approx(3 / torch.log(torch.tensor(6.0)).item(), rel=1e-4)
    assert scaled["num_held_out"] == 4
    assert scaled["ece"] == pytest.approx(5 / 6 - 3 / 4, abs=1e-4)
    assert own["teachers"][0]["scaled"] is None
    assert own["baseline"] is None


def test_without_labels_student_and_teacher_are_compared_alone():
    student = network([0, 0, 1, 1, 2, 0], labels=None)
    found = report(student, [network([0, 0, 1, 1, 2, 2], labels=None)], labels=None, classes=None).to_json()

    assert found["agreement"] == pytest.approx([5 / 6])
    assert found["disagreements"]["images"][0] | {"divergence": 0} == {
        "image": 5, "path": "5.png", "url": "/v1/datasets/ds_1/images/test/5", "label": None, "student": "0",
        "student_confidence": pytest.approx(0.909, abs=1e-3), "teacher": "2",
        "teacher_confidence": pytest.approx(0.909, abs=1e-3), "divergence": 0,
    }  # fmt: skip
    assert [found[name] for name in ("gain", "calibration", "per_class", "confusion", "robustness")] == [None] * 5
    assert found["retention"] == {"teacher": 0, "top1": None}


def test_a_large_confusion_matrix_is_left_out_and_its_largest_entries_stay():
    num_classes = MAX_MATRIX_CLASSES + 1
    found = report(network([0, 0, 1, 1, 2, 0], num_classes=num_classes), classes=None).to_json()

    assert found["confusion"]["matrix"] is None
    assert found["confusion"]["largest"] == [{"class": "2", "predicted": "0", "num_images": 1}]


def test_accuracies_on_corrupted_images_are_listed_by_corruption():
    corrupted = dict.fromkeys(CORRUPTIONS, 0.5) | {CLEAN: 0.75}
    found = report(network([0, 0, 1, 1, 2, 0], corrupted=corrupted), [network([0, 0, 1, 1, 2, 2])]).to_json()

    assert found["robustness"]["clean"] == {
        "corruption": "none", "student": 0.75, "teachers": [None], "baseline": None,
    }  # fmt: skip
    assert [row["corruption"] for row in found["robustness"]["corruptions"]] == list(CORRUPTIONS)

"""The gate, and outcomes that later attempts read."""

import json
from dataclasses import replace

import pytest

from core.compress.outcome import STEP_FILE, HeldOutAccuracy, StepOutcome
from core.errors import StorageFailed


def accuracy(reference, top1, limit=0.01, images=100):
    return HeldOutAccuracy(images=images, reference_top1=reference, top1=top1, max_top1_drop=limit)


@pytest.mark.parametrize(
    ("reference", "top1", "limit", "is_accepted"),
    [
        (0.90, 0.89, 0.01, True),  # 0.90 − 0.89 is above 0.01 in binary
        (0.90, 0.8899, 0.01, False),
        (0.90, 0.90, 0.0, True),
        (0.90, 0.8999, 0.0, False),
        (0.50, 0.90, 0.0, True),
        (0.90, 0.10, 0.8, True),
        (1.00, 0.00, 1.0, True),
    ],
)
def test_the_gate_accepts_a_loss_up_to_its_limit(reference, top1, limit, is_accepted):
    assert accuracy(reference, top1, limit).is_accepted is is_accepted


@pytest.fixture
def outcome(tmp_path):
    return StepOutcome(
        key="k", index=1, name="quantize", status="applied", output="model.int8.onnx", is_file=True,
        accuracy=accuracy(0.93, 0.925), details={"trials": 1}, folder=tmp_path,
    )  # fmt: skip


def test_an_outcome_is_read_as_it_was_written(outcome):
    for each in (
        outcome,
        replace(outcome, status="failed", is_file=None, accuracy=None, reason="no operator"),
        replace(outcome, status="rejected", reason="too inaccurate", output="pruned", is_file=False),
    ):
        each.write()

        assert StepOutcome.read(each.folder) == each


@pytest.mark.parametrize("content", ["", "{}", '{"format": 9}', '{"format": 1, "accuracy": null, "index": 0}'])
def test_a_damaged_outcome_is_an_error_of_the_storage(outcome, content):
    (outcome.folder / STEP_FILE).write_text(content)

    with pytest.raises(StorageFailed):
        StepOutcome.read(outcome.folder)


def test_a_rejected_step_publishes_nothing_and_names_its_figures(outcome):
    rejected = replace(outcome, status="rejected", accuracy=accuracy(0.93, 0.9), reason=accuracy(0.93, 0.9).reason)
    entry = rejected.summary({"top1": 0.91, "size_bytes": 10, "latency_ms": 0.1})

    assert rejected.artifacts() == {}
    assert (entry["artifact"], entry["status"], entry["top1"]) == (None, "rejected", 0.91)
    assert entry["held_out"]["drop"] == pytest.approx(0.03)
    assert entry["reason"] == (
        "top-1 on 100 held-out images fell from 93.00 % to 90.00 %, and max_top1_drop accepts 1 points"
    )
    json.dumps(entry)


def test_the_artifacts_of_a_network_lie_in_its_folder(outcome):
    network = replace(outcome, output="pruned", is_file=False)

    assert set(network.artifacts()) == {"pruned/model.safetensors", "pruned/config.json"}
    assert network.artifact == "pruned/model.safetensors"
    assert set(outcome.artifacts()) == {"model.int8.onnx"}

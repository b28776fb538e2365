"""A kill at any fault point costs time only."""

import pytest

from core.system.fault_injection import POINTS
from tests.chaos.logs import (
    assert_attempts_are_sequential,
    assert_gapless,
    assert_resumed_from_checkpoints,
)
from tests.chaos.specs import PRUNE
from tests.support.api import training_losses

# The visit at which the fault happens. The job trains a teacher (one checkpoint), then a student (two); these numbers
# select the student's first checkpoint. The preflight of each training writes a checkpoint too, which is not published.
NTH = {
    "checkpoint.weights": 4,
    "checkpoint.written": 4,
    "checkpoint.renamed": 4,
    "checkpoint.published": 2,
    "checkpoint.uncommitted": 2,
    "checkpoint.named": 2,
    "checkpoint.superseded": 3,
    "store.copied": 5,
    "store.moved": 9,
    "stage.started": 3,
    "stage.finished": 4,
    "file.written": 2,
    "artifact.published": 3,
}
ONLY_WITH_ONNX = {"onnx.written"}
ONLY_WITH_COMPRESSION = {"compression.written", "compression.saved"}
ONLY_WHEN_RESUMING = {"store.fetched"}
AFTER_THE_END = {"success.committed", "success.cleaned"}
# One point for each kind of state in every run of the suite; all points in `make test-all`.
IN_EVERY_RUN = {"checkpoint.uncommitted", "store.moved", "artifacts.published", "success.uncommitted"}


def points():
    """All fault points that an undisturbed job reaches; most of them in long runs only."""
    for point in sorted(POINTS.keys() - ONLY_WITH_ONNX - ONLY_WITH_COMPRESSION - ONLY_WHEN_RESUMING):
        yield pytest.param(point, marks=() if point in IN_EVERY_RUN else pytest.mark.slow)


@pytest.mark.parametrize("point", list(points()))
def test_a_kill_costs_only_time(service, reference_digest, point):
    job_id = service.submit()
    service.run_worker(point, nth=NTH.get(point, 1))
    assert service.fault_happened(), f"{point} was not reached"
    service.assert_nothing_partial(job_id)
    job = service.finish(job_id)

    assert job["status"] == "succeeded", job["error"]
    assert job["attempt"] == (1 if point in AFTER_THE_END else 2)
    assert service.weights_digest(job_id) == reference_digest
    service.assert_nothing_partial(job_id)
    events = service.events(job_id)
    assert_gapless(events)
    assert_attempts_are_sequential(events)
    assert_resumed_from_checkpoints(events)


@pytest.mark.slow
def test_kills_of_baseline_and_compression_cost_only_time(service):
    """Kills in the training of the baseline, and after a pruned network is trained, before it is saved."""
    extra = {"baseline": True, "compression": [{**PRUNE, "epochs": 2}]}
    undisturbed = service.submit(**extra)
    expected = service.finish(undisturbed)
    assert (expected["status"], expected["attempt"]) == ("succeeded", 1), expected["error"]
    killed = service.submit(**extra)
    # One checkpoint of the teacher and two of the student precede the baseline's.
    for stage, point, nth in (("baseline", "checkpoint.uncommitted", 4), ("compress", "compression.written", 1)):
        service.run_worker(point, nth=nth)
        assert service.fault_happened(), f"{point} was not reached"
        assert service.job(killed)["stage"] == stage
        service.record_losses()
    job = service.finish(killed)

    assert (job["status"], job["attempt"]) == ("succeeded", 3), job["error"]
    names = ("model.safetensors", "pruned/model.safetensors", "pruned/config.json")
    files, others = service.verified_artifacts(killed), service.verified_artifacts(undisturbed)
    assert {name: files[name]["sha256"] for name in names} == {name: others[name]["sha256"] for name in names}
    assert job["result"]["baseline"]["gain"] == expected["result"]["baseline"]["gain"]
    service.assert_nothing_partial(killed, compressed=names[1:])
    types = [event["type"] for event in service.events(killed)]
    assert (types.count("baseline.trained"), types.count("compression.applied")) == (1, 1)  # none is repeated


@pytest.mark.slow
def test_a_kill_in_a_compression_step_costs_only_time(service):
    """Kills before and after the first of two steps is saved; and one at the end, after which both are reused."""
    steps = [{"name": "quantize", "dtype": dtype, "max_top1_drop": 1} for dtype in ("int4", "fp16")]
    undisturbed = service.submit(compression=steps)
    assert service.finish(undisturbed)["status"] == "succeeded"
    killed = service.submit(compression=steps, reuse_teacher=True)
    for point in ("compression.written", "compression.saved", "student.exported"):
        service.run_worker(point)
        assert service.fault_happened(), f"{point} was not reached"
        service.record_losses()
    job = service.finish(killed)

    assert (job["status"], job["attempt"]) == ("succeeded", 4), job["error"]
    files, expected = service.verified_artifacts(killed), service.verified_artifacts(undisturbed)
    for name in ("model.safetensors", "model.int4.onnx", "model.fp16.onnx"):
        assert files[name]["sha256"] == expected[name]["sha256"]
    service.assert_nothing_partial(killed, compressed=("model.int4.onnx", "model.fp16.onnx"))
    types = [event["type"] for event in service.events(killed)]
    assert types.count("compression.applied") == 2  # neither step is repeated once it is saved


@pytest.mark.slow
def test_a_kill_during_a_checkpoint_download_costs_only_time(service, reference_digest):
    job_id = service.submit()
    service.run_worker("checkpoint.superseded", nth=2)
    service.run_worker("store.fetched")
    assert service.fault_happened()
    job = service.finish(job_id)

    assert (job["status"], job["attempt"]) == ("succeeded", 3), job["error"]
    assert service.weights_digest(job_id) == reference_digest
    assert_resumed_from_checkpoints(service.events(job_id))


def test_metrics_of_a_killed_job_are_gapless_and_equal_those_of_an_undisturbed_job(service, reference_job):
    killed = service.submit(reuse_teacher=True)
    service.run_worker("checkpoint.superseded", nth=1)
    assert service.fault_happened()
    service.finish(killed)

    losses = training_losses(service.http, killed)
    assert [step for step, _ in losses] == list(range(1, 93))
    assert losses == training_losses(service.http, reference_job)


@pytest.mark.slow
def test_a_kill_during_the_onnx_export_costs_only_time(service):
    undisturbed = service.submit(export=["safetensors", "onnx"])
    assert service.finish(undisturbed)["status"] == "succeeded"
    killed = service.submit(export=["safetensors", "onnx"])
    service.run_worker("onnx.written")
    assert service.fault_happened()
    assert service.verified_artifacts(killed) == {}
    job = service.finish(killed)

    assert job["status"] == "succeeded", job["error"]
    assert service.weights_digest(killed) == service.weights_digest(undisturbed)
    assert set(service.verified_artifacts(killed)) == set(service.verified_artifacts(undisturbed))

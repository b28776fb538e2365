"""A process that is killed between any two statements that matter costs nothing but time."""

import pytest

from core.system.fault_injection import POINTS
from tests.chaos.logs import (
    assert_each_attempt_has_its_turn,
    assert_it_went_on_from_its_checkpoint,
    assert_no_gap,
)

# The n-th passage of a job that trains a teacher (one checkpoint), then a student (two): the student's first
# checkpoint, where there is a choice. The probes of both trainings write one on this machine as well.
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
FIRST_CHECKPOINT = 46  # steps
ONLY_WITH_ONNX = {"onnx.written"}
ONLY_WHEN_RESUMING = {"store.fetched"}
AFTER_THE_END = {"success.committed"}


@pytest.mark.parametrize("point", sorted(POINTS.keys() - ONLY_WITH_ONNX - ONLY_WHEN_RESUMING))
def test_a_kill_costs_nothing(lab, calm, point):
    job = lab.submit()
    lab.live(point, nth=NTH.get(point, 1))
    assert lab.happened(), f"{point} was not passed"
    lab.assert_nothing_half(job)
    hit = lab.finish(job)

    assert hit["status"] == "succeeded", hit["error"]
    assert hit["attempt"] == (1 if point in AFTER_THE_END else 2)
    assert lab.student(job) == calm
    lab.assert_nothing_half(job)
    events = lab.events(job)
    assert_no_gap(events)
    assert_each_attempt_has_its_turn(events)
    assert_it_went_on_from_its_checkpoint(events)


def test_a_kill_while_a_checkpoint_is_brought_back_costs_nothing(lab, calm):
    job = lab.submit()
    lab.live("checkpoint.superseded", nth=2)
    lab.live("store.fetched")
    assert lab.happened()
    hit = lab.finish(job)

    assert (hit["status"], hit["attempt"]) == ("succeeded", 3), hit["error"]
    assert lab.student(job) == calm
    assert_it_went_on_from_its_checkpoint(lab.events(job))


def test_metrics_of_a_job_that_was_killed_have_no_gap_and_are_those_of_one_that_was_not(lab, calm):
    def losses(job):
        answer = lab.http.get(f"/v1/jobs/{job}/metrics", params={"name": "train/loss"}).json()
        return answer["series"][0]["points"]

    undisturbed, hit = lab.submit(), None
    lab.finish(undisturbed)
    hit = lab.submit(teacher_is_new=False)
    lab.live("checkpoint.superseded", nth=1)
    assert lab.happened()
    lab.finish(hit)

    assert [step for step, _ in losses(hit)] == list(range(1, 93))
    assert losses(hit) == losses(undisturbed)


@pytest.mark.slow
def test_a_kill_beside_an_onnx_file_costs_nothing(lab):
    calm = lab.submit(export=["safetensors", "onnx"])
    assert lab.finish(calm)["status"] == "succeeded"
    job = lab.submit(export=["safetensors", "onnx"])
    lab.live("onnx.written")
    assert lab.happened()
    assert lab.artifacts(job) == {}
    hit = lab.finish(job)

    assert hit["status"] == "succeeded", hit["error"]
    assert lab.student(job) == lab.student(calm)
    assert set(lab.artifacts(job)) == set(lab.artifacts(calm))

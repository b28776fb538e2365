"""Create, find, count and delete jobs."""

import threading
from datetime import timedelta

import pytest

from core.errors import InUse, InvalidRequest, InvalidSpec, InvalidState, NotFound
from core.ids import new_id
from core.store import datasets, events, jobs, models
from core.store.db import utc_now
from core.store.jobs import LeaseToken, NewArtifact, records
from core.store.models import ModelInfo
from core.store.tables import Checkpoint, Event, JobReference, Metric


@pytest.fixture
def finished(world):
    """Factory of succeeded jobs with a student model."""

    def finish():
        lease = world.start_job()
        stored = world.file(f"jobs/{lease.job_id}/a1/artifacts/model.safetensors")
        report = world.file(f"jobs/{lease.job_id}/a1/artifacts/report.json")
        info = ModelInfo(
            architecture="vit", arguments={}, num_classes=2, channels=1, image_size=8, parameters=1, size_bytes=4
        )

        def end(session):
            model = models.create_student(session, lease, name="s", info=info, files=[stored])
            new = [NewArtifact(file.name, "application/octet-stream", file) for file in (stored, report)]
            return jobs.succeed(session, lease, result={}, artifacts=new, model_id=model.id)

        return world.write(end)

    return finish


def test_new_job_is_queued(world):
    job_id = world.job(name="n", priority=3, metadata={"team": "search"})
    job = world.get(job_id)

    assert (job.status, job.attempt, job.stage, job.stages, job.error, job.result) == (
        "queued",
        0,
        None,
        [],
        None,
        None,
    )
    assert (job.name, job.priority, job.metadata_, job.pending_action) == ("n", 3, {"team": "search"}, None)
    (event,) = world.read(events.list_events, world.project, job_id).items
    assert (event.seq, event.type, event.data) == (1, "job.created", {"status": "queued"})


@pytest.mark.parametrize("job_id", ["job_nothing", "", "ds_01", "job_\x00", "job_01m85jzaqtgcah8cygag6s4yhy"])
def test_unknown_job_is_not_found(world, job_id):
    with pytest.raises(NotFound):
        world.get(job_id)


def test_job_of_another_project_is_not_found(world, other_project):
    job_id = world.job()

    with pytest.raises(NotFound):
        world.read(jobs.get, other_project, job_id)
    with pytest.raises(NotFound):
        world.read(jobs.list_artifacts, other_project, job_id)
    with pytest.raises(NotFound):
        world.write(jobs.delete, other_project, job_id)
    assert world.read(jobs.list_jobs, other_project).items == []


def test_pages_list_each_job_once_newest_first(world):
    job_ids = [world.job() for _ in range(5)]

    seen, after = [], None
    while True:
        page = world.read(jobs.list_jobs, world.project, limit=2, after=after)
        seen += [job.id for job in page.items]
        if not page.has_more:
            break
        after = seen[-1]
    assert seen == sorted(job_ids, reverse=True)


def test_cursor_must_be_a_job_id(world):
    with pytest.raises(InvalidRequest):
        world.read(jobs.list_jobs, world.project, after="ds_1")


# --- inputs ------------------------------------------------------------------------------


def test_job_requires_a_ready_dataset(world, other_project):
    foreign = world.ready_dataset(other_project)
    processing = world.write(datasets.create, world.project, name="d", source={}).id

    for dataset, detail in ((processing, "processing"), (foreign, "no dataset"), (new_id("ds"), "no dataset")):
        with pytest.raises(InvalidSpec) as caught:
            world.job(dataset=dataset)
        assert [(e.pointer, detail in e.detail) for e in caught.value.errors] == [("/dataset", True)]


def test_job_requires_its_models(world, finished):
    done, running = finished(), world.start_job()
    missing = new_id("mdl")
    spec = {
        "student": {"weights": done.model_id},
        "teachers": [{"weights": done.id}, {"weights": running.job_id}, {"weights": missing}],
    }

    with pytest.raises(InvalidSpec) as caught:
        world.job(spec=spec, references=[done.model_id, done.id, running.job_id, missing])

    assert {e.pointer: e.detail.split()[-3:] for e in caught.value.errors} == {
        "/teachers/1/weights": ["running,", "not", "succeeded"],
        "/teachers/2/weights": ["in", "this", "project"],
    }


def test_job_requires_the_datasets_of_its_method(world, other_project):
    foreign, own = world.ready_dataset(other_project), world.ready_dataset()
    processing = world.write(datasets.create, world.project, name="d", source={}).id

    for pool, detail in ((processing, "processing"), (foreign, "no ds_"), (new_id("ds"), "no ds_")):
        spec = {"student": {}, "method": {"name": "attention_probe", "pool": pool}}
        with pytest.raises(InvalidSpec) as caught:
            world.job(spec=spec, references=[pool])
        assert [(e.pointer, detail in e.detail) for e in caught.value.errors] == [("/method/pool", True)]

    reader = world.job(spec={"student": {}, "method": {"pool": own}}, references=[own])
    with pytest.raises(InUse) as refused:
        world.write(datasets.delete, world.project, own)
    assert refused.value.extra["jobs"] == [reader]


def test_inputs_of_an_unfinished_job_cannot_be_deleted(world, finished):
    done = finished()
    spec = {"student": {"weights": done.model_id}, "teachers": [{"weights": done.id}]}
    reader = world.job(spec=spec, references=[done.model_id, done.id])

    for delete, object_id in ((datasets.delete, world.dataset), (models.delete, done.model_id), (jobs.delete, done.id)):
        with pytest.raises(InUse) as caught:
            world.write(delete, world.project, object_id)
        assert caught.value.extra["jobs"] == [reader]

    world.write(jobs.cancel, world.project, reader)
    for delete, object_id in ((models.delete, done.model_id), (jobs.delete, done.id), (datasets.delete, world.dataset)):
        world.write(delete, world.project, object_id)
    assert world.get(reader).missing_input == done.model_id


def test_concurrent_retry_and_delete_do_not_both_succeed(world):
    """The second of the two transactions is refused."""
    for _ in range(5):
        dataset = world.ready_dataset()
        job_id = world.job(dataset=dataset)
        world.write(jobs.cancel, world.project, job_id)
        start, outcomes = threading.Barrier(2), []

        def act(function, *args, start=start, outcomes=outcomes):
            start.wait()
            try:
                world.write(function, *args)
                outcomes.append(function.__name__)
            except (InUse, InvalidState):
                pass

        threads = [
            threading.Thread(target=act, args=(jobs.retry, world.project, job_id)),
            threading.Thread(target=act, args=(datasets.delete, world.project, dataset)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(outcomes) == 1
        assert world.get(job_id).status == ("queued" if outcomes == ["retry"] else "cancelled")


# --- deletion ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["queued", "running", "paused"])
def test_unfinished_job_cannot_be_deleted(world, status):
    job_id = world.job()
    if status == "paused":
        world.write(jobs.pause, world.project, job_id)
    elif status == "running":
        world.claim()

    with pytest.raises(InvalidState, match="cancel it first"):
        world.write(jobs.delete, world.project, job_id)


def test_deleted_job_leaves_only_its_student(world, finished):
    done = finished()

    garbage = world.write(jobs.delete, world.project, done.id)

    assert garbage == [f"jobs/{done.id}/a1/artifacts/report.json"]
    with pytest.raises(NotFound):
        world.get(done.id)
    with world.db.read() as session:
        for table in (Event, Metric, Checkpoint, JobReference):
            assert session.query(table).filter_by(job_id=done.id).count() == 0
    assert world.read(models.get, world.project, done.model_id).status == "ready"


def test_delete_returns_checkpoint_files(world):
    lease = world.start_job()
    world.checkpoint(lease, 10)
    world.write(jobs.fail, lease, {"code": "x", "message": "x"})

    garbage = world.write(jobs.delete, world.project, lease.job_id)

    assert [key.rsplit("/", 1)[-1] for key in garbage] == ["model.safetensors", "state.pt"]


def test_unknown_artifact_lists_existing_ones(world, finished):
    done, waiting = finished(), world.job()

    with pytest.raises(NotFound, match=r"model\.safetensors, report\.json"):
        world.read(jobs.get_artifact, world.project, done.id, "model.onnx")
    with pytest.raises(NotFound, match="none until it has succeeded"):
        world.read(jobs.get_artifact, world.project, waiting, "model.onnx")
    assert (
        world.read(jobs.get_artifact, world.project, done.id, "report.json").attempt
        == LeaseToken.from_job(done).attempt
    )


def test_jobs_are_counted_by_status(world):
    world.start_job()
    world.write(jobs.cancel, world.project, world.job())
    world.job()

    assert world.read(records.jobs_by_status) == {
        "queued": 1,
        "running": 1,
        "paused": 0,
        "succeeded": 0,
        "failed": 0,
        "cancelled": 1,
    }


@pytest.fixture
def advance(world, monkeypatch):
    """Function that advances the clock of the store."""
    start, offset = world.read(utc_now), [0.0]

    def now(_session):
        return start + timedelta(seconds=offset[0])

    for module in (events, records):
        monkeypatch.setattr(module, "utc_now", now)

    def advance(seconds):
        offset[0] += seconds

    return advance


def running_seconds(world, job_id):
    return world.read(jobs.running_seconds, job_id)


def test_queued_job_has_no_running_time(world, advance):
    job_id = world.job()
    advance(5)

    assert running_seconds(world, job_id) == 0


def test_running_time_sums_attempts_without_waits_and_pauses(world, advance):
    lease = world.start_job()
    advance(10)
    world.write(jobs.pause, world.project, lease.job_id)
    world.write(jobs.release_paused, lease)
    advance(1000)
    world.write(jobs.resume, world.project, lease.job_id)
    advance(1000)
    lease = LeaseToken.from_job(world.claim())
    advance(7)
    assert running_seconds(world, lease.job_id) == 17  # including the current attempt

    world.write(jobs.release, lease)
    advance(1000)
    world.claim()
    advance(2)
    world.expire_leases()
    advance(1000)

    assert running_seconds(world, lease.job_id) == 19


def test_running_time_includes_attempts_before_a_retry(world, advance):
    lease = world.start_job()
    advance(30)
    world.write(jobs.fail, lease, {"code": "time_limit", "message": "over"})
    advance(1000)
    world.write(jobs.retry, world.project, lease.job_id)
    advance(1000)
    world.claim()
    advance(3)

    assert running_seconds(world, lease.job_id) == 33

"""Writes of the worker that holds the lease, and fencing of stale leases."""

import contextlib
import inspect
import math
import threading
from datetime import timedelta

import pytest

from core.job_failure import FailureCause
from core.job_warnings import JobWarning
from core.reporting import Progress
from core.spec.info import ModelInfo
from core.store import checkpoints, events, jobs, metrics, models, teachers
from core.store.jobs import Flags, LeaseLost, LeaseToken, NewArtifact

MODEL_INFO = ModelInfo(
    architecture="vit", arguments={"depth": 2}, num_classes=2, channels=1, image_size=8, parameters=9, size_bytes=36
)


def save_checkpoint(session, lease):
    from core.store.artifact_store import StoredFile

    files = [StoredFile(f"jobs/{lease.job_id}/stale/model.safetensors", 1, "0" * 64)]
    checkpoints.save(session, lease, track="distill", step=1, epoch=1, files=files)


# All store functions that take a lease.
LEASE_FUNCTIONS = {
    "jobs.get_leased": jobs.get_leased,
    "jobs.read_flags": jobs.read_flags,
    "jobs.renew_lease": lambda s, a: jobs.renew_lease(s, a, 60),
    "jobs.set_spec": lambda s, a: jobs.set_spec(s, a, {"stale": True}),
    "jobs.start_stage": lambda s, a: jobs.start_stage(s, a, "distill"),
    "jobs.finish_stage": lambda s, a: jobs.finish_stage(s, a, "distill"),
    "jobs.record_progress": lambda s, a: jobs.record_progress(s, a, Progress(0.5, 1, 2, 3)),
    "jobs.release": jobs.release,
    "jobs.release_paused": jobs.release_paused,
    "jobs.release_cancelled": jobs.release_cancelled,
    "jobs.add_warnings": lambda s, a: jobs.add_warnings(s, a, [JobWarning(code="stale", message="stale")]),
    "jobs.fail": lambda s, a: jobs.fail(s, a, {"code": "stale", "message": "stale"}),
    "jobs.record_loss": lambda s, a: jobs.record_loss(s, a, FailureCause("stale", "stale", "service"), 3),
    "jobs.succeed": lambda s, a: jobs.succeed(s, a, result={"stale": True}, artifacts=[]),
    "events.append": lambda s, a: events.append(s, a, "stale", "stale"),
    "metrics.insert": lambda s, a: metrics.insert(s, a, [("train/loss", 1, 1.0)]),
    "metrics.delete_after": lambda s, a: metrics.delete_after(s, a, 0),
    "checkpoints.save": save_checkpoint,
    "checkpoints.list_resumable": checkpoints.list_resumable,
    "checkpoints.discard": lambda s, a: checkpoints.discard(s, a, "ckpt_x"),
    "checkpoints.prune_checkpoints": checkpoints.prune_checkpoints,
    "teachers.save": lambda s, a: teachers.save(s, a, "fingerprint", []),
    "teachers.delete_damaged": lambda s, a: teachers.delete_damaged(s, a, "fingerprint"),
    "models.create_student": lambda s, a: models.create_student(s, a, name="n", info=MODEL_INFO, files=[]),
}


def make_stale(world, lease, cause):
    """Make a lease stale, in each possible way."""
    match cause:
        case "lost, queued":
            world.expire_leases()
        case "lost, claimed by another":
            world.expire_leases()
            world.claim("other")
        case "lost, failed":
            world.expire_leases(max_worker_losses=1)
        case "paused":
            world.write(jobs.pause, world.project, lease.job_id)
            world.write(jobs.release_paused, lease)
        case "cancelled":
            world.write(jobs.cancel, world.project, lease.job_id)
            world.write(jobs.release_cancelled, lease)
        case "succeeded":
            world.write(jobs.succeed, lease, result={}, artifacts=[])


@pytest.mark.parametrize(
    "cause", ["lost, queued", "lost, claimed by another", "lost, failed", "paused", "cancelled", "succeeded"]
)
def test_stale_lease_cannot_write(world, cause):
    lease = world.start_job()
    world.write(metrics.insert, lease, [("train/loss", 1, 1.0), ("train/loss", 2, 1.0)])
    world.checkpoint(lease, 5)
    world.write(teachers.save, lease, "fingerprint", [world.file()])
    make_stale(world, lease, cause)
    before = world.rows()

    refused = []
    for name, function in LEASE_FUNCTIONS.items():
        with contextlib.suppress(LeaseLost):
            world.write(function, lease)
            continue
        refused.append(name)

    assert refused == list(LEASE_FUNCTIONS)
    assert world.rows() == before


def test_fencing_test_covers_every_function_with_a_lease():
    lease_functions = {
        f"{module.__name__.rsplit('.', 1)[-1]}.{name}"
        for module in (jobs, events, metrics, checkpoints, teachers, models)
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if not name.startswith("_")
        and function.__module__.startswith(module.__name__)
        and inspect.get_annotations(function).get("lease") == "LeaseToken"
    }

    assert lease_functions == set(LEASE_FUNCTIONS)


def test_open_transaction_finishes_before_the_lease_expires(world):
    """PostgreSQL locks the row, SQLite the database, so no loss is recorded in between."""
    lease = world.start_job()
    with world.db.write() as session:
        events.append(session, lease, "note", "first")
        scheduler = threading.Thread(target=world.expire_leases)
        scheduler.start()
        scheduler.join(0.05)
        events.append(session, lease, "note", "second")
    scheduler.join()
    if world.get(lease.job_id).status == "running":  # the scheduler skipped the locked row
        world.expire_leases()

    log = world.read(events.list_events, world.project, lease.job_id).items
    assert [event.type for event in log][-3:] == ["note", "note", "worker.lost"]


def test_flags_show_requested_actions(world):
    lease = world.start_job()
    assert world.read(jobs.read_flags, lease) == Flags(cancel=False, pause=False, stop=False)

    world.write(jobs.stop, world.project, lease.job_id)
    world.write(jobs.pause, world.project, lease.job_id)

    assert world.read(jobs.read_flags, lease) == Flags(cancel=False, pause=True, stop=True)
    assert world.write(jobs.renew_lease, lease, 60) == Flags(cancel=False, pause=True, stop=True)


def test_resolved_spec_is_stored(world):
    lease = world.start_job()

    job = world.write(jobs.set_spec, lease, {"training": {"epochs": 3}}, total_steps=30)

    assert (job.spec, job.resolved, job.progress["total_steps"]) == ({"training": {"epochs": 3}}, True, 30)


# --- stages -------------------------------------------------------------------------------------


@pytest.fixture
def clock(world, monkeypatch):
    """Clock of the stages that only the test advances."""
    from core.store.db import utc_now
    from core.store.jobs import attempts

    class Clock:
        offset = timedelta()

        def advance(self, seconds):
            self.offset += timedelta(seconds=seconds)

    clock, start = Clock(), world.read(utc_now)
    monkeypatch.setattr(attempts, "utc_now", lambda _session: start + clock.offset)
    return clock


def test_stage_records_its_times(world, clock):
    lease = world.start_job()
    world.write(jobs.start_stage, lease, "prepare")
    clock.advance(2)
    world.write(jobs.finish_stage, lease, "prepare")
    job = world.write(jobs.start_stage, lease, "distill")

    assert job.stage == "distill"
    first, second = job.stages
    assert (first["name"], first["seconds"], first["started_at"] < first["finished_at"]) == ("prepare", 2.0, True)
    assert (second["name"], second["seconds"], second["finished_at"]) == ("distill", None, None)


def test_stage_seconds_sum_all_attempts_without_pauses(world, clock):
    lease = world.start_job()
    world.write(jobs.start_stage, lease, "distill")
    clock.advance(3)
    world.write(jobs.release, lease)
    clock.advance(1000)
    lease = LeaseToken.from_job(world.claim())
    world.write(jobs.start_stage, lease, "distill")
    clock.advance(4)

    (stage,) = world.write(jobs.finish_stage, lease, "distill").stages

    assert stage["seconds"] == 7.0


def test_restarted_stage_is_open(world):
    lease = world.start_job()
    world.write(jobs.start_stage, lease, "prepare")
    world.write(jobs.finish_stage, lease, "prepare")

    job = world.write(jobs.start_stage, lease, "prepare")

    assert [(s["name"], s["finished_at"]) for s in job.stages] == [("prepare", None)]


# --- progress -----------------------------------------------------------------------------------


def test_new_job_has_progress(world):
    progress = world.get(world.job(total_steps=300)).progress

    assert (progress["fraction"], progress["step"], progress["total_steps"], progress["epoch"]) == (0.0, 0, 300, 0)
    assert {"images_per_second", "eta_seconds"} <= set(progress)


def test_progress_never_falls_below_the_newest_checkpoint(world):
    lease = world.start_job()
    world.write(jobs.record_progress, lease, Progress(0.4, step=48, total_steps=100, epoch=4))
    world.checkpoint(lease, 40)
    assert world.get(lease.job_id).progress["step"] == 48
    world.checkpoint(lease, 50)
    assert world.get(lease.job_id).progress["step"] == 50

    world.expire_leases()
    again = LeaseToken.from_job(world.claim())
    job = world.write(jobs.record_progress, again, Progress(0.01, step=0, total_steps=100, epoch=0))

    assert (job.progress["step"], job.progress["epoch"], job.progress["fraction"]) == (50, 5, 0.4)
    assert world.write(jobs.record_progress, again, Progress(0.51, 51, 100, 5)).progress["step"] == 51


def test_a_new_stage_has_no_steps_of_the_stage_before(world):
    lease = world.start_job()
    world.write(jobs.start_stage, lease, "teacher")
    world.write(jobs.record_progress, lease, Progress(0.4, 0, 100, 0, stage_step=32, stage_total_steps=32))

    progress = world.write(jobs.start_stage, lease, "distill").progress

    assert (progress["fraction"], progress["stage_step"], progress["stage_total_steps"]) == (0.4, None, None)


def test_fraction_is_clamped_to_one(world):
    lease = world.start_job()

    job = world.write(jobs.record_progress, lease, Progress(1.0000001, step=1, total_steps=1, epoch=1))

    assert job.progress["fraction"] == 1.0


# --- the end ------------------------------------------------------------------------------------


def test_success_adds_artifacts_and_student(world):
    lease = world.start_job()
    stored = world.file(f"jobs/{lease.job_id}/a1/artifacts/model.safetensors")

    def finish(session):
        model = models.create_student(session, lease, name="s", info=MODEL_INFO, files=[stored])
        new = [NewArtifact("model.safetensors", "application/octet-stream", stored)]
        return jobs.succeed(session, lease, result={"agreement": 0.9}, artifacts=new, model_id=model.id)

    job = world.write(finish)

    assert (job.status, job.is_terminal, job.progress["fraction"]) == ("succeeded", True, 1.0)
    assert job.result == {"model": job.model_id, "agreement": 0.9}
    student = world.read(models.get, world.project, job.model_id)
    assert (student.status, student.job_id, models.model_info(student)) == ("ready", job.id, MODEL_INFO)
    (artifact,) = world.read(jobs.list_artifacts, world.project, job.id)
    assert (artifact.name, artifact.key, artifact.sha256) == ("model.safetensors", stored.key, stored.sha256)
    assert world.read(events.list_events, world.project, job.id).items[-1].type in events.TERMINAL_TYPES


def test_success_deletes_files_for_resuming(world):
    lease = world.start_job()
    world.checkpoint(lease, 10, track="teacher-0")
    world.checkpoint(lease, 10)
    world.write(jobs.succeed, lease, result={}, artifacts=[])

    (saved,) = world.read(checkpoints.list_checkpoints, world.project, lease.job_id).items
    assert (saved.resumable, [f["key"].rsplit("/", 1)[-1] for f in saved.files]) == (False, ["model.safetensors"])


def test_failure_records_its_error(world):
    lease = world.start_job()

    job = world.write(jobs.fail, lease, {"code": "non_finite_loss", "message": "kd became NaN"})

    assert (job.status, job.error) == ("failed", {"code": "non_finite_loss", "message": "kd became NaN"})
    last = world.read(events.list_events, world.project, job.id).items[-1]
    assert (last.type, last.level, last.message) == ("job.failed", "error", "kd became NaN")


def test_retried_job_resumes_from_its_last_checkpoint(world):
    lease = world.start_job()
    saved = world.checkpoint(lease, 10).checkpoint
    world.write(jobs.fail, lease, {"code": "x", "message": "x"})
    world.write(jobs.retry, world.project, lease.job_id)

    again = LeaseToken.from_job(world.claim())

    assert [checkpoint.id for checkpoint in world.read(checkpoints.list_resumable, again)] == [saved.id]
    assert math.isclose(world.get(lease.job_id).progress["step"], 10)

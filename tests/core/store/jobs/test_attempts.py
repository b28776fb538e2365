"""What the worker that holds a job may do, and that nobody else may."""

import contextlib
import inspect
import math
import threading
from datetime import timedelta

import pytest

from core.job_failure import FailureCause
from core.reporting import Progress
from core.spec.info import ModelInfo
from core.store import checkpoints, events, jobs, metrics, models, teachers
from core.store.jobs import Flags, LeaseLost, LeaseToken, NewArtifact

FACTS = ModelInfo(
    architecture="vit", arguments={"depth": 2}, num_classes=2, channels=1, image_size=8, parameters=9, size_bytes=36
)


def save_checkpoint(session, lease):
    from core.store.artifact_store import StoredFile

    files = [StoredFile(f"jobs/{lease.job_id}/stale/model.safetensors", 1, "0" * 64)]
    checkpoints.save(session, lease, track="distill", step=1, epoch=1, files=files)


# Everything that a worker can write or ask with its token.
WORKER_SIDE = {
    "jobs.current": jobs.get_leased,
    "jobs.flags": jobs.read_flags,
    "jobs.beat": lambda s, a: jobs.renew_lease(s, a, 60),
    "jobs.set_spec": lambda s, a: jobs.set_spec(s, a, {"stale": True}),
    "jobs.start_stage": lambda s, a: jobs.start_stage(s, a, "distill"),
    "jobs.finish_stage": lambda s, a: jobs.finish_stage(s, a, "distill"),
    "jobs.record_progress": lambda s, a: jobs.record_progress(s, a, Progress(0.5, 1, 2, 3)),
    "jobs.hand_back": jobs.release,
    "jobs.paused": jobs.release_paused,
    "jobs.cancelled": jobs.release_cancelled,
    "jobs.fail": lambda s, a: jobs.fail(s, a, {"code": "stale", "message": "stale"}),
    "jobs.lose": lambda s, a: jobs.record_loss(s, a, FailureCause("stale", "stale", "service"), 3),
    "jobs.succeed": lambda s, a: jobs.succeed(s, a, result={"stale": True}, artifacts=[]),
    "events.append": lambda s, a: events.append(s, a, "stale", "stale"),
    "metrics.insert": lambda s, a: metrics.insert(s, a, [("train/loss", 1, 1.0)]),
    "metrics.drop_after": lambda s, a: metrics.delete_after(s, a, 0),
    "checkpoints.save": save_checkpoint,
    "checkpoints.newest": checkpoints.list_resumable,
    "checkpoints.discard": lambda s, a: checkpoints.discard(s, a, "ckpt_x"),
    "checkpoints.retire": checkpoints.prune_checkpoints,
    "teachers.keep": lambda s, a: teachers.save(s, a, "recipe", []),
    "teachers.forget": lambda s, a: teachers.delete_damaged(s, a, "recipe"),
    "models.create_student": lambda s, a: models.create_student(s, a, name="n", info=FACTS, files=[]),
}


def make_stale(world, lease, how):
    """Take the job away from an attempt, in every way that there is."""
    match how:
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
    "how", ["lost, queued", "lost, claimed by another", "lost, failed", "paused", "cancelled", "succeeded"]
)
def test_a_stale_attempt_can_write_nothing(world, how):
    lease = world.start_job()
    world.write(metrics.insert, lease, [("train/loss", 1, 1.0), ("train/loss", 2, 1.0)])
    world.checkpoint(lease, 5)
    world.write(teachers.save, lease, "recipe", [world.file()])
    make_stale(world, lease, how)
    before = world.rows()

    refused = []
    for name, function in WORKER_SIDE.items():
        with contextlib.suppress(LeaseLost):
            world.write(function, lease)
            continue
        refused.append(name)

    assert refused == list(WORKER_SIDE)
    assert world.rows() == before


def test_no_function_of_a_worker_is_left_out_of_the_fencing_test():
    taking_a_token = {
        f"{module.__name__.rsplit('.', 1)[-1]}.{name}"
        for module in (jobs, events, metrics, checkpoints, teachers, models)
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if not name.startswith("_")
        and function.__module__.startswith(module.__name__)
        and "lease" in inspect.signature(function).parameters
    }

    assert taking_a_token == set(WORKER_SIDE)


def test_a_write_that_is_under_way_finishes_before_the_job_is_taken_back(world):
    """On PostgreSQL the row is locked, on SQLite the database: nothing falls between the two."""
    lease = world.start_job()
    with world.db.write() as session:
        events.append(session, lease, "note", "under way")
        thief = threading.Thread(target=world.expire_leases)
        thief.start()
        thief.join(0.05)
        events.append(session, lease, "note", "still mine")
    thief.join()
    if world.get(lease.job_id).status == "running":  # the thief passed over the locked row
        world.expire_leases()

    log = world.read(events.list_events, world.project, lease.job_id).items
    assert [event.type for event in log][-3:] == ["note", "note", "worker.lost"]


def test_flags_say_what_was_asked(world):
    lease = world.start_job()
    assert world.read(jobs.read_flags, lease) == Flags(cancel=False, pause=False, stop=False)

    world.write(jobs.stop, world.project, lease.job_id)
    world.write(jobs.pause, world.project, lease.job_id)

    assert world.read(jobs.read_flags, lease) == Flags(cancel=False, pause=True, stop=True)
    assert world.write(jobs.renew_lease, lease, 60) == Flags(cancel=False, pause=True, stop=True)


def test_the_resolved_spec_is_kept(world):
    lease = world.start_job()

    job = world.write(jobs.set_spec, lease, {"training": {"epochs": 3}}, total_steps=30)

    assert (job.spec, job.resolved, job.progress["total_steps"]) == ({"training": {"epochs": 3}}, True, 30)


# --- stages -------------------------------------------------------------------------------------


@pytest.fixture
def clock(world, monkeypatch):
    """A clock for the stages that moves only when it is told to."""
    from core.store.db import utc_now
    from core.store.jobs import attempts

    class Clock:
        ahead = timedelta()

        def forward(self, seconds):
            self.ahead += timedelta(seconds=seconds)

    clock, start = Clock(), world.read(utc_now)
    monkeypatch.setattr(attempts, "utc_now", lambda _session: start + clock.ahead)
    return clock


def test_a_stage_has_its_times(world, clock):
    lease = world.start_job()
    world.write(jobs.start_stage, lease, "prepare")
    clock.forward(2)
    world.write(jobs.finish_stage, lease, "prepare")
    job = world.write(jobs.start_stage, lease, "distill")

    assert job.stage == "distill"
    first, second = job.stages
    assert (first["name"], first["seconds"], first["started_at"] < first["finished_at"]) == ("prepare", 2.0, True)
    assert (second["name"], second["seconds"], second["finished_at"]) == ("distill", None, None)


def test_a_stages_time_counts_the_work_of_all_attempts_without_the_pause(world, clock):
    lease = world.start_job()
    world.write(jobs.start_stage, lease, "distill")
    clock.forward(3)
    world.write(jobs.release, lease)
    clock.forward(1000)
    lease = LeaseToken.from_job(world.claim())
    world.write(jobs.start_stage, lease, "distill")
    clock.forward(4)

    (stage,) = world.write(jobs.finish_stage, lease, "distill").stages

    assert stage["seconds"] == 7.0


def test_a_stage_that_is_entered_again_is_open_again(world):
    lease = world.start_job()
    world.write(jobs.start_stage, lease, "prepare")
    world.write(jobs.finish_stage, lease, "prepare")

    job = world.write(jobs.start_stage, lease, "prepare")

    assert [(s["name"], s["finished_at"]) for s in job.stages] == [("prepare", None)]


# --- progress -----------------------------------------------------------------------------------


def test_progress_is_an_object_from_the_start(world):
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


def test_a_fraction_is_one(world):
    lease = world.start_job()

    job = world.write(jobs.record_progress, lease, Progress(1.0000001, step=1, total_steps=1, epoch=1))

    assert job.progress["fraction"] == 1.0


# --- the end ------------------------------------------------------------------------------------


def test_a_success_names_its_files_and_its_student(world):
    lease = world.start_job()
    stored = world.file(f"jobs/{lease.job_id}/a1/artifacts/model.safetensors")

    def finish(session):
        model = models.create_student(session, lease, name="s", info=FACTS, files=[stored])
        new = [NewArtifact("model.safetensors", "application/octet-stream", stored)]
        return jobs.succeed(session, lease, result={"agreement": 0.9}, artifacts=new, model_id=model.id)

    job = world.write(finish)

    assert (job.status, job.is_terminal, job.progress["fraction"]) == ("succeeded", True, 1.0)
    assert job.result == {"model": job.model_id, "agreement": 0.9}
    student = world.read(models.get, world.project, job.model_id)
    assert (student.status, student.job_id, models.model_info(student)) == ("ready", job.id, FACTS)
    (artifact,) = world.read(jobs.list_artifacts, world.project, job.id)
    assert (artifact.name, artifact.key, artifact.sha256) == ("model.safetensors", stored.key, stored.sha256)
    assert world.read(events.list_events, world.project, job.id).items[-1].type in events.TERMINAL_TYPES


def test_a_success_drops_what_only_resuming_needed(world):
    lease = world.start_job()
    world.checkpoint(lease, 10, track="teacher-0")
    world.checkpoint(lease, 10)
    world.write(jobs.succeed, lease, result={}, artifacts=[])

    (kept,) = world.read(checkpoints.list_checkpoints, world.project, lease.job_id).items
    assert (kept.resumable, [f["key"].rsplit("/", 1)[-1] for f in kept.files]) == (False, ["model.safetensors"])


def test_a_failure_says_why(world):
    lease = world.start_job()

    job = world.write(jobs.fail, lease, {"code": "non_finite_loss", "message": "kd became NaN"})

    assert (job.status, job.error) == ("failed", {"code": "non_finite_loss", "message": "kd became NaN"})
    last = world.read(events.list_events, world.project, job.id).items[-1]
    assert (last.type, last.level, last.message) == ("job.failed", "error", "kd became NaN")


def test_a_failed_job_goes_on_from_its_last_checkpoint(world):
    lease = world.start_job()
    saved = world.checkpoint(lease, 10).checkpoint
    world.write(jobs.fail, lease, {"code": "x", "message": "x"})
    world.write(jobs.retry, world.project, lease.job_id)

    again = LeaseToken.from_job(world.claim())

    assert [one.id for one in world.read(checkpoints.list_resumable, again)] == [saved.id]
    assert math.isclose(world.get(lease.job_id).progress["step"], 10)

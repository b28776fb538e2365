"""What the engine tells is written down under its attempt, and survives it."""

import threading

import pytest

from core.errors import StorageFailed
from core.reporting import Control, Interrupted, Progress, SavedCheckpoint, Stage
from core.store import checkpoints, events, jobs, metrics, teachers
from core.store.db import Database, DatabaseUnavailable
from core.store.job_leases import LeaseLost
from worker.jobs.reporter import JobReporter


@pytest.fixture
def job(service):
    return service.claimed()


@pytest.fixture
def asked():
    return [Control.GO]


@pytest.fixture
def reporter(service, job, tmp_path, asked):
    return JobReporter(service.context, job, tmp_path / "scratch", lambda: asked[0])


def again(service, tmp_path):
    """The next attempt at the same job, as another worker makes it."""
    job = service.do(jobs.claim, worker_id="wrk_next", accelerator="cpu", lease_seconds=20)
    return job, JobReporter(service.context, job, tmp_path / "scratch", lambda: Control.GO)


def saved(tmp_path, step, *, track="distill", keep=False, content=b"state"):
    folder = tmp_path / f"{track}-{step}"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights %d" % step)
    (folder / "state.pt").write_bytes(content)
    return SavedCheckpoint(folder, track, step, step // 10, {"loss": 1.0}, keep)


def series(service, job):
    found = service.ask(metrics.read_series, service.project, job.id)
    return {one.name: list(one.points) for one in found}


def test_metrics_and_progress_are_there_after_a_flush(service, job, reporter):
    for step in range(5):
        reporter.metrics(step, {"train/loss": 1.0 / (step + 1)})
    reporter.progress(Progress(fraction=0.5, step=4, total_steps=100, epoch=1))
    reporter.flush()

    assert [step for step, _ in series(service, job)["train/loss"]] == [0, 1, 2, 3, 4]
    assert service.see(job).progress["step"] == 4


def test_the_training_does_not_wait_for_the_database(service, job, reporter, monkeypatch):
    free, arrived = threading.Event(), threading.Event()
    insert = metrics.insert

    def slowly(*args):
        arrived.set()
        assert free.wait(30)
        insert(*args)

    monkeypatch.setattr(metrics, "insert", slowly)
    monkeypatch.setattr("worker.jobs.reporter.FLUSH_SECONDS", 0.0)
    for step in range(5):
        reporter.metrics(step, {"train/loss": 1.0})  # the first is being written, the others are gathered
    assert arrived.wait(30)
    free.set()
    reporter.flush()

    assert [step for step, _ in series(service, job)["train/loss"]] == [0, 1, 2, 3, 4]


def test_what_is_written_beside_comes_before_what_is_written_at_once(service, job, reporter, monkeypatch):
    monkeypatch.setattr("worker.jobs.reporter.FLUSH_SECONDS", 0.0)
    reporter.metrics(1, {"train/loss": 1.0})
    reporter.event("preflight.passed", "It fits.")

    assert series(service, job)["train/loss"] == [(1, 1.0)]


def test_a_lease_that_is_lost_while_writing_beside_is_told(service, job, reporter, tmp_path, monkeypatch):
    reporter.metrics(1, {"train/loss": 2.0})
    service.do(jobs.release, jobs.LeaseToken.from_job(job))
    again(service, tmp_path)
    monkeypatch.setattr("worker.jobs.reporter.FLUSH_SECONDS", 0.0)

    reporter.metrics(2, {"train/loss": 1.0})
    with pytest.raises(LeaseLost):
        reporter.flush()


def test_stages_and_events_are_written_at_once(service, job, reporter):
    reporter.stage_started(Stage.PREPARE)
    reporter.event("preflight.passed", "It fits.", data={"bytes": 3})
    reporter.stage_finished(Stage.PREPARE)

    types = [event.type for event in service.ask(events.list_events, service.project, job.id).items]
    assert types[-3:] == ["stage.started", "preflight.passed", "stage.finished"]
    assert service.see(job).stages[0]["seconds"] is not None


@pytest.mark.parametrize("control", [Control.CANCEL, Control.PAUSE, Control.DRAIN])
def test_no_stage_begins_for_a_job_that_is_to_leave(reporter, asked, control):
    asked[0] = control

    with pytest.raises(Interrupted) as interrupted:
        reporter.stage_started(Stage.EXPORT)
    assert interrupted.value.control is control


def test_a_stop_lets_the_next_stages_begin(reporter, asked):
    asked[0] = Control.STOP
    reporter.stage_started(Stage.EVALUATE)


def test_the_next_attempt_finds_the_newest_checkpoint(service, job, reporter, tmp_path):
    for step in (10, 20, 30):
        reporter.save_checkpoint(saved(tmp_path, step))
    service.do(jobs.release, jobs.LeaseToken.from_job(job))
    _, next_reporter = again(service, tmp_path)
    folder = next_reporter.newest_checkpoint("distill")

    assert (folder / "model.safetensors").read_bytes() == b"weights 30"
    assert (folder / "state.pt").read_bytes() == b"state"
    assert next_reporter.newest_checkpoint("teacher-0") is None


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(service, job, reporter, tmp_path, store):
    for step in (10, 20):
        reporter.save_checkpoint(saved(tmp_path, step))
    newest = service.do(checkpoints.list_resumable, jobs.LeaseToken.from_job(job))[0]
    store.local_path(newest.files[0]["key"]).write_bytes(b"bit rot")
    service.do(jobs.release, jobs.LeaseToken.from_job(job))
    folder = again(service, tmp_path)[1].newest_checkpoint("distill")

    assert (folder / "model.safetensors").read_bytes() == b"weights 10"
    listed = service.ask(checkpoints.list_checkpoints, service.project, job.id).items
    assert [one.step for one in listed] == [10]


def test_files_of_checkpoints_that_are_not_kept_go_away(service, reporter, tmp_path, store):
    for step in (10, 20, 30, 40):
        reporter.save_checkpoint(saved(tmp_path, step, keep=step == 10))

    names = sorted(listed.key.rsplit("/", 1)[-1] for listed in store.list_prefix("jobs"))
    assert names == ["model.safetensors"] * 3 + ["state.pt"] * 2


def test_what_was_measured_after_the_checkpoint_comes_again(service, job, reporter, tmp_path):
    reporter.save_checkpoint(saved(tmp_path, 3))
    for step in range(6):
        reporter.metrics(step, {"train/loss": 1.0, "teacher/0/loss": 2.0})
    reporter.flush()
    service.do(jobs.release, jobs.LeaseToken.from_job(job))
    again(service, tmp_path)[1].newest_checkpoint("distill")

    assert [step for step, _ in series(service, job)["train/loss"]] == [0, 1, 2, 3]
    assert [step for step, _ in series(service, job)["teacher/0/loss"]] == [0, 1, 2, 3, 4, 5]


def test_a_worker_without_its_lease_can_write_nothing(service, job, reporter, tmp_path):
    service.do(jobs.release, jobs.LeaseToken.from_job(job))
    again(service, tmp_path)
    reporter.metrics(1, {"eval/top1": 1.0})

    for write in (
        reporter.flush,
        lambda: reporter.event("late", "Too late."),
        lambda: reporter.save_checkpoint(saved(tmp_path, 10)),
        lambda: reporter.save_teacher("recipe", saved(tmp_path, 11).folder),
    ):
        with pytest.raises(LeaseLost):
            write()
    assert service.see(job).attempt == 2
    assert series(service, job) == {}


def test_a_kept_teacher_is_found_by_its_recipe(service, job, reporter, tmp_path):
    assert reporter.find_teacher("recipe") is None
    reporter.save_teacher("recipe", saved(tmp_path, 1).folder)
    found = reporter.find_teacher("recipe")

    assert (found / "model.safetensors").read_bytes() == b"weights 1"
    assert service.ask(teachers.exists, service.project, "recipe")


def test_a_damaged_teacher_is_not_used(service, reporter, tmp_path, store):
    reporter.save_teacher("recipe", saved(tmp_path, 1).folder)
    for listed in store.list_prefix("teachers"):
        store.local_path(listed.key).write_bytes(b"bit rot")

    assert reporter.find_teacher("recipe") is None


def test_followers_are_woken(service, job, reporter):
    with service.context.broker._redis.pubsub(ignore_subscribe_messages=True) as following:
        following.subscribe(f"potstill:job:{job.id}")
        following.get_message(timeout=1)
        reporter.event("preflight.passed", "It fits.")

        assert following.get_message(timeout=2) is not None


def test_the_students_first_step_is_told_once_and_at_once(service, job, reporter):
    reporter.metrics(0, {"teacher/0/top1": 0.5})
    reporter.metrics(1, {"train/loss": 1.0})
    reporter.metrics(2, {"train/loss": 0.5})

    types = [event.type for event in service.ask(events.list_events, service.project, job.id).items]
    assert types.count("training.started") == 1


class Outage:
    """The database of a process, which is away between ``begin`` and ``end``."""

    def __init__(self, database: Database, monkeypatch) -> None:
        self.away = False
        self.asked = threading.Event()
        write = database.write

        def refused_while_away():
            if self.away:
                self.asked.set()
                raise DatabaseUnavailable("away")
            return write()

        monkeypatch.setattr(database, "write", refused_while_away)


@pytest.fixture
def outage(service, monkeypatch):
    return Outage(service.context.database, monkeypatch)


def test_the_training_goes_on_while_the_database_is_away_and_everything_is_there_afterwards(
    service, job, reporter, tmp_path, monkeypatch, outage, database
):
    monkeypatch.setattr("worker.jobs.reporter.FLUSH_SECONDS", 0.0)
    reporter.metrics(1, {"train/loss": 1.0})
    outage.away = True
    for step in range(2, 40):
        reporter.metrics(step, {"train/loss": 1.0 / step})
        if step % 10 == 0:
            reporter.save_checkpoint(saved(tmp_path, step))
    assert outage.asked.is_set()
    with database.read() as session:
        assert checkpoints.list_checkpoints(session, service.project, job.id).items == []
    outage.away = False
    reporter.flush()

    assert [step for step, _ in series(service, job)["train/loss"]] == list(range(1, 40))
    listed = service.ask(checkpoints.list_checkpoints, service.project, job.id).items
    assert [one.step for one in listed] == [30, 20]
    told = [event.data.get("step") for event in service.ask(events.list_events, service.project, job.id).items]
    assert told[-3:] == [10, 20, 30]


def test_only_so_many_checkpoints_wait_for_the_database(service, job, reporter, tmp_path, monkeypatch, outage):
    monkeypatch.setattr("worker.jobs.reporter.MAX_UNRECORDED", 2)
    outage.away = True
    reporter.save_checkpoint(saved(tmp_path, 10))
    threading.Timer(1.0, lambda: setattr(outage, "away", False)).start()
    for step in (20, 30, 40):
        reporter.save_checkpoint(saved(tmp_path, step))  # waits until the database is back

    assert outage.away is False


def test_a_database_that_stays_away_ends_the_attempt(service, job, reporter, monkeypatch, outage):
    settings = service.context.settings.model_copy(update={"outage_seconds": 0.3})
    monkeypatch.setattr(service.context, "settings", settings)
    outage.away = True

    with pytest.raises(DatabaseUnavailable):
        reporter.event("preflight.passed", "It fits.")


def test_a_full_disk_is_no_damage_so_the_checkpoint_stays_listed(service, job, reporter, tmp_path, monkeypatch):
    reporter.save_checkpoint(saved(tmp_path, 10))
    service.do(jobs.release, jobs.LeaseToken.from_job(job))
    _, second = again(service, tmp_path)

    def full(*_args, **_options):
        raise StorageFailed("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(service.context.store, "fetch", full)
        with pytest.raises(StorageFailed, match="full"):
            second.newest_checkpoint("distill")

    assert second.newest_checkpoint("distill") is not None

"""The reporter writes the engine's progress under the lease of its attempt; the next attempt reads it."""

import threading

import pytest

from core.errors import StorageFailed
from core.job_warnings import JobWarning
from core.reporting import Control, Interrupted, Progress, SavedCheckpoint, Stage
from core.store import checkpoints, events, jobs, metrics, teachers
from core.store.db import Database, DatabaseUnavailable
from core.store.job_leases import LeaseLost, LeaseToken
from worker.jobs import reporter as reporter_module
from worker.jobs.reporter import JobReporter


@pytest.fixture
def job(service):
    return service.claim_job()


@pytest.fixture
def requested():
    return [Control.GO]


@pytest.fixture
def reporter(service, job, tmp_path, requested):
    return JobReporter(service.context, job, tmp_path / "scratch", lambda: requested[0])


def next_attempt(service, tmp_path):
    """Claim the job as another worker; return the job and the reporter of the new attempt."""
    job = service.write(jobs.claim, worker_id="wrk_next", accelerator="cpu", lease_seconds=20)
    return job, JobReporter(service.context, job, tmp_path / "scratch", lambda: Control.GO)


def make_checkpoint(tmp_path, step, *, track="distill", keep=False, content=b"state"):
    folder = tmp_path / f"{track}-{step}"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights %d" % step)
    (folder / "state.pt").write_bytes(content)
    return SavedCheckpoint(folder, track, step, step // 10, {"loss": 1.0}, keep)


def read_series(service, job):
    all_series = service.read(metrics.read_series, service.project, job.id)
    return {series.name: list(series.points) for series in all_series}


def test_a_flush_writes_metrics_and_progress(service, job, reporter):
    for step in range(5):
        reporter.metrics(step, {"train/loss": 1.0 / (step + 1)})
    reporter.progress(Progress(fraction=0.5, step=4, total_steps=100, epoch=1))
    reporter.flush()

    assert [step for step, _ in read_series(service, job)["train/loss"]] == [0, 1, 2, 3, 4]
    assert service.reload(job).progress["step"] == 4


def test_warnings_of_all_attempts_are_in_one_list(service, job, reporter, tmp_path):
    first = JobWarning(code="teacher_at_chance", field="/teachers/0", message="top-1 is 0.10")
    second = JobWarning(code="student_at_chance", message="top-1 is 0.11")
    reporter.warning(first)
    service.write(jobs.release, LeaseToken.from_job(job))
    _, next_reporter = next_attempt(service, tmp_path)
    next_reporter.warning(first)
    next_reporter.warning(second)

    assert next_reporter.warnings() == [first, second]
    with pytest.raises(LeaseLost):
        reporter.warning(second)


def test_the_first_step_is_visible_without_a_flush(service, job, reporter):
    def progress(step):
        return Progress(0.1, step, 100, 0, stage_step=step, stage_total_steps=100)

    reporter.progress(progress(0))
    reporter.progress(progress(1))
    reporter.progress(progress(2))
    reporter._background.wait()

    assert service.reload(job).progress["step"] == 1


def test_the_training_does_not_wait_for_the_database(service, job, reporter, monkeypatch):
    proceed, is_writing = threading.Event(), threading.Event()
    insert = metrics.insert

    def insert_slowly(*args):
        is_writing.set()
        assert proceed.wait(30)
        insert(*args)

    monkeypatch.setattr(metrics, "insert", insert_slowly)
    monkeypatch.setattr(reporter_module, "FLUSH_SECONDS", 0.0)
    for step in range(5):
        reporter.metrics(step, {"train/loss": 1.0})  # the first is being written, the others are buffered
    assert is_writing.wait(30)
    proceed.set()
    reporter.flush()

    assert [step for step, _ in read_series(service, job)["train/loss"]] == [0, 1, 2, 3, 4]


def test_buffered_metrics_are_written_before_an_event(service, job, reporter, monkeypatch):
    monkeypatch.setattr(reporter_module, "FLUSH_SECONDS", 0.0)
    reporter.metrics(1, {"train/loss": 1.0})
    reporter.event("preflight.passed", "It fits.")

    assert read_series(service, job)["train/loss"] == [(1, 1.0)]


def test_a_lease_lost_during_a_background_write_is_raised(service, job, reporter, tmp_path, monkeypatch):
    reporter.metrics(1, {"train/loss": 2.0})
    service.write(jobs.release, jobs.LeaseToken.from_job(job))
    next_attempt(service, tmp_path)
    monkeypatch.setattr(reporter_module, "FLUSH_SECONDS", 0.0)

    reporter.metrics(2, {"train/loss": 1.0})
    with pytest.raises(LeaseLost):
        reporter.flush()


def test_stages_and_events_are_written_at_once(service, job, reporter):
    reporter.stage_started(Stage.PREPARE)
    reporter.event("preflight.passed", "It fits.", data={"bytes": 3})
    reporter.stage_finished(Stage.PREPARE)

    types = [event.type for event in service.read(events.list_events, service.project, job.id).items]
    assert types[-3:] == ["stage.started", "preflight.passed", "stage.finished"]
    assert service.reload(job).stages[0]["seconds"] is not None


@pytest.mark.parametrize("control", [Control.CANCEL, Control.PAUSE, Control.DRAIN])
def test_no_stage_starts_if_the_job_must_leave(reporter, requested, control):
    requested[0] = control

    with pytest.raises(Interrupted) as interrupted:
        reporter.stage_started(Stage.EXPORT)
    assert interrupted.value.control is control


def test_a_stop_lets_the_next_stages_start(reporter, requested):
    requested[0] = Control.STOP
    reporter.stage_started(Stage.EVALUATE)


def test_the_next_attempt_finds_the_newest_checkpoint(service, job, reporter, tmp_path):
    for step in (10, 20, 30):
        reporter.save_checkpoint(make_checkpoint(tmp_path, step))
    service.write(jobs.release, jobs.LeaseToken.from_job(job))
    _, next_reporter = next_attempt(service, tmp_path)
    folder = next_reporter.newest_checkpoint("distill")

    assert (folder / "model.safetensors").read_bytes() == b"weights 30"
    assert (folder / "state.pt").read_bytes() == b"state"
    assert next_reporter.newest_checkpoint("teacher-0") is None


def test_a_damaged_checkpoint_is_replaced_by_the_previous_one(service, job, reporter, tmp_path, store):
    for step in (10, 20):
        reporter.save_checkpoint(make_checkpoint(tmp_path, step))
    newest = service.write(checkpoints.list_resumable, jobs.LeaseToken.from_job(job))[0]
    store.local_path(newest.files[0]["key"]).write_bytes(b"bit rot")
    service.write(jobs.release, jobs.LeaseToken.from_job(job))
    folder = next_attempt(service, tmp_path)[1].newest_checkpoint("distill")

    assert (folder / "model.safetensors").read_bytes() == b"weights 10"
    listed = service.read(checkpoints.list_checkpoints, service.project, job.id).items
    assert [checkpoint.step for checkpoint in listed] == [10]


def test_files_of_superseded_checkpoints_are_deleted(service, reporter, tmp_path, store):
    for step in (10, 20, 30, 40):
        reporter.save_checkpoint(make_checkpoint(tmp_path, step, keep=step == 10))

    names = sorted(listed.key.rsplit("/", 1)[-1] for listed in store.list_prefix("jobs"))
    assert names == ["model.safetensors"] * 3 + ["state.pt"] * 2


def test_metrics_after_the_checkpoint_are_deleted(service, job, reporter, tmp_path):
    reporter.save_checkpoint(make_checkpoint(tmp_path, 3))
    for step in range(6):
        reporter.metrics(step, {"train/loss": 1.0, "teacher/0/loss": 2.0})
    reporter.flush()
    service.write(jobs.release, jobs.LeaseToken.from_job(job))
    next_attempt(service, tmp_path)[1].newest_checkpoint("distill")

    assert [step for step, _ in read_series(service, job)["train/loss"]] == [0, 1, 2, 3]
    assert [step for step, _ in read_series(service, job)["teacher/0/loss"]] == [0, 1, 2, 3, 4, 5]


def test_a_worker_without_its_lease_can_write_nothing(service, job, reporter, tmp_path):
    service.write(jobs.release, jobs.LeaseToken.from_job(job))
    next_attempt(service, tmp_path)
    reporter.metrics(1, {"eval/top1": 1.0})

    for write in (
        reporter.flush,
        lambda: reporter.event("late", "Too late."),
        lambda: reporter.save_checkpoint(make_checkpoint(tmp_path, 10)),
        lambda: reporter.save_teacher("fingerprint", make_checkpoint(tmp_path, 11).folder),
    ):
        with pytest.raises(LeaseLost):
            write()
    assert service.reload(job).attempt == 2
    assert read_series(service, job) == {}


def test_a_saved_teacher_is_found_by_its_fingerprint(service, job, reporter, tmp_path):
    assert reporter.find_teacher("fingerprint") is None
    reporter.save_teacher("fingerprint", make_checkpoint(tmp_path, 1).folder)
    folder = reporter.find_teacher("fingerprint")

    assert (folder / "model.safetensors").read_bytes() == b"weights 1"
    assert service.read(teachers.exists, service.project, "fingerprint")


def test_a_damaged_teacher_is_not_used(service, reporter, tmp_path, store):
    reporter.save_teacher("fingerprint", make_checkpoint(tmp_path, 1).folder)
    for listed in store.list_prefix("teachers"):
        store.local_path(listed.key).write_bytes(b"bit rot")

    assert reporter.find_teacher("fingerprint") is None


def test_subscribers_are_notified(service, job, reporter):
    with service.context.broker._redis.pubsub(ignore_subscribe_messages=True) as following:
        following.subscribe(f"potstill:job:{job.id}")
        following.get_message(timeout=1)
        reporter.event("preflight.passed", "It fits.")

        assert following.get_message(timeout=2) is not None


def test_the_students_first_step_adds_one_event_at_once(service, job, reporter):
    reporter.metrics(0, {"teacher/0/top1": 0.5})
    reporter.metrics(1, {"train/loss": 1.0})
    reporter.metrics(2, {"train/loss": 0.5})

    types = [event.type for event in service.read(events.list_events, service.project, job.id).items]
    assert types.count("training.started") == 1


class Outage:
    """Makes the database of this process unavailable while ``is_active``."""

    def __init__(self, database: Database, monkeypatch) -> None:
        self.is_active = False
        self.was_hit = threading.Event()
        write = database.write

        def write_unless_active():
            if self.is_active:
                self.was_hit.set()
                raise DatabaseUnavailable("unavailable")
            return write()

        monkeypatch.setattr(database, "write", write_unless_active)


@pytest.fixture
def outage(service, monkeypatch):
    return Outage(service.context.database, monkeypatch)


def test_the_training_continues_while_the_database_is_unavailable_and_everything_is_written_later(
    service, job, reporter, tmp_path, monkeypatch, outage, database
):
    monkeypatch.setattr(reporter_module, "FLUSH_SECONDS", 0.0)
    reporter.metrics(1, {"train/loss": 1.0})
    outage.is_active = True
    for step in range(2, 40):
        reporter.metrics(step, {"train/loss": 1.0 / step})
        if step % 10 == 0:
            reporter.save_checkpoint(make_checkpoint(tmp_path, step))
    assert outage.was_hit.is_set()
    with database.read() as session:
        assert checkpoints.list_checkpoints(session, service.project, job.id).items == []
    outage.is_active = False
    reporter.flush()

    assert [step for step, _ in read_series(service, job)["train/loss"]] == list(range(1, 40))
    listed = service.read(checkpoints.list_checkpoints, service.project, job.id).items
    assert [checkpoint.step for checkpoint in listed] == [30, 20]
    steps = [event.data.get("step") for event in service.read(events.list_events, service.project, job.id).items]
    assert steps[-3:] == [10, 20, 30]


def test_the_number_of_unrecorded_checkpoints_is_limited(service, job, reporter, tmp_path, monkeypatch, outage):
    monkeypatch.setattr(reporter_module, "MAX_UNRECORDED", 2)
    outage.is_active = True
    reporter.save_checkpoint(make_checkpoint(tmp_path, 10))
    threading.Timer(1.0, lambda: setattr(outage, "is_active", False)).start()
    for step in (20, 30, 40):
        reporter.save_checkpoint(make_checkpoint(tmp_path, step))  # waits until the database is back

    assert outage.is_active is False


def test_a_long_database_outage_ends_the_attempt(service, job, reporter, monkeypatch, outage):
    settings = service.context.settings.model_copy(update={"outage_seconds": 0.3})
    monkeypatch.setattr(service.context, "settings", settings)
    outage.is_active = True

    with pytest.raises(DatabaseUnavailable):
        reporter.event("preflight.passed", "It fits.")


def test_a_full_disk_does_not_discard_the_checkpoint(service, job, reporter, tmp_path, monkeypatch):
    reporter.save_checkpoint(make_checkpoint(tmp_path, 10))
    service.write(jobs.release, jobs.LeaseToken.from_job(job))
    _, second = next_attempt(service, tmp_path)

    def fail(*_args, **_options):
        raise StorageFailed("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(service.context.store, "fetch", fail)
        with pytest.raises(StorageFailed, match="full"):
            second.newest_checkpoint("distill")

    assert second.newest_checkpoint("distill") is not None

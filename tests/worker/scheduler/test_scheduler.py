"""The steps of the scheduler."""

import io
import math
import os
import threading
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from core.errors import StorageFailed
from core.settings import Settings
from core.store import audit, checkpoints, datasets, db, job_counts, jobs, keys, quotas, workers
from worker.scheduler import housekeeping
from worker.scheduler import scheduler as scheduler_module
from worker.scheduler.scheduler import ClockSkewGuard, Scheduler


@pytest.fixture
def scheduler(service):
    """A scheduler whose grace period is over."""
    scheduler = Scheduler(service.settings)
    scheduler._skew_guard = ClockSkewGuard(grace=0.0)
    yield scheduler
    scheduler.close()


def lengths(service):
    return service.context.broker.queue_lengths()


def test_a_job_with_an_expired_lease_is_requeued_and_a_worker_woken(service, scheduler):
    job = service.claim_job(lease_seconds=-1)
    scheduler.run_round()

    assert (service.reload(job).status, service.reload(job).worker_losses) == ("queued", 1)
    assert lengths(service)["jobs.cpu"] == 1


def test_a_job_with_a_valid_lease_stays_unchanged(service, scheduler):
    job = service.claim_job()
    scheduler.run_round()

    assert service.reload(job).status == "running"


def test_a_new_scheduler_waits_before_it_requeues_jobs(service):
    """The database may have been unavailable until now: a worker that is still training renews its lease first."""
    job = service.claim_job(lease_seconds=-1)
    scheduler = Scheduler(service.settings)
    grace = scheduler._skew_guard = ClockSkewGuard(grace=0.5)
    scheduler.run_round()
    assert service.reload(job).status == "running"

    service.write(jobs.renew_lease, jobs.LeaseToken.from_job(job), 20.0)
    grace._grace = 0.0
    scheduler.run_round()
    scheduler.close()

    assert (service.reload(job).status, service.reload(job).worker_losses) == ("running", 0)


def test_after_a_database_outage_leases_get_a_grace_period(service, scheduler, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(scheduler_module.time, "monotonic", lambda: clock[0])
    guard = ClockSkewGuard(grace=6.0)
    reliable = []
    for moment in (100.0, 103.0, 106.0, 107.0, 130.0, 133.0, 136.0):  # an outage from 107 to 130
        clock[0] = moment
        reliable.append(guard.is_reliable(datetime.fromtimestamp(moment, UTC)))

    assert reliable == [False, False, True, True, False, False, True]


def test_after_a_clock_jump_leases_get_a_grace_period(monkeypatch):
    """Leases use the wall clock. The monotonic clock cannot be set and stops while the machine sleeps."""
    clock = [100.0]
    monkeypatch.setattr(scheduler_module.time, "monotonic", lambda: clock[0])
    guard = ClockSkewGuard(grace=6.0)
    reliable = []
    for moment, set_forward in ((100, 0), (103, 0), (106, 0), (107, 3600), (110, 3600), (113, 3600), (114, 3600)):
        clock[0] = float(moment)
        reliable.append(guard.is_reliable(datetime.fromtimestamp(moment + set_forward, UTC)))

    assert reliable == [False, False, True, False, False, True, True]


def test_a_clock_jump_takes_no_job_from_a_living_worker(service, scheduler, monkeypatch):
    job = service.claim_job()
    scheduler.run_round()
    scheduler._skew_guard._grace, scheduler._skew_guard._grace_from = 0.5, -math.inf  # the grace period is over
    jump = timedelta(hours=1)
    monkeypatch.setattr(db, "datetime", SimpleNamespace(now=lambda zone: datetime.now(zone) + jump))
    scheduler.run_round()

    assert (service.reload(job).status, service.reload(job).worker_losses) == ("running", 0)


def test_a_queued_job_sends_one_message_until_it_is_taken(service, scheduler):
    service.create_job()
    for _ in range(3):
        scheduler.run_round()

    assert lengths(service)["jobs.cpu"] == 1


def test_a_job_for_any_accelerator_wakes_a_living_worker(service, scheduler):
    service.context.broker.mark_alive("jobs.cuda")
    service.create_job()
    scheduler.run_round()

    assert (lengths(service)["jobs.cpu"], lengths(service)["jobs.cuda"]) == (0, 1)


def test_a_waiting_dataset_wakes_an_ingest_worker(service, scheduler):
    service.write(datasets.create, service.project, name="d", source={"type": "builtin", "name": "digits"})
    scheduler.run_round()

    assert lengths(service)["ingest"] == 1


def test_no_message_is_sent_if_nothing_waits(service, scheduler):
    scheduler.run_round()

    assert set(lengths(service).values()) == {0}


def test_expired_leases_are_requeued_without_a_broker(service):
    job = service.claim_job(lease_seconds=-1)
    settings = Settings(home=service.settings.home, broker_url="redis://127.0.0.1:1/0")
    scheduler = Scheduler(settings)
    scheduler._skew_guard = ClockSkewGuard(grace=0.0)
    scheduler.run_round()
    scheduler.close()

    assert service.reload(job).status == "queued"


def test_the_scheduler_registers_and_removes_itself(service):
    scheduler = Scheduler(service.settings)
    scheduler.run_round()
    assert [worker.role for worker in service.read(workers.list_workers)] == ["scheduler"]
    scheduler.close()

    assert service.read(workers.list_workers) == []


def test_old_unreferenced_files_are_deleted(service, store, tmp_path):
    source = tmp_path / "file"
    source.write_bytes(b"left by a worker that lost its lease")
    store.put("jobs/job_gone/a1/artifacts/model.safetensors", source)
    settings = service.settings.model_copy(update={"gc_min_age_seconds": 0.0})
    scheduler = Scheduler(settings)
    scheduler.collect_garbage()
    scheduler.close()

    assert [listed.key for listed in store.list_prefix("jobs")] == []


def test_scratch_folders_of_idle_rows_are_deleted(service):
    running = service.claim_job()
    work = service.settings.home / "work"
    for name in (running.id, "job_finished", "ds_gone-a1", "job_young"):
        (work / name).mkdir(parents=True)
        if name != "job_young":
            os.utime(work / name, (time.time() - 3600,) * 2)

    assert sorted(housekeeping.prune_scratch(service.context.database, service.settings.home)) == [
        "ds_gone-a1",
        "job_finished",
    ]
    assert sorted(path.name for path in work.iterdir()) == sorted([running.id, "job_young"])


def test_the_least_recently_used_cache_file_is_deleted_first(tmp_path):
    for age, name in enumerate(("new", "old", "older")):
        (tmp_path / name).write_bytes(b"x" * 100)
        os.utime(tmp_path / name, (time.time() - 3600 * (age + 1),) * 2)

    assert housekeeping.prune_cache(tmp_path, 250) == 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


def test_stored_bytes_are_recounted_at_the_start(service, scheduler):
    stored_bytes = service.read(quotas.get_stored_bytes, service.project)
    service.write(quotas.add_stored, service.project, 12345)
    scheduler.run_round()
    scheduler._slow.wait()

    assert service.read(quotas.get_stored_bytes, service.project) == stored_bytes


def test_expired_leases_are_requeued_during_garbage_collection(service, scheduler, monkeypatch):
    """A bucket of a million files takes minutes to list, and an unavailable one needs its timeout."""
    is_collecting, proceed, waits = threading.Event(), threading.Event(), []

    def collect_slowly(*_, **__):
        is_collecting.set()
        waits.append(proceed.wait(10))
        return []

    monkeypatch.setattr(scheduler_module.garbage, "collect", collect_slowly)
    scheduler.run_round()
    assert is_collecting.wait(10)
    job = service.claim_job(lease_seconds=-1)
    scheduler.run_round()

    assert service.reload(job).status == "queued"
    proceed.set()
    scheduler._slow.wait()
    assert waits == [True]


def test_an_unavailable_store_does_not_stop_local_cleanup(service, scheduler, monkeypatch):
    def fail(*_, **__):
        raise StorageFailed("The artifact store is unavailable.")

    monkeypatch.setattr(scheduler_module.garbage, "collect", fail)
    folder = service.settings.home / "work" / "job_finished-a1"
    folder.mkdir(parents=True)
    os.utime(folder, (time.time() - 3600,) * 2)
    scheduler.collect_garbage()

    assert not folder.exists()


def test_training_state_of_old_failed_jobs_is_deleted(service, store):
    job = service.claim_job()
    lease = jobs.LeaseToken.from_job(job)
    files = [
        store.put(f"jobs/{job.id}/a1/checkpoints/c/{name}", io.BytesIO(b"x"))
        for name in ("model.safetensors", "state.pt")
    ]
    service.write(checkpoints.save, lease, track="distill", step=5, epoch=1, files=files)
    service.write(jobs.fail, lease, {"code": "x", "message": "x"})
    for days, names in ((7.0, ["model.safetensors", "state.pt"]), (1e-9, ["model.safetensors"])):
        scheduler = Scheduler(service.settings.model_copy(update={"resume_retention_days": days}))
        scheduler.collect_garbage()
        scheduler.close()

        assert sorted(listed.key.rpartition("/")[2] for listed in store.list_prefix()) == names


def test_jobs_that_an_older_version_changed_are_counted_again(service, scheduler):
    job = service.create_job()
    with service.context.database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE jobs SET status = 'cancelled'")
    scheduler.recount_jobs()

    counts = service.read(job_counts.count_by_status)
    assert (counts["queued"], counts["cancelled"]) == (0, 1)
    assert service.reload(job).status == "cancelled"


def test_old_audit_log_entries_are_deleted(service):
    caller = keys.Caller("key_a", service.project, frozenset())
    service.write(audit.record, caller, "job.create", "job_1")
    long_retention, short_retention = (
        Scheduler(service.settings.model_copy(update={"audit_retention_days": days})) for days in (1.0, 1e-9)
    )
    for scheduler, num_entries in ((long_retention, 1), (short_retention, 0)):
        scheduler.collect_garbage()
        assert len(service.read(audit.list_entries, service.project).items) == num_entries
        scheduler.close()

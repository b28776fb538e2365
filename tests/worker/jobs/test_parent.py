"""The parent process of a job: claim, monitor, and record of every kind of exit."""

import contextlib
import logging
import multiprocessing
import os
import signal
import time

import psutil
import pytest

from core.reporting import Control
from core.settings import Settings
from core.store import job_logs, jobs
from core.system.parent_death import EXIT_OUT_OF_MEMORY
from tests.support.waiting import until
from worker import claim_loop
from worker import context as worker_context
from worker.claim_loop import run_next
from worker.jobs import parent
from worker.jobs.parent import JOBS
from worker.process.monitor import POLL_SECONDS, MonitorIntervals
from worker.process.shared_flags import DRAIN
from worker.process.watchdog import Watchdog, current_watchdog
from worker.scheduler.scheduler import Scheduler


@pytest.fixture
def replace_run(monkeypatch):
    """Return a function that replaces the engine in the job's process."""

    def install(work):
        monkeypatch.setattr(JOBS, "run", work)

    return install


def test_nothing_happens_if_no_job_waits(service):
    run_next(JOBS)

    assert service.context.broker.queue_lengths()["jobs.cpu"] == 0


def test_a_job_whose_process_dies_is_requeued_at_once_and_counts_a_loss(service, replace_run):
    job = service.create_job()
    replace_run(lambda _context, _job, _control: os.kill(os.getpid(), signal.SIGKILL))
    run_next(JOBS)

    seen = service.reload(job)
    assert (seen.status, seen.worker_losses, seen.attempt) == ("queued", 1, 1)
    assert service.context.broker.queue_lengths()["jobs.cpu"] == 1


def test_a_job_that_loses_every_worker_fails(service, replace_run):
    job = service.create_job()
    replace_run(lambda _context, _job, _control: 1)
    for _ in range(3):
        run_next(JOBS)

    seen = service.reload(job)
    assert (seen.status, seen.error["code"]) == ("failed", "worker_lost")


def test_the_lease_is_renewed_while_the_job_runs(service, replace_run):
    job = service.create_job()
    leases = []

    def work(context, job, _control):
        for _ in range(5):
            with context.database.read() as session:
                leases.append(jobs.get(session, job.project_id, job.id).lease_expires_at)
            time.sleep(0.15)
        with context.database.write() as session:
            jobs.release(session, jobs.LeaseToken.from_job(job))
        return 0 if len(set(leases)) >= 3 else 1

    replace_run(work)
    run_next(JOBS)

    assert service.reload(job).worker_losses == 0


def test_log_lines_are_saved_while_the_job_runs_and_at_its_end(service, replace_run):
    job = service.create_job()
    log = logging.getLogger("worker.anything")

    def saved(context, job):
        with context.database.read() as session:
            found = job_logs.get(session, job.project_id, job.id)
        return [] if found is None else [line[9:] for line in found.lines]

    def work(context, job, _control):
        log.error("the key is ps_%s_%s", "0" * 26, "0" * 8)
        until(lambda: saved(context, job) == ["error the key is ps_" + "0" * 26 + "_[hidden]"])
        log.error("done")
        with context.database.write() as session:
            jobs.release(session, jobs.LeaseToken.from_job(job))
        return 0

    replace_run(work)
    run_next(JOBS)

    assert saved(service.context, job)[1:] == ["error done"]


def test_an_unresponsive_job_is_killed_and_cancelled(service, replace_run, monkeypatch):
    job = service.create_job()
    intervals = MonitorIntervals(control_poll_seconds=0.05, outage_seconds=20, cancel_grace_seconds=0.2)
    monkeypatch.setattr(claim_loop, "monitor_intervals", lambda _: intervals)

    def work(context, job, _control):
        with context.database.write() as session:
            jobs.cancel(session, job.project_id, job.id)
        time.sleep(60)

    replace_run(work)
    run_next(JOBS)

    assert service.reload(job).status == "cancelled"


def test_a_drained_worker_releases_its_job_without_a_loss(service, replace_run):
    job = service.create_job()

    def work(context, job, control):
        DRAIN.set(1)
        until(lambda: control() is Control.DRAIN)
        with context.database.write() as session:
            jobs.release(session, jobs.LeaseToken.from_job(job))
        return 0

    replace_run(work)
    try:
        run_next(JOBS)
    finally:
        DRAIN.set(0)

    seen = service.reload(job)
    assert (seen.status, seen.worker_losses) == ("queued", 0)


def test_a_drained_worker_claims_no_job(service, replace_run):
    job = service.create_job()
    DRAIN.set(1)
    try:
        run_next(JOBS)
    finally:
        DRAIN.set(0)

    assert (service.reload(job).status, service.reload(job).attempt) == ("queued", 0)


def test_pause_and_stop_reach_the_job(service, replace_run):
    job = service.create_job()

    def work(context, job, control):
        with context.database.write() as session:
            jobs.stop(session, job.project_id, job.id)
        until(lambda: control() is Control.STOP)
        with context.database.write() as session:
            jobs.pause(session, job.project_id, job.id)
        until(lambda: control() is Control.PAUSE)
        with context.database.write() as session:
            jobs.release_paused(session, jobs.LeaseToken.from_job(job))
        return 0

    replace_run(work)
    run_next(JOBS)

    assert service.reload(job).status == "paused"


def test_a_job_that_another_worker_claimed_is_left_unchanged(service, replace_run):
    job = service.create_job()

    def work(context, _job, _control):
        with context.database.write() as session:
            jobs.expire_leases(session, 3, worker_id=context.worker_id)
            jobs.claim(session, worker_id="wrk_other", accelerator="cpu", lease_seconds=20)
        time.sleep(60)

    replace_run(work)
    run_next(JOBS)

    seen = service.reload(job)
    assert (seen.status, seen.attempt, seen.worker_id) == ("running", 2, "wrk_other")


def test_the_exit_of_a_process_does_not_affect_other_jobs(service, replace_run):
    """Only the worker's own job is requeued; the expired lease of another job may still be renewed."""
    other = service.claim_job(lease_seconds=-1)
    job = service.create_job()
    replace_run(lambda _context, _job, _control: 1)
    run_next(JOBS)

    assert (service.reload(job).status, service.reload(job).worker_losses) == ("queued", 1)
    assert service.reload(other).status == "running"


def test_a_lost_process_leaves_its_last_log_lines_and_its_signal(service, replace_run):
    job = service.create_job()

    def work(_context, _job, _control):
        logging.getLogger("worker.anything").warning("the last line")
        os.kill(os.getpid(), signal.SIGKILL)

    replace_run(work)
    for _ in range(service.settings.max_losses):
        run_next(JOBS)

    error = service.reload(job).error
    assert (error["code"], error["fault"], error["fix"]) == ("worker_lost", "infrastructure", None)
    assert "SIGKILL" in error["message"]
    assert [line[9:] for line in error["log"]] == ["warning the last line"]
    assert error["machine"]["memory_peak_bytes"] > 10**6
    assert error["machine"]["disk_free_bytes"] > 0


class StallsAtWork(Watchdog):
    """Finds a process stalled after 0.2 seconds without activity, once it has begun to work."""

    def __init__(self, **limits):
        super().__init__(**{**limits, "stall_seconds": 0.2})
        self.at_work = multiprocessing.Event()

    def is_stalled(self):
        return self.at_work.is_set() and super().is_stalled()


def test_a_stalled_job_is_requeued_and_finally_fails_with_its_traceback(service, replace_run, monkeypatch):
    job = service.create_job()
    monkeypatch.setattr(parent, "Watchdog", StallsAtWork)

    def work(_context, _job, control):
        control()
        current_watchdog().at_work.set()
        time.sleep(60)

    replace_run(work)
    run_next(JOBS)
    assert (service.reload(job).status, service.reload(job).worker_losses) == ("queued", 1)
    for _ in range(service.settings.max_losses - 1):
        run_next(JOBS)

    seen = service.reload(job)
    assert (seen.status, seen.error["code"], seen.error["fault"]) == ("failed", "stalled", "service")
    assert any("in work" in line for line in seen.error["log"])
    assert "POTSTILL_STALL_TIMEOUT_SECONDS" in seen.error["advice"]


def test_a_job_that_the_oom_killer_killed_fails_as_out_of_memory(service, replace_run, monkeypatch):
    job = service.create_job(spec={"dataset": service.dataset, "training": {"batch_size": 128}})
    monkeypatch.setattr(Watchdog, "saw_oom_kill", lambda _self: True)
    replace_run(lambda _context, _job, _control: os.kill(os.getpid(), signal.SIGKILL))
    run_next(JOBS)
    assert service.reload(job).status == "queued"  # another process may have used the memory
    for _ in range(service.settings.max_losses - 1):
        run_next(JOBS)

    error = service.reload(job).error
    assert (error["code"], error["fault"]) == ("out_of_memory", "capacity")
    assert error["fix"] == {"training": {"batch_size": 64}}


def test_the_exit_is_recorded_before_the_scratch_folder_is_deleted(service, replace_run, monkeypatch):
    job = service.create_job()
    seen = []
    monkeypatch.setattr(claim_loop.shutil, "rmtree", lambda *_, **__: seen.append(service.reload(job).status))
    replace_run(lambda _context, _job, _control: os.kill(os.getpid(), signal.SIGKILL))
    run_next(JOBS)

    assert seen == ["queued"]


def test_a_process_that_lost_another_one_to_the_oom_killer_fails_as_out_of_memory(service, replace_run):
    job = service.create_job(spec={"dataset": service.dataset, "training": {"batch_size": 128}})
    replace_run(lambda _context, _job, _control: EXIT_OUT_OF_MEMORY)
    for _ in range(service.settings.max_losses):
        run_next(JOBS)

    error = service.reload(job).error
    assert (error["code"], error["fault"]) == ("out_of_memory", "capacity")
    assert error["fix"] == {"training": {"batch_size": 64}}


def test_a_job_that_ignores_its_time_limit_is_killed_and_fails(service, replace_run, monkeypatch):
    job = service.create_job(spec={"dataset": service.dataset, "resources": {"max_seconds": 0.1}})
    intervals = MonitorIntervals(
        control_poll_seconds=0.05, outage_seconds=20, cancel_grace_seconds=0.2, drain_seconds=0.2
    )
    monkeypatch.setattr(claim_loop, "monitor_intervals", lambda _: intervals)
    replace_run(lambda _context, _job, _control: time.sleep(60))
    run_next(JOBS)

    error = service.reload(job).error
    assert (error["code"], error["fault"]) == ("time_limit", "capacity")
    assert "resources.max_seconds" in error["message"]


# --- cancel of an unresponsive job ----------------------------------------------------------------


def ignore_signals(context, job, _control):
    """Run as a job that blocks all signals, reads no control and holds the GIL."""
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP})
    (context.settings.home / "pid").write_text(str(os.getpid()))
    while True:
        sum(range(10**7))


@pytest.fixture
def worker(service, replace_run):
    """Run the job in another process, with the default ratios of lease, heartbeat and timeouts, ten times faster."""
    job = service.create_job()
    settings = Settings(
        **service.settings.model_dump()
        | {"lease_seconds": 2.0, "heartbeat_seconds": 0.5, "control_poll_seconds": 0.1, "cancel_grace_seconds": 0.6}
    )
    service.context = worker_context.Context(settings, service.context.queue, service.context.worker_id)
    worker_context._Current.context = service.context
    replace_run(ignore_signals)
    service.context.database.dispose()  # it must not cross the fork
    pid = os.fork()
    if pid == 0:
        run_next(JOBS)
        os._exit(0)
    pid_file = settings.home / "pid"
    until(lambda: pid_file.exists() and pid_file.read_text(), 20)
    job_pid = int(pid_file.read_text())
    yield pid, psutil.Process(job_pid), job
    for process_id in (pid, job_pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def seconds_until_cancelled(service, job):
    """Cancel the job and run the scheduler until the job is cancelled; return the seconds that it took."""
    scheduler = Scheduler(service.settings)
    service.write(jobs.cancel, service.project, job.id)
    began = time.monotonic()
    while service.reload(job).status != "cancelled":
        assert time.monotonic() - began < 20, service.reload(job).status
        scheduler.requeue_expired()
        time.sleep(0.05)
    scheduler.close()
    return time.monotonic() - began


def test_a_cancel_kills_an_unresponsive_job(service, worker):
    _, process, job = worker

    assert seconds_until_cancelled(service, job) < 3.0  # a tenth of the guaranteed time
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_cancel_completes_if_the_jobs_worker_is_stopped(service, worker):
    pid, _, job = worker
    os.kill(pid, signal.SIGSTOP)

    assert seconds_until_cancelled(service, job) < 3.0


def test_a_cancel_completes_if_the_jobs_worker_is_dead(service, worker):
    pid, process, job = worker
    os.kill(pid, signal.SIGKILL)

    assert seconds_until_cancelled(service, job) < 3.0
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_with_the_default_settings_a_cancel_completes_within_thirty_seconds():
    """A running worker reads the request, then kills the job. A stopped worker's lease expires."""
    settings = Settings()

    with_kill = settings.control_poll_seconds + settings.cancel_grace_seconds + POLL_SECONDS
    with_expiry = settings.lease_seconds + settings.scheduler_interval_seconds

    assert max(with_kill, with_expiry) < 25  # leaves five seconds to record it

"""Claiming a job and answering for its end, whatever the process that runs it does."""

import contextlib
import logging
import os
import signal
import time

import psutil
import pytest

from core.reporting import Control
from core.settings import Settings
from core.store import jobs
from core.system.parent_death import EXIT_OUT_OF_MEMORY
from worker import claim_loop
from worker import context as worker_context
from worker.claim_loop import run_next
from worker.jobs import parent
from worker.jobs.parent import JOBS
from worker.process.monitor import POLL_SECONDS, MonitorIntervals
from worker.process.shared_flags import DRAIN
from worker.process.watchdog import Watchdog
from worker.scheduler.scheduler import Scheduler


@pytest.fixture
def working(monkeypatch):
    """Let the job's process do this instead of running the engine."""

    def install(work):
        monkeypatch.setattr(JOBS, "run", work)

    return install


def until(control, wanted, seconds=10.0):
    ends = time.monotonic() + seconds
    while control() is not wanted and time.monotonic() < ends:
        time.sleep(0.005)
    return control() is wanted


def test_nothing_happens_where_no_job_waits(service):
    run_next(JOBS)

    assert service.context.broker.queue_lengths()["jobs.cpu"] == 0


def test_a_job_whose_process_dies_is_queued_again_at_once_and_counts_a_loss(service, working):
    job = service.job()
    working(lambda _context, _job, _control: os.kill(os.getpid(), signal.SIGKILL))
    run_next(JOBS)

    seen = service.see(job)
    assert (seen.status, seen.worker_losses, seen.attempt) == ("queued", 1, 1)
    assert service.context.broker.queue_lengths()["jobs.cpu"] == 1


def test_a_job_that_kills_every_worker_fails_in_the_end(service, working):
    job = service.job()
    working(lambda _context, _job, _control: 1)
    for _ in range(3):
        run_next(JOBS)

    seen = service.see(job)
    assert (seen.status, seen.error["code"]) == ("failed", "worker_lost")


def test_the_lease_is_renewed_while_the_job_runs(service, working):
    job = service.job()
    leases = []

    def work(context, job, _control):
        for _ in range(5):
            with context.database.read() as session:
                leases.append(jobs.get(session, job.project_id, job.id).lease_expires_at)
            time.sleep(0.15)
        with context.database.write() as session:
            jobs.release(session, jobs.LeaseToken.from_job(job))
        return 0 if len(set(leases)) >= 3 else 1

    working(work)
    run_next(JOBS)

    assert service.see(job).worker_losses == 0


def test_a_deaf_job_is_killed_and_cancelled(service, working, monkeypatch):
    job = service.job()
    intervals = MonitorIntervals(control_poll_seconds=0.05, outage_seconds=20, cancel_grace_seconds=0.2)
    monkeypatch.setattr(claim_loop, "monitor_intervals", lambda _: intervals)

    def work(context, job, _control):
        with context.database.write() as session:
            jobs.cancel(session, job.project_id, job.id)
        time.sleep(60)

    working(work)
    run_next(JOBS)

    assert service.see(job).status == "cancelled"


def test_a_drained_worker_hands_its_job_back_without_a_loss(service, working):
    job = service.job()

    def work(context, job, control):
        DRAIN.set(1)
        assert until(control, Control.DRAIN)
        with context.database.write() as session:
            jobs.release(session, jobs.LeaseToken.from_job(job))
        return 0

    working(work)
    try:
        run_next(JOBS)
    finally:
        DRAIN.set(0)

    seen = service.see(job)
    assert (seen.status, seen.worker_losses) == ("queued", 0)


def test_a_worker_that_is_asked_to_end_claims_nothing_more(service, working):
    job = service.job()
    DRAIN.set(1)
    try:
        run_next(JOBS)
    finally:
        DRAIN.set(0)

    assert (service.see(job).status, service.see(job).attempt) == ("queued", 0)


def test_pause_and_stop_reach_the_job(service, working):
    job = service.job()

    def work(context, job, control):
        with context.database.write() as session:
            jobs.stop(session, job.project_id, job.id)
        assert until(control, Control.STOP)
        with context.database.write() as session:
            jobs.pause(session, job.project_id, job.id)
        assert until(control, Control.PAUSE)
        with context.database.write() as session:
            jobs.release_paused(session, jobs.LeaseToken.from_job(job))
        return 0

    working(work)
    run_next(JOBS)

    assert service.see(job).status == "paused"


def test_a_job_that_was_given_to_somebody_else_is_left_alone(service, working):
    job = service.job()

    def work(context, _job, _control):
        with context.database.write() as session:
            jobs.expire_leases(session, 3, worker_id=context.worker_id)
            jobs.claim(session, worker_id="wrk_other", accelerator="cpu", lease_seconds=20)
        time.sleep(60)

    working(work)
    run_next(JOBS)

    seen = service.see(job)
    assert (seen.status, seen.attempt, seen.worker_id) == ("running", 2, "wrk_other")


def test_the_end_of_one_process_takes_nothing_from_others(service, working):
    """Its own job is given up at once; another one's lease may only have had no chance to be renewed."""
    other = service.claimed(lease_seconds=-1)
    job = service.job()
    working(lambda _context, _job, _control: 1)
    run_next(JOBS)

    assert (service.see(job).status, service.see(job).worker_losses) == ("queued", 1)
    assert service.see(other).status == "running"


def test_a_job_that_loses_its_process_says_what_it_said_last_and_how_it_ended(service, working):
    job = service.job()

    def work(_context, _job, _control):
        logging.getLogger("worker.anything").warning("the last line")
        os.kill(os.getpid(), signal.SIGKILL)

    working(work)
    for _ in range(service.settings.max_losses):
        run_next(JOBS)

    error = service.see(job).error
    assert (error["code"], error["fault"], error["fix"]) == ("worker_lost", "infrastructure", None)
    assert "SIGKILL" in error["message"]
    assert [line[9:] for line in error["log"]] == ["warning the last line"]
    assert error["machine"]["memory_peak_bytes"] > 10**6
    assert error["machine"]["disk_free_bytes"] > 0


def test_a_job_that_hangs_is_queued_again_and_fails_in_the_end_with_where_it_stood(service, working, monkeypatch):
    job = service.job()
    quick = Watchdog
    monkeypatch.setattr(parent, "Watchdog", lambda **limits: quick(**{**limits, "stall_seconds": 0.2}))

    def work(_context, _job, control):
        control()
        time.sleep(60)

    working(work)
    run_next(JOBS)
    assert (service.see(job).status, service.see(job).worker_losses) == ("queued", 1)
    for _ in range(service.settings.max_losses - 1):
        run_next(JOBS)

    seen = service.see(job)
    assert (seen.status, seen.error["code"], seen.error["fault"]) == ("failed", "stalled", "service")
    assert any("in work" in line for line in seen.error["log"])
    assert "POTSTILL_STALL_TIMEOUT_SECONDS" in seen.error["advice"]


def test_a_job_that_the_kernel_ended_for_want_of_memory_fails_as_out_of_memory(service, working, monkeypatch):
    job = service.job(spec={"dataset": service.dataset, "training": {"batch_size": 128}})
    monkeypatch.setattr(Watchdog, "saw_oom_kill", lambda _self: True)
    working(lambda _context, _job, _control: os.kill(os.getpid(), signal.SIGKILL))
    run_next(JOBS)
    assert service.see(job).status == "queued"  # another process may have been the cause
    for _ in range(service.settings.max_losses - 1):
        run_next(JOBS)

    error = service.see(job).error
    assert (error["code"], error["fault"]) == ("out_of_memory", "capacity")
    assert error["fix"] == {"training": {"batch_size": 64}}


def test_why_it_ended_is_written_down_before_its_folder_is_deleted_which_may_outlast_its_lease(
    service, working, monkeypatch
):
    job = service.job()
    seen = []
    monkeypatch.setattr(claim_loop.shutil, "rmtree", lambda *_, **__: seen.append(service.see(job).status))
    working(lambda _context, _job, _control: os.kill(os.getpid(), signal.SIGKILL))
    run_next(JOBS)

    assert seen == ["queued"]


def test_so_does_one_of_several_processes_that_lost_another_one_to_the_kernel(service, working):
    job = service.job(spec={"dataset": service.dataset, "training": {"batch_size": 128}})
    working(lambda _context, _job, _control: EXIT_OUT_OF_MEMORY)
    for _ in range(service.settings.max_losses):
        run_next(JOBS)

    error = service.see(job).error
    assert (error["code"], error["fault"]) == ("out_of_memory", "capacity")
    assert error["fix"] == {"training": {"batch_size": 64}}


def test_a_job_that_does_not_leave_when_its_time_is_over_is_ended_and_fails(service, working, monkeypatch):
    job = service.job(spec={"dataset": service.dataset, "resources": {"max_seconds": 0.1}})
    intervals = MonitorIntervals(
        control_poll_seconds=0.05, outage_seconds=20, cancel_grace_seconds=0.2, drain_seconds=0.2
    )
    monkeypatch.setattr(claim_loop, "monitor_intervals", lambda _: intervals)
    working(lambda _context, _job, _control: time.sleep(60))
    run_next(JOBS)

    error = service.see(job).error
    assert (error["code"], error["fault"]) == ("time_limit", "capacity")
    assert "resources.max_seconds" in error["message"]


# --- a cancel lands, whatever hangs ---------------------------------------------------------------


def deaf(context, job, _control):
    """A job's process that reacts to nothing at all, and holds the interpreter."""
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP})
    (context.settings.home / "deaf").write_text(str(os.getpid()))
    while True:
        sum(range(10**7))


@pytest.fixture
def worker(service, working):
    """Another process that runs the job, with the default ratio of its lease to its heartbeat; scaled by ten."""
    job = service.job()
    settings = Settings(
        **service.settings.model_dump()
        | {"lease_seconds": 2.0, "heartbeat_seconds": 0.5, "control_poll_seconds": 0.1, "cancel_grace_seconds": 0.6}
    )
    service.context = worker_context.Context(settings, service.context.queue, service.context.worker_id)
    worker_context._Current.context = service.context
    working(deaf)
    service.context.database.dispose()  # it must not cross the fork
    pid = os.fork()
    if pid == 0:
        run_next(JOBS)
        os._exit(0)
    told, ends = settings.home / "deaf", time.monotonic() + 20
    while not (told.exists() and told.read_text()):
        assert time.monotonic() < ends
        time.sleep(0.01)
    yield pid, psutil.Process(int(told.read_text())), job
    for one in (pid, int(told.read_text())):
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def seconds_until_cancelled(service, job):
    """Cancel it, and make the scheduler's rounds until that has landed."""
    scheduler = Scheduler(service.settings)
    service.do(jobs.cancel, service.project, job.id)
    began = time.monotonic()
    while service.see(job).status != "cancelled":
        assert time.monotonic() - began < 20, service.see(job).status
        scheduler.requeue_expired()
        time.sleep(0.05)
    scheduler.close()
    return time.monotonic() - began


def test_a_cancel_of_a_job_that_reacts_to_nothing_is_done_by_force(service, worker):
    _, process, job = worker

    assert seconds_until_cancelled(service, job) < 3.0  # a tenth of what is promised
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_cancel_lands_though_the_jobs_worker_is_stopped(service, worker):
    pid, _, job = worker
    os.kill(pid, signal.SIGSTOP)

    assert seconds_until_cancelled(service, job) < 3.0


def test_a_cancel_lands_though_the_jobs_worker_is_dead(service, worker):
    pid, process, job = worker
    os.kill(pid, signal.SIGKILL)

    assert seconds_until_cancelled(service, job) < 3.0
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_with_the_default_settings_a_cancel_lands_within_thirty_seconds():
    """By force: asked at the next look, then killed. Of a silent worker: its lease, renewed just before, runs out."""
    settings = Settings()

    by_force = settings.control_poll_seconds + settings.cancel_grace_seconds + POLL_SECONDS
    of_a_silent_worker = settings.lease_seconds + settings.scheduler_interval_seconds

    assert max(by_force, of_a_silent_worker) < 25  # five seconds to write it down

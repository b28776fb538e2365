"""The last log lines of a process, read by its parent after any exit."""

import logging
import os
import signal
import subprocess
import sys
import time

import pytest

from core.settings import Settings
from worker.process.forked import ForkedProcess
from worker.process.log_tail import NUM_BYTES, NUM_LINES, TRACEBACK_SIGNAL, LogTail, collect_secrets, redact_secrets


@pytest.fixture
def log_tail():
    log_tail = LogTail(secrets=["hunter2-hunter2"])
    yield log_tail
    log_tail.close()


def kill_after(log_tail, work):
    def run():
        log_tail.attach()
        work()
        os.kill(os.getpid(), signal.SIGKILL)

    assert ForkedProcess(run).wait(10) == -signal.SIGKILL
    return log_tail.lines()


def test_lines_survive_a_kill_with_their_level(log_tail):
    log = logging.getLogger("worker.anything")
    lines = kill_after(log_tail, lambda: log.error("the %s is full", "disk"))

    assert [line[9:] for line in lines] == ["error the disk is full"]


def test_structlog_lines_are_saved_as_a_worker_logs_them():
    """Run in a new process: a worker configures its logging once, long before the fork."""
    script = """
import os, structlog
from server.logs import configure_logging
from worker.process.forked import ForkedProcess
from worker.process.log_tail import LogTail
configure_logging("worker", "info")
log = structlog.get_logger("worker.anything")
log.info("used.before")
log_tail = LogTail()

def work():
    log_tail.attach()
    log.info("stage.started", stage="distill")
    log.debug("too.much")
    try:
        int("nothing")
    except ValueError as error:
        log.error("job.failed", exc_info=error)
    return 0

ForkedProcess(work).wait(30)
print("\\n".join(line[9:] if line[2:3] == ":" else line for line in log_tail.lines()))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    lines = run.stdout.splitlines()

    assert lines[:3] == ["info stage.started stage=distill", "error job.failed", "Traceback (most recent call last):"]
    assert lines[-1] == "ValueError: invalid literal for int() with base 10: 'nothing'"
    assert '"event": "stage.started"' in run.stderr


def test_a_traceback_is_several_lines(log_tail):
    def fail():
        try:
            int("nothing")
        except ValueError:
            logging.getLogger().exception("it failed")

    lines = kill_after(log_tail, fail)

    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: invalid literal for int() with base 10: 'nothing'"


def test_only_the_newest_lines_are_saved_up_to_a_limit(log_tail):
    log_tail.save(f"line {number}" for number in range(1000))
    assert log_tail.lines() == [f"line {number}" for number in range(1000 - NUM_LINES, 1000)]

    log_tail.save("é" * 10_000 for _ in range(1000))
    assert 1 < len(log_tail.lines()) <= NUM_LINES
    assert sum(len(line.encode()) for line in log_tail.lines()) <= NUM_BYTES


def test_no_line_shows_a_secret(log_tail):
    log = logging.getLogger("worker.anything")
    message = "connecting to postgresql://u:pass-word@db/x with hunter2-hunter2"
    (line,) = kill_after(log_tail, lambda: log.warning(message))

    assert "hunter2" not in line
    assert "pass-word" not in line
    assert "postgresql://" in line


def test_secrets_come_from_the_settings_and_the_environment():
    settings = Settings(
        database_url="postgresql+psycopg://u:db-password@h/x",
        broker_url="redis://:broker-password@h/0",
        secret_key="cookie-signing-key-of-32-characters",
    )
    environment = {
        "AWS_SECRET_ACCESS_KEY": "bucket-secret",
        "HF_TOKEN": "hf_abcdef",
        "TOKENIZERS": "no",
        "PATH": "/bin",
    }

    secrets = collect_secrets(settings, environment)

    assert set(secrets) == {
        "db-password",
        "broker-password",
        "cookie-signing-key-of-32-characters",
        "bucket-secret",
        "hf_abcdef",
    }
    assert redact_secrets("the key is bucket-secret", secrets) == "the key is [hidden]"


def test_a_hung_process_writes_a_traceback_on_request(log_tail):
    def hang():
        log_tail.attach()
        logging.getLogger().warning("about to hang")
        log_tail.save(["about to hang"])
        time.sleep(60)

    process = ForkedProcess(hang)
    while not log_tail.lines():
        assert process.wait(0.01) is None
    process.signal(TRACEBACK_SIGNAL)
    while not log_tail.traceback().count("\n") > 2:
        assert process.wait(0.01) is None
    process.kill()

    lines = log_tail.lines()
    assert lines[0] == "about to hang"
    assert any("in hang" in line for line in lines)


def test_a_fatal_signal_leaves_a_traceback(log_tail):
    def crash():
        log_tail.attach()
        os.kill(os.getpid(), signal.SIGSEGV)

    assert ForkedProcess(crash).wait(10) == -signal.SIGSEGV
    assert log_tail.lines()[0] == "Fatal Python error: Segmentation fault"

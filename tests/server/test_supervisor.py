"""The supervisor restarts exited processes and stops all of them."""

import os
import signal
import sys
import time

from tests.support.waiting import until

FOREVER = "import time; time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
)
WITH_CHILD = (
    "import subprocess, time;"
    "c = subprocess.Popen(['sleep', '600'], start_new_session=True);"
    "pathlib.Path(sys.argv[2], 'grandchild.pid').write_text(str(c.pid)); time.sleep(600)"
)


def test_a_killed_process_is_restarted(supervised):
    stack = supervised(a=FOREVER)
    first = stack.pid("a")
    os.kill(first, signal.SIGKILL)
    second = stack.pid("a", other_than=first)

    assert not stack.has_exited(second)
    assert "a ended with -9, restarting" in (stack.folder / "events").read_text()


def test_the_restart_delay_grows(supervised):
    stack = supervised(a="import time; open(sys.argv[2] + '/starts', 'a').write(f'{time.time()}\\n'); sys.exit(3)")
    starts = stack.folder / "starts"
    times = until(lambda: t if starts.exists() and len(t := starts.read_text().split()) >= 4 else None)
    first, second, third, fourth = map(float, times[:4])

    assert fourth - third > third - second > second - first


def test_a_failed_start_is_retried_while_others_run(supervised, tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    stack = supervised(python=str(python), a=FOREVER, b=FOREVER)
    first, other = stack.pid("a"), stack.pid("b")
    python.rename(tmp_path / "elsewhere")
    os.kill(first, signal.SIGKILL)
    until(lambda: "a cannot be started now" in stack.events())
    (tmp_path / "elsewhere").rename(python)
    stack.pid("a", other_than=first)

    assert not stack.has_exited(other)


def test_sigterm_stops_every_process_and_the_supervisor(supervised):
    stack = supervised(a=FOREVER, b=FOREVER, last=FOREVER)
    pids = [stack.pid(name) for name in ("a", "b", "last")]
    stack.process.terminate()

    assert stack.process.wait(10) == 0
    assert all(stack.has_exited(pid) for pid in pids)


def test_a_process_that_does_not_stop_is_killed_after_the_grace_period(supervised):
    stack = supervised(stop_seconds=0.5, a=STUBBORN)
    pid = stack.pid("a")
    until(lambda: "ready" in (stack.folder / "a.log").read_text())
    stack.process.terminate()
    stack.process.wait(10)

    assert stack.has_exited(pid)
    assert "a did not stop in time, killed" in (stack.folder / "events").read_text()


def test_a_second_signal_skips_the_grace_period(supervised):
    stack = supervised(stop_seconds=60, a=STUBBORN)
    pid = stack.pid("a")
    until(lambda: "ready" in (stack.folder / "a.log").read_text())
    began = time.monotonic()
    stack.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    stack.process.send_signal(signal.SIGINT)
    stack.process.wait(10)

    assert stack.has_exited(pid)
    assert time.monotonic() - began < 30  # of the 60 s grace period


def test_no_process_outlives_a_killed_supervisor(supervised):
    stack = supervised(a=FOREVER, b=STUBBORN)
    pids = [stack.pid("a"), stack.pid("b")]
    stack.process.kill()
    stack.process.wait()

    until(lambda: all(stack.has_exited(pid) for pid in pids), 3)


def test_an_orphaned_grandchild_is_killed(supervised):
    stack = supervised(a=WITH_CHILD)
    pid, grandchild = stack.pid("a"), stack.pid("grandchild")
    os.kill(pid, signal.SIGKILL)
    stack.pid("a", other_than=pid)
    stack.process.terminate()
    stack.process.wait(10)

    assert stack.has_exited(grandchild)


def test_output_goes_to_the_log_of_the_role(supervised):
    stack = supervised(a="print('hello', flush=True); " + FOREVER)
    stack.pid("a")

    until(lambda: "hello" in (stack.folder / "a.log").read_text())


def test_a_full_disk_stops_no_process(supervised, tmp_path):
    (tmp_path / "a.log").symlink_to("/dev/full")
    stack = supervised(
        a="import time\nfor n in range(9): print('x' * 500, flush=True)\n"
        "open(sys.argv[2] + '/done', 'w').close()\ntime.sleep(600)"
    )
    pid = stack.pid("a")
    until((stack.folder / "done").exists)
    os.kill(pid, signal.SIGKILL)
    stack.pid("a", other_than=pid)
    stack.process.terminate()

    assert stack.process.wait(10) == 0

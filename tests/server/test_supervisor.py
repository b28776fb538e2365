"""The supervisor: restarts what dies, ends everything, leaves nothing."""

import os
import signal
import sys
import time

FOREVER = "import time; time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
)
WITH_CHILD = (
    "import subprocess, time;"
    "c = subprocess.Popen(['sleep', '600'], start_new_session=True);"
    "pathlib.Path(sys.argv[2], 'grandchild.pid').write_text(str(c.pid)); time.sleep(600)"
)


def test_a_killed_process_is_started_again(supervised):
    stack = supervised(a=FOREVER)
    first = stack.pid("a")
    os.kill(first, signal.SIGKILL)
    second = stack.pid("a", other_than=first)

    assert not stack.gone(second)
    assert "a ended with -9, restarting" in (stack.folder / "news").read_text()


def test_a_process_that_fails_at_once_is_restarted_later_each_time(supervised):
    stack = supervised(a="import time; open(sys.argv[2] + '/starts', 'a').write(f'{time.time()}\\n'); sys.exit(3)")
    starts = stack.folder / "starts"
    times = stack.until(lambda: t if starts.exists() and len(t := starts.read_text().split()) >= 4 else None)
    first, second, third, fourth = map(float, times[:4])

    assert fourth - third > third - second > second - first


def test_a_process_that_cannot_be_started_now_is_started_later_and_the_others_go_on(supervised, tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    stack = supervised(python=str(python), a=FOREVER, b=FOREVER)
    first, other = stack.pid("a"), stack.pid("b")
    python.rename(tmp_path / "elsewhere")
    os.kill(first, signal.SIGKILL)
    stack.until(lambda: "a cannot be started now" in stack.news())
    (tmp_path / "elsewhere").rename(python)
    stack.pid("a", other_than=first)

    assert not stack.gone(other)


def test_sigterm_ends_every_process_and_the_supervisor(supervised):
    stack = supervised(a=FOREVER, b=FOREVER, last=FOREVER)
    pids = [stack.pid(name) for name in ("a", "b", "last")]
    stack.process.terminate()

    assert stack.process.wait(10) == 0
    assert all(stack.gone(pid) for pid in pids)


def test_a_process_that_does_not_stop_is_killed_after_the_grace_period(supervised):
    stack = supervised(stop_seconds=0.5, a=STUBBORN)
    pid = stack.pid("a")
    stack.until(lambda: "deaf" in (stack.folder / "a.log").read_text())
    stack.process.terminate()
    stack.process.wait(10)

    assert stack.gone(pid)
    assert "a did not stop in time, killed" in (stack.folder / "news").read_text()


def test_a_second_signal_ends_the_patience(supervised):
    stack = supervised(stop_seconds=60, a=STUBBORN)
    pid = stack.pid("a")
    stack.until(lambda: "deaf" in (stack.folder / "a.log").read_text())
    began = time.monotonic()
    stack.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    stack.process.send_signal(signal.SIGINT)
    stack.process.wait(10)

    assert stack.gone(pid)
    assert time.monotonic() - began < 30  # of the 60 s of patience


def test_no_process_outlives_a_supervisor_that_was_killed(supervised):
    stack = supervised(a=FOREVER, b=STUBBORN)
    pids = [stack.pid("a"), stack.pid("b")]
    stack.process.kill()
    stack.process.wait()

    stack.until(lambda: all(stack.gone(pid) for pid in pids), 3)


def test_a_child_of_a_killed_process_is_found_and_ended(supervised):
    stack = supervised(a=WITH_CHILD)
    pid, grandchild = stack.pid("a"), stack.pid("grandchild")
    os.kill(pid, signal.SIGKILL)
    stack.pid("a", other_than=pid)
    stack.process.terminate()
    stack.process.wait(10)

    assert stack.gone(grandchild)


def test_output_goes_to_the_role_s_log(supervised):
    stack = supervised(a="print('hello', flush=True); " + FOREVER)
    stack.pid("a")

    stack.until(lambda: "hello" in (stack.folder / "a.log").read_text())


def test_a_full_disk_ends_nothing(supervised, tmp_path):
    (tmp_path / "a.log").symlink_to("/dev/full")
    stack = supervised(
        a="import time\nfor n in range(9): print('x' * 500, flush=True)\n"
        "open(sys.argv[2] + '/said', 'w').close()\ntime.sleep(600)"
    )
    pid = stack.pid("a")
    stack.until((stack.folder / "said").exists)
    os.kill(pid, signal.SIGKILL)
    stack.pid("a", other_than=pid)
    stack.process.terminate()

    assert stack.process.wait(10) == 0

"""Fault points do nothing unless a test asks, and then exactly what it asked, once."""

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from core.system import fault_injection
from core.system.fault_injection import KILL, POINTS, VARIABLE, Fault

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def disarmed():
    yield
    fault_injection.arm(None)


def test_every_point_is_passed_somewhere_and_every_one_that_is_passed_is_known():
    sources = [path for package in ("core", "worker") for path in (ROOT / package).rglob("*.py")]
    passed = [name for path in sources for name in re.findall(r'fault_point\("([a-z._]+)"\)', path.read_text())]
    passed.remove("checkpoint.published")  # the example in the module's own words
    passed.remove("store.fetched")  # each of the two stores passes it

    assert sorted(passed) == sorted(POINTS)


def test_nothing_happens_where_nothing_is_armed():
    assert VARIABLE not in os.environ
    for name in POINTS:
        fault_injection.fault_point(name)


def test_an_error_is_raised_once_at_its_place(tmp_path):
    fault_injection.arm(Fault("store.copied", "ENOSPC", tmp_path / "once"))
    fault_injection.fault_point("store.moved")

    with pytest.raises(OSError, match="No space left") as raised:
        fault_injection.fault_point("store.copied")
    assert raised.value.errno == errno.ENOSPC
    fault_injection.fault_point("store.copied")


def test_the_nth_passage_is_the_one_that_counts(tmp_path):
    fault_injection.arm(Fault("stage.started", "EIO", tmp_path / "once", nth=3))
    fault_injection.fault_point("stage.started")
    fault_injection.fault_point("stage.started")

    with pytest.raises(OSError, match="Input/output"):
        fault_injection.fault_point("stage.started")


def test_the_environment_kills_a_process_once(tmp_path):
    code = "from core.system import fault_injection; fault_injection.fault_point('claim.committed'); print('alive')"
    environment = {**os.environ, VARIABLE: f"claim.committed={KILL}@{tmp_path / 'once'}"}
    first, second = (
        subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)
        for _ in range(2)
    )

    assert (first.returncode, first.stdout) == (-signal.SIGKILL, "")
    assert second.stdout == "alive\n"


@pytest.mark.parametrize("text", ["nowhere=kill@/x", "claim.committed=explode@/x"])
def test_a_fault_that_cannot_be_is_refused(text):
    with pytest.raises(ValueError, match="is n"):
        Fault.parse(text)

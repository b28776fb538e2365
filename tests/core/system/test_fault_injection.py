"""Fault points do nothing unless a test arms them; an armed fault happens exactly once."""

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


def test_every_fault_point_is_used_and_every_used_one_is_known():
    sources = [path for package in ("core", "worker") for path in (ROOT / package).rglob("*.py")]
    used = [name for path in sources for name in re.findall(r'fault_point\("([a-z._]+)"\)', path.read_text())]
    used.remove("checkpoint.published")  # the example in the module's docstring
    used.remove("store.fetched")  # both stores have it

    assert sorted(used) == sorted(POINTS)


def test_fault_points_do_nothing_unless_armed():
    assert VARIABLE not in os.environ
    for name in POINTS:
        fault_injection.fault_point(name)


def test_an_error_is_raised_once_at_its_fault_point(tmp_path):
    fault_injection.arm(Fault("store.copied", "ENOSPC", tmp_path / "once"))
    fault_injection.fault_point("store.moved")

    with pytest.raises(OSError, match="No space left") as raised:
        fault_injection.fault_point("store.copied")
    assert raised.value.errno == errno.ENOSPC
    fault_injection.fault_point("store.copied")


def test_a_fault_happens_at_the_nth_visit(tmp_path):
    fault_injection.arm(Fault("stage.started", "EIO", tmp_path / "once", nth=3))
    fault_injection.fault_point("stage.started")
    fault_injection.fault_point("stage.started")

    with pytest.raises(OSError, match="Input/output"):
        fault_injection.fault_point("stage.started")


def test_a_fault_from_the_environment_kills_once(tmp_path):
    code = "from core.system import fault_injection; fault_injection.fault_point('claim.committed'); print('alive')"
    environment = {**os.environ, VARIABLE: f"claim.committed={KILL}@{tmp_path / 'once'}"}
    first, second = (
        subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)
        for _ in range(2)
    )

    assert (first.returncode, first.stdout) == (-signal.SIGKILL, "")
    assert second.stdout == "alive\n"


@pytest.mark.parametrize("text", ["nowhere=kill@/x", "claim.committed=explode@/x"])
def test_an_invalid_fault_is_rejected(text):
    with pytest.raises(ValueError, match="is n"):
        Fault.parse(text)

"""Processes with limits: whatever happens in one, whoever asked gets an answer, and in time."""

import json
import os
import signal
import time

import psutil
import pytest

from core.errors import InvalidRequest, ProcessLost
from core.reporting import Control, Interrupted
from worker.ingest.sandboxed import ProcessLimits, SandboxCrashed, SandboxTimeout, run_sandboxed

MEGABYTE = 1024**2
LIMITS = ProcessLimits(memory_bytes=300 * MEGABYTE, file_bytes=MEGABYTE, seconds=20.0)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Ask a process that runs this code; it finds its question in ``question`` and prints its answer."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def start(code, *, control=lambda: Control.GO, question=None, **limits):
        head = "import json, os, resource, signal, sys, time\nquestion = json.load(sys.stdin)\n"
        (tmp_path / "asked.py").write_text(head + code)
        known = {name: getattr(LIMITS, name) for name in LIMITS.__slots__}
        return run_sandboxed(
            "asked", question or {}, ProcessLimits(**{**known, **limits}), scratch=scratch, control=control
        )

    return start


def says(expression):
    return f"print(json.dumps({{'ok': {expression}}}))\n"


def test_it_answers(run):
    assert run(says("{'twice': 2 * question['number']}"), question={"number": 4}) == {"twice": 8}


def test_an_error_that_it_answers_is_raised_as_such(run):
    document = {"code": "invalid_request", "title": "", "status": 422, "detail": "no", "errors": [], "extra": {"a": 1}}

    with pytest.raises(InvalidRequest, match="no") as error:
        run(f"print(json.dumps({{'error': {document!r}}}))")
    assert error.value.extra == {"a": 1}


def test_it_sees_no_secret_of_its_parent(run, monkeypatch):
    for name in ("POTSTILL_DATABASE_URL", "POTSTILL_SECRET_KEY", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "geheim")
    seen = run(says("{'all': dict(os.environ), 'raw': open('/proc/self/environ').read()}"))

    assert "geheim" not in json.dumps(seen)
    assert "PATH" in seen["all"]


def test_its_home_and_temporary_files_are_in_the_scratch_folder(run, tmp_path):
    seen = run("import tempfile, pathlib\n" + says("{'paths': [tempfile.gettempdir(), str(pathlib.Path.home())]}"))

    assert seen["paths"] == [str(tmp_path / "scratch")] * 2


def test_its_answer_is_what_it_printed_and_not_what_it_put_in_its_place(run, tmp_path):
    (tmp_path / "secret.json").write_text('{"ok": {"secret": 1}}')
    swap = f"os.unlink('response.json'); os.symlink({str(tmp_path / 'secret.json')!r}, 'response.json')\n"

    assert run("os.chdir(os.environ['HOME'])\n" + swap + says("{'mine': 1}")) == {"mine": 1}


def test_its_limits_are_set_and_cannot_be_raised(run):
    code = """
names = ("DATA", "FSIZE", "NOFILE", "CORE", "CPU")
found = {name: resource.getrlimit(getattr(resource, "RLIMIT_" + name)) for name in names}
privileges = open("/proc/self/status").read().split("NoNewPrivs:")[1].split()[0]
"""
    seen = run(code + says("{'limits': found, 'privileges': privileges}"), seconds=10.0)

    assert seen["limits"] == {
        "DATA": [300 * MEGABYTE] * 2,
        "FSIZE": [65 * MEGABYTE] * 2,
        "NOFILE": [256] * 2,
        "CORE": [0, 0],
        "CPU": [70, 75],
    }
    assert seen["privileges"] == "1"


def test_memory_and_files_beyond_the_limit_are_refused_to_it(run):
    code = """
try:
    bytearray(10**9)
except MemoryError:
    memory = "refused"
try:
    with open("big", "wb") as file:
        for _ in range(100):
            file.write(bytes(1024**2))
except OSError as error:
    disk = error.errno
"""
    seen = run(f"os.chdir(os.environ['HOME'])\n{code}" + says("{'memory': memory, 'disk': disk}"))

    assert seen == {"memory": "refused", "disk": 27}  # EFBIG


@pytest.mark.parametrize("code", ["time.sleep(60)", "while True: pass", "sum(range(10**12))", "9 ** 9 ** 9"])
def test_what_takes_too_long_is_ended_whatever_it_does(run, code):
    before = time.monotonic()

    with pytest.raises(SandboxTimeout):
        run(code, seconds=0.3)
    assert time.monotonic() - before < 5
    assert children() == []


def test_the_kernel_ends_it_where_nobody_is_left_to(run):
    with pytest.raises(SandboxTimeout):
        run("os.kill(os.getpid(), signal.SIGXCPU)")


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("os.abort()", "by SIGABRT"),
        ("import ctypes; ctypes.string_at(0)", "by SIGSEGV"),
        ("sys.exit(3)", "with status 3"),
        ("raise ValueError", "with status 1"),
    ],
)
def test_a_crash_is_told_with_its_kind(run, code, how):
    with pytest.raises(SandboxCrashed, match=how):
        run(code)


def test_one_that_was_killed_is_lost_and_no_fault_of_the_file(run):
    with pytest.raises(ProcessLost):
        run("os.kill(os.getpid(), signal.SIGKILL)")


def test_a_drain_ends_it(run):
    with pytest.raises(Interrupted):
        run("time.sleep(60)", control=lambda: Control.DRAIN)
    assert children() == []


def test_it_outlives_the_signal_that_ends_its_group(run):
    """The worker that asks ignores it too while it works, and says itself when to stop."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert run("os.kill(os.getpid(), signal.SIGTERM)\n" + says("{}")) == {}
    finally:
        signal.signal(signal.SIGTERM, before)


def children():
    return [child for child in psutil.Process(os.getpid()).children() if "asked" in child.cmdline()]

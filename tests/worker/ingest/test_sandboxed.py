"""Sandboxed processes: the caller gets a response or an error within the time limit, whatever the process does."""

import json
import os
import signal

import psutil
import pytest

from core.errors import InvalidRequest, ProcessLost
from core.reporting import Control, Interrupted
from worker.ingest.sandboxed import ProcessLimits, SandboxCrashed, SandboxTimeout, run_sandboxed

MEGABYTE = 1024**2
LIMITS = ProcessLimits(memory_bytes=300 * MEGABYTE, file_bytes=MEGABYTE, seconds=20.0)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a function that runs code in a sandboxed process, with the request in ``request``."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def start(code, *, control=lambda: Control.GO, request=None, **limits):
        head = "import json, os, resource, signal, sys, time\nrequest = json.load(sys.stdin)\n"
        (tmp_path / "sandboxed_code.py").write_text(head + code)
        defaults = {name: getattr(LIMITS, name) for name in LIMITS.__slots__}
        return run_sandboxed(
            "sandboxed_code", request or {}, ProcessLimits(**{**defaults, **limits}), scratch=scratch, control=control
        )

    return start


def respond(expression):
    return f"print(json.dumps({{'ok': {expression}}}))\n"


def test_it_returns_the_response(run):
    assert run(respond("{'twice': 2 * request['number']}"), request={"number": 4}) == {"twice": 8}


def test_an_error_response_is_raised(run):
    document = {"code": "invalid_request", "title": "", "status": 422, "detail": "no", "errors": [], "extra": {"a": 1}}

    with pytest.raises(InvalidRequest, match="no") as error:
        run(f"print(json.dumps({{'error': {document!r}}}))")
    assert error.value.extra == {"a": 1}


def test_it_inherits_no_secret(run, monkeypatch):
    for name in ("POTSTILL_DATABASE_URL", "POTSTILL_SECRET_KEY", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "geheim")
    response = run(respond("{'all': dict(os.environ), 'raw': open('/proc/self/environ').read()}"))

    assert "geheim" not in json.dumps(response)
    assert "PATH" in response["all"]


def test_its_home_and_temporary_files_are_in_the_scratch_folder(run, tmp_path):
    response = run(
        "import tempfile, pathlib\n" + respond("{'paths': [tempfile.gettempdir(), str(pathlib.Path.home())]}")
    )

    assert response["paths"] == [str(tmp_path / "scratch")] * 2


def test_its_response_is_its_output_and_not_a_replaced_file(run, tmp_path):
    (tmp_path / "secret.json").write_text('{"ok": {"secret": 1}}')
    swap = f"os.unlink('response.json'); os.symlink({str(tmp_path / 'secret.json')!r}, 'response.json')\n"

    assert run("os.chdir(os.environ['HOME'])\n" + swap + respond("{'own': 1}")) == {"own": 1}


def test_its_limits_are_set_and_cannot_be_raised(run):
    code = """
names = ("DATA", "FSIZE", "NOFILE", "CORE", "CPU")
limits = {name: resource.getrlimit(getattr(resource, "RLIMIT_" + name)) for name in names}
privileges = open("/proc/self/status").read().split("NoNewPrivs:")[1].split()[0]
"""
    response = run(code + respond("{'limits': limits, 'privileges': privileges}"), seconds=10.0)

    assert response["limits"] == {
        "DATA": [300 * MEGABYTE] * 2,
        "FSIZE": [65 * MEGABYTE] * 2,
        "NOFILE": [256] * 2,
        "CORE": [0, 0],
        "CPU": [10, 15],
    }
    assert response["privileges"] == "1"


def test_memory_and_files_beyond_the_limits_fail(run):
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
    response = run(f"os.chdir(os.environ['HOME'])\n{code}" + respond("{'memory': memory, 'disk': disk}"))

    assert response == {"memory": "refused", "disk": 27}  # EFBIG


@pytest.mark.parametrize("code", ["while True: pass", "sum(range(10**12))", "9 ** 9 ** 9"])
def test_a_process_beyond_its_processor_time_is_killed(run, code):
    with pytest.raises(SandboxTimeout):
        run(code, seconds=1.0)
    assert child_processes() == []


def test_a_process_that_gets_no_processor_time_is_lost_and_no_fault_of_the_file(run):
    with pytest.raises(ProcessLost, match="the machine is busy"):
        run("time.sleep(60)", wall_seconds=0.3)
    assert child_processes() == []


def test_the_kernels_cpu_limit_is_a_timeout(run):
    with pytest.raises(SandboxTimeout):
        run("os.kill(os.getpid(), signal.SIGXCPU)")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("os.abort()", "by SIGABRT"),
        ("import ctypes; ctypes.string_at(0)", "by SIGSEGV"),
        ("sys.exit(3)", "with status 3"),
        ("raise ValueError", "with status 1"),
    ],
)
def test_a_crash_names_its_signal_or_status(run, code, reason):
    with pytest.raises(SandboxCrashed, match=reason):
        run(code)


def test_a_killed_process_is_lost_and_no_fault_of_the_file(run):
    with pytest.raises(ProcessLost):
        run("os.kill(os.getpid(), signal.SIGKILL)")


def test_a_drain_kills_it(run):
    with pytest.raises(Interrupted):
        run("time.sleep(60)", control=lambda: Control.DRAIN)
    assert child_processes() == []


def test_it_ignores_sigterm(run):
    """The worker also ignores SIGTERM during an ingest, and stops the process itself."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert run("os.kill(os.getpid(), signal.SIGTERM)\n" + respond("{}")) == {}
    finally:
        signal.signal(signal.SIGTERM, before)


def child_processes():
    return [child for child in psutil.Process(os.getpid()).children() if "sandboxed_code" in child.cmdline()]

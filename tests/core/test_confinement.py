"""A confined process: each test starts one, as nothing can be taken back in this one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TRIES = """
import json, os, socket, subprocess, sys
from core.confinement import confine

def outcome(work):
    try:
        work()
    except Exception as error:
        return type(error).__name__
    return "done"

socket_before = socket.socket()
tries = {
    "network": lambda: socket.socket(),
    "udp": lambda: socket.socket(type=socket.SOCK_DGRAM),
    "unix": lambda: socket.socket(socket.AF_UNIX),
    "connect": lambda: socket_before.connect(("127.0.0.1", 9)),
    "program": lambda: subprocess.run(["true"], check=True),
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "kill": lambda: os.kill(os.getppid(), 0),
    "read": lambda: open(__file__).read() if "__file__" in globals() else open("/proc/self/status").read(),
    "write": lambda: open(os.devnull, "w").write("x"),
    "compute": lambda: sum(range(1000)),
}
confined = confine()
print(json.dumps({"confined": confined, **{name: outcome(work) for name, work in tries.items()}}))
"""


@pytest.fixture(scope="module")
def confined():
    done = subprocess.run([sys.executable, "-c", TRIES], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    if not found["confined"]:
        pytest.skip("this system cannot confine a process (seccomp)")
    return found


@pytest.mark.parametrize("what", ["network", "udp", "unix", "connect", "program", "exec", "kill"])
def test_the_way_out_is_closed(confined, what):
    assert confined[what] == "PermissionError"


@pytest.mark.parametrize("what", ["read", "write", "compute"])
def test_the_work_itself_goes_on(confined, what):
    assert confined[what] == "done"


def test_what_it_forks_is_confined_too():
    code = (
        "import os, socket; from core.confinement import confine; known = confine(); pid = os.fork()\n"
        "if pid == 0:\n"
        "    try:\n"
        "        socket.socket()\n"
        "    except PermissionError:\n"
        "        os._exit(7)\n"
        "    os._exit(0)\n"
        "print(int(known), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    known, status = done.stdout.split()

    assert (known, status) in {("1", "7"), ("0", "0")}


def test_this_machine_is_one_that_can():
    """Every Linux of the last ten years can; if this fails, uploads are read by a process with a network."""
    if os.uname().machine not in {"x86_64", "aarch64"} or not Path("/proc/self/status").exists():
        pytest.skip("no Linux of a known architecture")
    code = "from core.confinement import confine; print(confine(), open('/proc/self/status').read())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.startswith("True")
    assert "NoNewPrivs:\t1" in done.stdout
    assert "Seccomp:\t2" in done.stdout

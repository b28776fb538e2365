"""A confined process: each test starts one, as nothing can be taken back in this one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TRIES = """
import json, os, socket, subprocess, sys
from core.confinement import close_ways_out as confine

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
        "import os, socket; from core.confinement import close_ways_out; known = close_ways_out(); pid = os.fork()\n"
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


FILES = """
import json, os, sys
from pathlib import Path
from core.confinement import keep_to

folder = Path(sys.argv[1])

def outcome(work):
    try:
        work()
    except Exception as error:
        return type(error).__name__
    return "done"

def late():
    import xml.dom.minidom

tries = {
    "own file": lambda: (folder / "upload").read_bytes(),
    "write to own file": lambda: (folder / "upload").open("r+b"),
    "own folder": lambda: (folder / "scratch" / "new").write_text("x"),
    "rename in own folder": lambda: (folder / "scratch" / "new").rename(folder / "scratch" / "newer"),
    "list own folder": lambda: os.listdir(folder / "scratch"),
    "late import": late,
    "other file": lambda: (folder / "secret").read_bytes(),
    "other folder": lambda: os.listdir(folder),
    "new file": lambda: (folder / "new").write_text("x"),
    "delete": lambda: (folder / "secret").unlink(),
    "truncate": lambda: os.truncate(folder / "secret", 0),
    "passwords": lambda: Path("/etc/passwd").read_bytes(),
    "parent's environment": lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes(),
    "parent's memory": lambda: Path(f"/proc/{os.getppid()}/mem").open("rb"),
    "through a link": lambda: (folder / "scratch" / "link").read_bytes(),
    "climbing": lambda: (folder / "scratch" / ".." / "secret").read_bytes(),
}
kept = keep_to(readable=[folder / "upload"], writable=[folder / "scratch"])
print(json.dumps({"kept": kept, **{name: outcome(work) for name, work in tries.items()}}))
"""


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    (folder / "scratch").mkdir()
    (folder / "upload").write_text("upload")
    (folder / "secret").write_text("secret")
    (folder / "scratch" / "link").symlink_to(folder / "secret")
    done = subprocess.run([sys.executable, "-c", FILES, str(folder)], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    if not found["kept"]:
        pytest.skip("this system cannot keep a process from files (Landlock)")
    assert (folder / "secret").read_text() == "secret"
    return found


@pytest.mark.parametrize("what", ["own file", "own folder", "rename in own folder", "list own folder", "late import"])
def test_what_it_was_started_for_is_there(kept, what):
    assert kept[what] == "done"


@pytest.mark.parametrize(
    "what",
    ["write to own file", "other file", "other folder", "new file", "delete", "truncate", "passwords",
     "parent's environment", "parent's memory", "through a link", "climbing"],
)  # fmt: skip
def test_nothing_else_is(kept, what):
    assert kept[what] == "PermissionError"


def test_this_machine_is_one_that_can():
    """Every Linux of the last ten years can; if this fails, uploads are read by a process with a network."""
    if os.uname().machine not in {"x86_64", "aarch64"} or not Path("/proc/self/status").exists():
        pytest.skip("no Linux of a known architecture")
    code = (
        "from core.confinement import close_ways_out, keep_to\n"
        "print(keep_to(readable=[], writable=[]) and close_ways_out(), open('/proc/self/status').read())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.startswith("True")
    assert "NoNewPrivs:\t1" in done.stdout
    assert "Seccomp:\t2" in done.stdout

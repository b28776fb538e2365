"""The sandbox. Each fixture starts a process, as a sandbox cannot be left."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SYSCALL_SCRIPT = """
import ctypes, json, os, platform, resource, signal, socket, subprocess, sys, threading
from pathlib import Path
from core.system.sandbox import restrict_syscalls

def outcome(work):
    try:
        work()
    except Exception as error:
        return type(error).__name__
    return "done"

def call(x86_64, aarch64, *arguments):
    if libc.syscall({"x86_64": x86_64, "aarch64": aarch64}[platform.machine()], *arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")

def a_thread():
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()

def a_process():
    if os.fork() == 0:
        os._exit(0)

libc = ctypes.CDLL(None, use_errno=True)
other, secret = os.getppid(), Path(sys.argv[1])
socket_before = socket.socket()
tries = {
    "network": lambda: socket.socket(),
    "udp": lambda: socket.socket(type=socket.SOCK_DGRAM),
    "unix": lambda: socket.socket(socket.AF_UNIX),
    "connect": lambda: socket_before.connect(("127.0.0.1", 9)),
    "program": lambda: subprocess.run(["true"], check=True),
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "kill": lambda: os.kill(other, 0),
    "kill a thread": lambda: call(234, 131, other, other, 0),
    "kill by the old call": lambda: call(200, 130, other, 0),
    "limits of others": lambda: resource.prlimit(other, resource.RLIMIT_CPU),
    "priority of others": lambda: os.setpriority(os.PRIO_PROCESS, other, 19),
    "a process": a_process,
    "mode": lambda: secret.chmod(0o666),
    "owner": lambda: os.chown(secret, os.getuid(), os.getgid()),
    "times": lambda: os.utime(secret, (0, 0)),
    "attribute": lambda: os.setxattr(secret, "user.a", b"x"),
    "truncate": lambda: os.truncate(secret, 0),
    "a thread": a_thread,
    "signal to oneself": lambda: signal.raise_signal(signal.SIGCONT),
    "own limits": lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
    "read": lambda: open(__file__).read() if "__file__" in globals() else open("/proc/self/status").read(),
    "write": lambda: open(os.devnull, "w").write("x"),
    "compute": lambda: sum(range(1000)),
}
supported = restrict_syscalls()
print(json.dumps({"supported": supported, **{name: outcome(work) for name, work in tries.items()}}))
"""


@pytest.fixture(scope="module")
def syscall_outcomes(tmp_path_factory):
    secret = tmp_path_factory.mktemp("sandbox") / "secret"
    secret.write_text("secret")
    done = subprocess.run(
        [sys.executable, "-c", SYSCALL_SCRIPT, str(secret)], capture_output=True, text=True, check=True
    )
    outcomes = json.loads(done.stdout)
    if not outcomes["supported"]:
        pytest.skip("this system has no seccomp")
    return outcomes


@pytest.mark.parametrize("operation", ["network", "udp", "unix", "connect", "program", "exec"])
def test_network_and_programs_are_forbidden(syscall_outcomes, operation):
    assert syscall_outcomes[operation] == "PermissionError"


@pytest.mark.parametrize(
    "operation", ["kill", "kill a thread", "kill by the old call", "limits of others", "priority of others"]
)
def test_other_processes_are_inaccessible(syscall_outcomes, operation):
    assert syscall_outcomes[operation] == "PermissionError"


def test_it_cannot_fork(syscall_outcomes):
    """A forked process would survive the kill of its parent and its time limit."""
    assert syscall_outcomes["a process"] == "PermissionError"


@pytest.mark.parametrize("operation", ["mode", "owner", "times", "attribute", "truncate"])
def test_metadata_of_other_files_cannot_be_changed(syscall_outcomes, operation):
    assert syscall_outcomes[operation] == "PermissionError"


@pytest.mark.parametrize("operation", ["read", "write", "compute", "a thread", "signal to oneself", "own limits"])
def test_allowed_operations_succeed(syscall_outcomes, operation):
    assert syscall_outcomes[operation] == "done"


FILE_SCRIPT = """
import json, os, sys
from pathlib import Path
from core.system.sandbox import restrict_files

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
    "folder in own folder": lambda: (folder / "scratch" / "deeper").mkdir(),
    "delete in own folder": lambda: (folder / "scratch" / "newer").unlink(),
    "late import": late,
    "link in own folder": lambda: (folder / "scratch" / "to-secret").symlink_to(folder / "secret"),
    "hard link in own folder": lambda: os.link(folder / "secret", folder / "scratch" / "hard"),
    "pipe in own folder": lambda: os.mkfifo(folder / "scratch" / "pipe"),
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
supported = restrict_files(readable=[folder / "upload"], writable=[folder / "scratch"])
print(json.dumps({"supported": supported, **{name: outcome(work) for name, work in tries.items()}}))
"""


@pytest.fixture(scope="module")
def file_outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sandbox")
    (folder / "scratch").mkdir()
    (folder / "upload").write_text("upload")
    (folder / "secret").write_text("secret")
    (folder / "scratch" / "link").symlink_to(folder / "secret")
    done = subprocess.run([sys.executable, "-c", FILE_SCRIPT, str(folder)], capture_output=True, text=True, check=True)
    outcomes = json.loads(done.stdout)
    if not outcomes["supported"]:
        pytest.skip("this system has no Landlock")
    assert (folder / "secret").read_text() == "secret"
    return outcomes


@pytest.mark.parametrize(
    "operation",
    ["own file", "own folder", "rename in own folder", "list own folder", "folder in own folder",
     "delete in own folder", "late import"],
)  # fmt: skip
def test_its_own_files_are_accessible(file_outcomes, operation):
    assert file_outcomes[operation] == "done"


@pytest.mark.parametrize(
    "operation",
    ["write to own file", "other file", "other folder", "new file", "delete", "truncate", "passwords",
     "parent's environment", "parent's memory", "through a link", "climbing"],
)  # fmt: skip
def test_other_files_are_inaccessible(file_outcomes, operation):
    assert file_outcomes[operation] == "PermissionError"


@pytest.mark.parametrize("operation", ["link in own folder", "pipe in own folder", "hard link in own folder"])
def test_it_cannot_create_links_or_pipes(file_outcomes, operation):
    assert file_outcomes[operation] in {"PermissionError", "OSError"}  # EXDEV for a hard link


def test_this_machine_supports_the_sandbox():
    """Every Linux of the last ten years does. If this fails, a process with network access reads uploads."""
    if os.uname().machine not in {"x86_64", "aarch64"} or not Path("/proc/self/status").exists():
        pytest.skip("not a Linux on a supported architecture")
    code = (
        "from core.system.sandbox import restrict_files, restrict_syscalls\n"
        "print(restrict_files(readable=[], writable=[]) and restrict_syscalls(), open('/proc/self/status').read())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.startswith("True")
    assert "NoNewPrivs:\t1" in done.stdout
    assert "Seccomp:\t2" in done.stdout

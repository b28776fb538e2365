"""Sandbox of a process that reads untrusted files: it can read its file, compute, and write to its folder.

A decoder that a crafted file takes over has no network, cannot run programs or access other processes (seccomp), and
can open no other files (Landlock). The kernel enforces this for the rest of the process's life. The process can start
threads but no processes, so nothing outlives it. Neither mechanism needs a privilege. The parent limits memory, time
and file sizes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
_MODE_FILTER = 2
_KILL_PROCESS, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # instructions of classic BPF
_AT_NUMBER, _AT_ARCHITECTURE, _AT_FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_X32_NUMBERS = 0x40000000  # on x86-64 every call has a second number (x32 ABI)


@dataclass(frozen=True, slots=True)
class _Syscalls:
    """System call numbers of an architecture and its seccomp identifier. Each row of `_SYSCALLS` has one purpose."""

    architecture: int
    forbidden: tuple[int, ...]
    signal_thread: int  # tgkill: only to the process itself, for abort()
    set_limits: int  # prlimit64: only of the process itself
    clone: int  # only for threads
    clone3: int  # fails with ENOSYS: its flags are behind a pointer, and libraries fall back to clone


_SYSCALLS = {
    "x86_64": _Syscalls(
        0xC000003E,
        (
            41, 42,  # socket, connect
            59, 322, 57, 58,  # execve, execveat, fork, vfork
            101, 310, 311, 438,  # ptrace, process_vm_readv, process_vm_writev, pidfd_getfd
            62, 200, 129, 297, 424,  # kill, tkill, rt_sigqueueinfo, rt_tgsigqueueinfo, pidfd_send_signal
            141, 144, 142, 314, 203,  # setpriority, sched_setscheduler, _setparam, _setattr, _setaffinity
            90, 91, 268, 452, 92, 93, 94, 260,  # chmod, fchmod, fchmodat, fchmodat2, chown, fchown, lchown, fchownat
            188, 189, 190, 463, 76,  # setxattr, lsetxattr, fsetxattr, setxattrat, truncate
            132, 235, 261, 280,  # utime, utimes, futimesat, utimensat
            425, 272, 165, 321, 323, 298,  # io_uring_setup, unshare, mount, bpf, userfaultfd, perf_event_open
            248, 249, 250,  # add_key, request_key, keyctl
        ),
        signal_thread=234, set_limits=302, clone=56, clone3=435,
    ),
    "aarch64": _Syscalls(
        0xC00000B7,
        (
            198, 203,
            221, 281,
            117, 270, 271, 438,
            129, 130, 138, 240, 424,
            140, 119, 118, 274, 122,
            52, 53, 452, 54, 55,
            5, 6, 7, 463, 45,
            88,
            425, 97, 40, 280, 282, 241,
            217, 218, 219,
        ),
        signal_thread=131, set_limits=261, clone=220, clone3=435,
    ),
}  # fmt: skip
_CLONE_THREAD = 0x10000

# Landlock: the same numbers on every architecture. Access rights are bits.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_GET_VERSION, _BENEATH = 1, 1
_READ_FILE, _READ_FOLDER, _TRUNCATE = 1 << 2, 1 << 3, 1 << 14
_ANY_FILE_ACCESS = (1 << 13) - 1  # of ABI version 1; version 3 added truncation
# In its own folder: write, remove and create files and folders. No links or pipes: a later reader would follow a link
# or block on a pipe.
_OWN_FILES = 1 << 1 | _READ_FILE | _READ_FOLDER | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8

_OWN_PACKAGES = ("core", "potstill_models")
_SYSTEM_PATHS = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share", "/etc/ld.so.cache", "/etc/localtime",
    "/dev/null", "/dev/urandom", "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system",
)  # fmt: skip

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def set_no_new_privs() -> None:
    """Gain no privileges from set-uid programs; kept across ``exec``. Linux only."""
    if hasattr(_libc, "prctl"):
        _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def enter_sandbox(*, readable: Iterable[Path], writable: Iterable[Path]) -> None:
    """Restrict this process to these files and folders and those of Python; forbid system calls, where supported."""
    set_no_new_privs()
    restrict_files(readable=readable, writable=writable)
    restrict_syscalls()


def restrict_syscalls() -> bool:
    """Forbid network, programs and other processes permanently; return False if the system does not support it.

    Also forbids what Landlock allows on other files: changes of modes, owners, times and attributes. Threads are
    allowed.
    """
    if platform.machine() not in _SYSCALLS or not hasattr(_libc, "prctl"):
        return False
    set_no_new_privs()
    code = _filter(_SYSCALLS[platform.machine()])
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    return bool(_libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0) == 0)


def restrict_files(*, readable: Iterable[Path], writable: Iterable[Path]) -> bool:
    """Forbid all files but these and those of Python permanently; return False if the system does not support it.

    Open files stay open. A path that does not exist now stays inaccessible.
    """
    version = _libc.syscall(_CREATE_RULESET, None, 0, _GET_VERSION) if sys.platform == "linux" else -1
    if version < 1:
        return False
    set_no_new_privs()
    all_access = _ANY_FILE_ACCESS | (_TRUNCATE if version >= 3 else 0)
    handled = struct.pack("=Q", all_access)
    rules = _libc.syscall(_CREATE_RULESET, handled, len(handled), 0)
    if rules < 0:
        return False
    try:
        for path in (*_python_paths(), *readable):
            _allow(rules, path, _READ_FILE | _READ_FOLDER)
        for path in writable:
            _allow(rules, path, all_access & (_OWN_FILES | _TRUNCATE))
        return bool(_libc.syscall(_RESTRICT_SELF, rules, 0) == 0)
    finally:
        os.close(rules)


def _python_paths() -> list[Path]:
    """Return the paths that imports and libraries read, now or later; not the checkout, which may hold data."""
    packages = [path for path in map(Path, sys.path) if path.name in {"site-packages", "dist-packages", "lib-dynload"}]
    own = [Path(sys.modules[name].__path__[0]) for name in _OWN_PACKAGES if name in sys.modules]
    roots = [Path(prefix) / "lib" for prefix in {sys.prefix, sys.base_prefix}]
    return [*roots, *packages, *own, *map(Path, _SYSTEM_PATHS)]


def _allow(rules: int, path: Path, access: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # not on this system
        return
    try:
        rights = access if path.is_dir() else access & ~(_ANY_FILE_ACCESS ^ 0b111)  # files: execute, write, read
        rule = struct.pack("=Qi", rights, descriptor)
        _libc.syscall(_ADD_RULE, rules, _BENEATH, rule, 0)
    finally:
        os.close(descriptor)


def _filter(calls: _Syscalls) -> bytes:
    def step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("=HBBI", code, if_true, if_false, value)

    def only(number: int, test: int, value: int) -> list[bytes]:
        """Allow this call only if its first argument passes the test."""
        return [
            step(_IF_EQUAL, number, 0, 4),
            step(_LOAD, _AT_FIRST_ARGUMENT),  # the lower half, which is all that these three calls read
            step(test, value, 0, 1),
            step(_RETURN, _ALLOW),
            step(_RETURN, _ERRNO | errno.EPERM),
        ]

    steps = [
        step(_LOAD, _AT_ARCHITECTURE),
        step(_IF_EQUAL, calls.architecture, 1, 0),
        step(_RETURN, _KILL_PROCESS),
        step(_LOAD, _AT_NUMBER),
        step(_IF_AT_LEAST, _X32_NUMBERS, 0, 1),
        step(_RETURN, _KILL_PROCESS),
    ]
    for number in calls.forbidden:
        steps += [step(_IF_EQUAL, number, 0, 1), step(_RETURN, _ERRNO | errno.EPERM)]
    steps += [step(_IF_EQUAL, calls.clone3, 0, 1), step(_RETURN, _ERRNO | errno.ENOSYS)]
    steps += only(calls.clone, _IF_SET, _CLONE_THREAD)
    steps += only(calls.signal_thread, _IF_EQUAL, os.getpid())
    steps += only(calls.set_limits, _IF_EQUAL, 0)
    return b"".join([*steps, step(_RETURN, _ALLOW)])

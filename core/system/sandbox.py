"""What a process that reads files from strangers may still do: read its file, compute, write into its folder.

A decoder that is taken over by a crafted file gets no network, no other program, no look into other processes
(seccomp) and no files but those that it was started for (Landlock): the kernel refuses the rest from here on, to
this process for good. It may start threads but no process, so nothing of it outlives it. Neither needs a privilege.
Memory, time and file sizes are limited by whoever starts the process.
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
_AT_NUMBER, _AT_ARCHITECTURE, _AT_FIRST_ARGUMENT = 0, 4, 16  # in struct seccomp_data
_OTHER_NUMBERS = 0x40000000  # x86-64 knows every call by a second number (x32)


@dataclass(frozen=True, slots=True)
class _Calls:
    """The numbers of an architecture's system calls, and how it names itself to seccomp. One row, one purpose."""

    architecture: int
    refused: tuple[int, ...]
    signal_thread: int  # tgkill: to oneself alone, which is how a process aborts
    set_limits: int  # prlimit64: of oneself alone
    clone: int  # threads alone
    clone3: int  # is said not to exist: it hides its flags behind a pointer, and libraries then take clone


_REFUSED = {
    "x86_64": _Calls(
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
    "aarch64": _Calls(
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

# Landlock: the same numbers on every architecture. Kinds of access are bits.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION, _BENEATH = 1, 1
_READ_FILE, _READ_FOLDER, _TRUNCATE = 1 << 2, 1 << 3, 1 << 14
_ANY_FILE_ACCESS = (1 << 13) - 1  # of the first version; the third added truncating
# Of these in its own folder: write, remove and make files and folders. Whoever reads there later follows links, and
# would wait at a pipe for ever.
_OWN_FILES = 1 << 1 | _READ_FILE | _READ_FOLDER | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8

_OWN_PACKAGES = ("core", "potstill_models")
_SYSTEM_PLACES = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share", "/etc/ld.so.cache", "/etc/localtime",
    "/dev/null", "/dev/urandom", "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system",
)  # fmt: skip

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def forgo_privileges() -> None:
    """Gain nothing from programs that are set-uid. Survives an ``exec``; Linux alone has it."""
    if hasattr(_libc, "prctl"):
        _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def confine(*, readable: Iterable[Path], writable: Iterable[Path]) -> None:
    """Keep to these files and folders, Python's own aside, and give up every way out, as far as the system can."""
    forgo_privileges()
    keep_to(readable=readable, writable=writable)
    close_ways_out()


def close_ways_out() -> bool:
    """Give up network, other programs and other processes for good. False where this system has no way to.

    What Landlock leaves open of other files (modes, owners, times, attributes) goes too. Threads may be started.
    """
    if platform.machine() not in _REFUSED or not hasattr(_libc, "prctl"):
        return False
    forgo_privileges()
    code = _filter(_REFUSED[platform.machine()])
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    return bool(_libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0) == 0)


def keep_to(*, readable: Iterable[Path], writable: Iterable[Path]) -> bool:
    """Give up all files but these and those of Python for good. False where this system has no way to.

    What is open stays so; what is not there now is not found later either.
    """
    version = _libc.syscall(_CREATE_RULESET, None, 0, _ASK_VERSION) if sys.platform == "linux" else -1
    if version < 1:
        return False
    forgo_privileges()
    every = _ANY_FILE_ACCESS | (_TRUNCATE if version >= 3 else 0)
    handled = struct.pack("=Q", every)
    rules = _libc.syscall(_CREATE_RULESET, handled, len(handled), 0)
    if rules < 0:
        return False
    try:
        for place in (*_places_of_python(), *readable):
            _allow(rules, place, _READ_FILE | _READ_FOLDER)
        for place in writable:
            _allow(rules, place, every & (_OWN_FILES | _TRUNCATE))
        return bool(_libc.syscall(_RESTRICT_SELF, rules, 0) == 0)
    finally:
        os.close(rules)


def _places_of_python() -> list[Path]:
    """What imports and libraries read, also later; not a whole checkout, where somebody may keep data."""
    packages = [path for path in map(Path, sys.path) if path.name in {"site-packages", "dist-packages", "lib-dynload"}]
    own = [Path(sys.modules[name].__path__[0]) for name in _OWN_PACKAGES if name in sys.modules]
    roots = [Path(prefix) / "lib" for prefix in {sys.prefix, sys.base_prefix}]
    return [*roots, *packages, *own, *map(Path, _SYSTEM_PLACES)]


def _allow(rules: int, place: Path, access: int) -> None:
    try:
        descriptor = os.open(place, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # not on this system
        return
    try:
        known = access if place.is_dir() else access & ~(_ANY_FILE_ACCESS ^ 0b111)  # of files: run, write, read
        rule = struct.pack("=Qi", known, descriptor)
        _libc.syscall(_ADD_RULE, rules, _BENEATH, rule, 0)
    finally:
        os.close(descriptor)


def _filter(calls: _Calls) -> bytes:
    def step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("=HBBI", code, if_true, if_false, value)

    def only(number: int, test: int, value: int) -> list[bytes]:
        """This call with a first argument that passes the test."""
        return [
            step(_IF_EQUAL, number, 0, 4),
            step(_LOAD, _AT_FIRST_ARGUMENT),  # its lower half, which is all that these three look at
            step(test, value, 0, 1),
            step(_RETURN, _ALLOW),
            step(_RETURN, _ERRNO | errno.EPERM),
        ]

    steps = [
        step(_LOAD, _AT_ARCHITECTURE),
        step(_IF_EQUAL, calls.architecture, 1, 0),
        step(_RETURN, _KILL_PROCESS),
        step(_LOAD, _AT_NUMBER),
        step(_IF_AT_LEAST, _OTHER_NUMBERS, 0, 1),
        step(_RETURN, _KILL_PROCESS),
    ]
    for number in calls.refused:
        steps += [step(_IF_EQUAL, number, 0, 1), step(_RETURN, _ERRNO | errno.EPERM)]
    steps += [step(_IF_EQUAL, calls.clone3, 0, 1), step(_RETURN, _ERRNO | errno.ENOSYS)]
    steps += only(calls.clone, _IF_SET, _CLONE_THREAD)
    steps += only(calls.signal_thread, _IF_EQUAL, os.getpid())
    steps += only(calls.set_limits, _IF_EQUAL, 0)
    return b"".join([*steps, step(_RETURN, _ALLOW)])

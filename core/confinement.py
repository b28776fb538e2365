"""What a process that reads files from strangers may still do: read, compute and write, nothing else.

A decoder that is taken over by a crafted file gets no network, no other program, and no look into other
processes: the kernel refuses those calls from here on, to this process and to whatever it starts (seccomp, which
needs no privilege). Memory, time and file sizes are limited by whoever starts the process.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
_MODE_FILTER = 2
_KILL_PROCESS, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # instructions of classic BPF
_AT_NUMBER, _AT_ARCHITECTURE = 0, 4  # in struct seccomp_data
_OTHER_NUMBERS = 0x40000000  # x86-64 knows every call by a second number (x32)

# How an architecture names itself to seccomp, and the numbers of what is refused: socket, connect, execve, execveat,
# ptrace, process_vm_readv, process_vm_writev, kill, pidfd_send_signal, io_uring_setup, unshare, mount, bpf,
# userfaultfd, perf_event_open, add_key, request_key, keyctl.
_REFUSED = {
    "x86_64": (
        0xC000003E,
        (41, 42, 59, 322, 101, 310, 311, 62, 424, 425, 272, 165, 321, 323, 298, 248, 249, 250),
    ),
    "aarch64": (
        0xC00000B7,
        (198, 203, 221, 281, 117, 270, 271, 129, 424, 425, 97, 40, 280, 282, 241, 217, 218, 219),
    ),
}

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def forgo_privileges() -> None:
    """Gain nothing from programs that are set-uid. Survives an ``exec``; Linux alone has it."""
    if hasattr(_libc, "prctl"):
        _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def confine() -> bool:
    """Give up network, other programs and other processes for good. False where this system has no way to."""
    if platform.machine() not in _REFUSED or not hasattr(_libc, "prctl"):
        return False
    forgo_privileges()
    code = _filter(*_REFUSED[platform.machine()])
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    return bool(_libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0) == 0)


def _filter(architecture: int, refused: tuple[int, ...]) -> bytes:
    def step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("=HBBI", code, if_true, if_false, value)

    steps = [
        step(_LOAD, _AT_ARCHITECTURE),
        step(_IF_EQUAL, architecture, 1, 0),
        step(_RETURN, _KILL_PROCESS),
        step(_LOAD, _AT_NUMBER),
        step(_IF_AT_LEAST, _OTHER_NUMBERS, 0, 1),
        step(_RETURN, _KILL_PROCESS),
    ]
    for number in refused:
        steps += [step(_IF_EQUAL, number, 0, 1), step(_RETURN, _ERRNO | errno.EPERM)]
    return b"".join([*steps, step(_RETURN, _ALLOW)])

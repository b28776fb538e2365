"""``python -m core.system.parent_death PID MODULE …``: run MODULE as a process that dies with its parent, whatever kills that.

It asks for this before anything large is imported, so that there is no moment in which it could be left behind.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

CRASHED = 70  # exit status of a process that ended without having done its work (EX_SOFTWARE)
NO_MEMORY = 71  # of one that lost a process of its own to the kernel, for want of memory (EX_OSERR)
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent ends.

    The signal comes at the end of the *thread* that started it, so start such processes from one that stays.
    """
    prctl = getattr(_libc, "prctl", None)  # Linux alone has it
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before prctl: no signal will come
        os._exit(CRASHED)


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)

"""``python -m core.system.parent_death PID MODULE …``: run MODULE in a process that dies with its parent.

The request to the kernel precedes all large imports, so that the process is never without a parent.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

EXIT_CRASHED = 70  # exit status of a process that crashed (EX_SOFTWARE)
EXIT_OUT_OF_MEMORY = 71  # exit status after an OOM kill of a child process (EX_OSERR)
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int) -> None:
    """Let the kernel send SIGKILL to this process when its parent ends, however that happens.

    The kernel sends it at the end of the *thread* that forked, so fork from the main thread.

    Raises:
        OSError: The kernel refuses.
    """
    prctl = getattr(_libc, "prctl", None)  # Linux only
    if prctl is not None and prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # the parent ended before prctl: the kernel sends no signal
        os._exit(EXIT_CRASHED)


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)

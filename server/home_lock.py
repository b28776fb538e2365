"""Lock a home folder for one stack at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


class CannotStart(Exception):
    """The stack cannot start; the message names the fix."""


@contextlib.contextmanager
def lock_home(home: Path) -> Iterator[None]:
    """Lock the folder for this stack. The kernel releases the lock with the process; a stale file has no effect.

    Raises :class:`CannotStart` if another stack holds the lock.
    """
    with (home / "stack.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise CannotStart(
                f"{home} is in use by a running stack (process {file.read().strip() or 'unknown'}); "
                "stop it or choose another folder."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield

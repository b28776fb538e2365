"""A folder belongs to one stack at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


class CannotStart(Exception):
    """The stack cannot run as asked; the message names the fix."""


@contextlib.contextmanager
def lock_home(home: Path) -> Iterator[None]:
    """Hold the folder for this stack alone. The lock goes with the process, so a stale file means nothing.

    Raises :class:`CannotStart` where a stack runs on it.
    """
    with (home / "stack.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise CannotStart(
                f"{home} is in use by a running stack (process {file.read().strip() or 'unknown'}); "
                "stop that one, or give another folder."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield

"""Locks between test processes of this machine, for example between workers of pytest-xdist."""

import fcntl
import tempfile
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def machine_lock(name):
    """Hold a lock that one process of this machine holds at a time."""
    with (Path(tempfile.gettempdir()) / f"potstill-tests-{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

"""Lock of a training: jobs on one machine that need the same model train it once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from core.reporting import Control
from core.system.disk_cache import exclusive_lock
from core.train.context import RunContext


class _StopRequested(Exception):
    """The job is to end early, so it waits no longer."""


@contextmanager
def training_lock(context: RunContext, fingerprint: str, label: str) -> Iterator[None]:
    """Hold the lock of the training with this fingerprint; wait while another job of this machine holds it.

    The caller looks for the saved model under the lock, and trains it if there is none. A killed job releases its lock.
    After a request to stop early, and where the lock file cannot be written, the block runs without the lock: the
    model is then perhaps trained twice, with the same weights. ``label`` names the model in the event. Raises
    ``Interrupted`` while waiting.
    """
    is_waiting = False

    def poll() -> None:
        nonlocal is_waiting
        context.poll()
        if context.reporter.control() is Control.STOP:
            raise _StopRequested
        if not is_waiting:
            is_waiting = True
            message = f"Waiting for another job on this machine, which trains the same model: {label}."
            context.reporter.event("training.waiting", message, data={"recipe": fingerprint})

    folder = context.cache / "training_locks"
    with ExitStack() as stack:
        with suppress(_StopRequested, OSError):
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(exclusive_lock(folder / f"{fingerprint}.lock", poll))
        yield

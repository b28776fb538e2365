"""What rank 0 does with the processes of the other ranks of a training, whoever starts them."""

from __future__ import annotations

import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from core.errors import PotstillError, ProcessLost
from core.system.parent_death import EXIT_CRASHED
from core.train.process_group import Rendezvous

POLL_SECONDS = 0.05
_WATCH_SECONDS = 0.5
_HANG_TIMEOUT_SECONDS = 30.0  # after the exit of another rank, until rank 0 is ended if it still waits


class RankProcesses(ABC):
    """Processes of ranks 1 and above of one training. ``rendezvous`` is where they meet rank 0."""

    rendezvous: Rendezvous

    @abstractmethod
    def failed(self) -> dict[int, int]:
        """Return the nonzero exit statuses by rank; negative ones are signals."""

    @abstractmethod
    def are_ready(self) -> bool:
        """Return whether all ranks have built their training."""

    @abstractmethod
    def failure(self, failed: Mapping[int, int]) -> PotstillError:
        """Return the error that made ranks fail, given :meth:`failed`."""

    @abstractmethod
    def end(self) -> None:
        """End the remaining processes."""

    def poll_memory(self) -> None:  # noqa: B027 - optional
        """Record the OOM kills of this machine, if ranks run on it."""

    def exit_status(self, failed: Mapping[int, int]) -> int:  # noqa: ARG002 - implementations read it
        """Return the status with which rank 0 exits where it cannot return from a call that waits for ``failed``."""
        return EXIT_CRASHED

    def wait_until_ready(self, poll: Callable[[], None]) -> None:
        """Wait until all ranks have built their training. Raises a rank's error, or one from ``poll``."""
        while not self.are_ready():
            poll()
            self.poll_memory()
            failure = self.find_failure(0.0)
            if failure is not None:
                raise failure
            time.sleep(POLL_SECONDS)

    def find_failure(self, timeout_seconds: float) -> PotstillError | None:
        """Return the error of a rank that fails within ``timeout_seconds``, or None."""
        deadline = time.monotonic() + timeout_seconds
        while not (failed := self.failed()):
            if time.monotonic() >= deadline:
                return None
            time.sleep(POLL_SECONDS)
        return self.failure(failed)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Exit this process if another rank has failed and this one still waits for it.

        Gloo detects a closed connection. NCCL can wait forever, in a call that only the end of the process interrupts.
        """
        finished = threading.Event()
        threading.Thread(target=self._watch, args=(finished,), name="ranks", daemon=True).start()
        try:
            yield
        finally:
            finished.set()

    def _watch(self, finished: threading.Event) -> None:
        while not finished.wait(_WATCH_SECONDS):
            self.poll_memory()
            try:
                failed = self.failed()
            except ProcessLost:  # the main thread finds that out as well
                return
            if not failed:
                continue
            status = self.exit_status(failed)  # before the wait, because the monitor of OOM kills forgets old ones
            if not finished.wait(_HANG_TIMEOUT_SECONDS):
                sys.stderr.write(f"still waiting for ranks that have ended (rank: status): {self.failed()}\n")
                os._exit(status)

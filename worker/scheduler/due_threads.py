"""Threads of the scheduler that run rows which are due, until none is left."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from core.store.db import DatabaseUnavailable

log = structlog.get_logger(__name__)


class DueThreads:
    """Starts a thread for each due row, up to ``max_threads`` in all. Each runs rows until none is due.

    ``run_next`` claims and runs one row, and returns whether there was one.
    """

    def __init__(self, name: str, max_threads: int, run_next: Callable[[], bool]) -> None:
        self._name = name
        self._max_threads = max_threads
        self._run_next = run_next
        self._threads: list[threading.Thread] = []
        self._is_closing = threading.Event()

    @property
    def is_closing(self) -> bool:
        """Whether no more rows are claimed."""
        return self._is_closing.is_set()

    def start(self, num_due: int) -> None:
        """Start threads for ``num_due`` rows."""
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        for _ in range(min(num_due, self._max_threads - len(self._threads))):
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self, seconds: float) -> None:
        """Claim no more rows, and wait for those that are being run, together for at most ``seconds``."""
        self._is_closing.set()
        for thread in self._threads:
            thread.join(seconds / max(1, len(self._threads)))

    def _run(self) -> None:
        try:
            while not self.is_closing and self._run_next():
                pass
        except DatabaseUnavailable as error:
            log.warning("scheduler.database_unavailable", step=self._name, error=str(error))
        except Exception:
            log.exception("scheduler.step_failed", step=self._name)

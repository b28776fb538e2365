"""A task in a background thread, while its caller continues to compute."""

from __future__ import annotations

import threading
from collections.abc import Callable


class BackgroundTask:
    """Runs one task at a time in a thread that ends with the task.

    An error of the task is raised once, by the next :meth:`start` or :meth:`wait`. Between two tasks there is no
    thread, so that the process can fork.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def is_running(self) -> bool:
        """Whether a task is running."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, work: Callable[[], object]) -> None:
        """Wait for the previous task, then start this one. Raises the error of the previous task."""
        self.wait()
        # A daemon thread: a process that has lost its lease exits at once.
        self._thread = threading.Thread(target=self._run, args=(work,), name="background-task", daemon=True)
        self._thread.start()

    def wait(self, seconds: float | None = None) -> None:
        """Wait until no task is running, or for ``seconds``. Raises the error of the task."""
        if self._thread is not None:
            self._thread.join(seconds)
            if self._thread.is_alive():
                return
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised by the next wait()
            self._error = error

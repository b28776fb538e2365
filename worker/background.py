"""One piece of work beside its caller, who goes on computing meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable


class BackgroundTask:
    """Runs one piece of work at a time in a thread that ends with it.

    What the work raises is raised once, to whoever asks for the next piece or waits for this one. Between two
    pieces there is no thread, so that the process may fork.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether a piece of work is under way."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, work: Callable[[], object]) -> None:
        """Do this, once what was asked before is done."""
        self.wait()
        # A daemon: a process that has lost its job leaves at once.
        self._thread = threading.Thread(target=self._run, args=(work,), name="beside", daemon=True)
        self._thread.start()

    def wait(self, seconds: float | None = None) -> None:
        """Until nothing is under way, or for so long. Raises what the work raised."""
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
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            self._error = error

"""Limit of the processor time of a computation: on a busy machine it may take longer, but it may not compute longer."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_REPEAT_SECONDS = 0.5  # in case a library swallows the exception


class ProcessorTimeExceeded(Exception):
    """The block has used its processor time."""


@contextmanager
def limit_processor_time(seconds: float | None) -> Iterator[None]:
    """Raise :class:`ProcessorTimeExceeded` in the block once this process has computed for ``seconds`` in it.

    Waits do not count. None: no limit. There is none outside the main thread either: only that one handles signals.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    is_active = True

    def expire(_number: int, _frame: FrameType | None) -> None:
        if is_active:
            raise ProcessorTimeExceeded(f"more than {seconds:g} s of processor time")

    previous = signal.signal(signal.SIGPROF, expire)
    signal.setitimer(signal.ITIMER_PROF, seconds, _REPEAT_SECONDS)
    try:
        yield
    finally:
        is_active = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)

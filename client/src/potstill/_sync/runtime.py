"""Waiting and blocking work without an event loop: the counterpart of `potstill._async.runtime`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def sleep(seconds: float) -> None:
    """Wait."""
    time.sleep(seconds)


def run_blocking(function: Callable[[], Value]) -> Value:
    """Call a function."""
    return function()

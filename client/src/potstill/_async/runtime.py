"""Waiting and blocking work in an event loop. `potstill._sync.runtime` is its hand-written counterpart."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

Value = TypeVar("Value")


async def sleep(seconds: float) -> None:
    """Wait."""
    await anyio.sleep(seconds)


async def run_blocking(function: Callable[[], Value]) -> Value:
    """Call a function that blocks, such as packing or hashing files, in a thread."""
    return await anyio.to_thread.run_sync(function)

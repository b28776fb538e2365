"""Calls to the inspector: computations that need torch, in a process that has it."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from core.broker import Broker, InspectorCall, InspectorTimeout, InspectorUnavailable
from core.errors import Unavailable

_MIN_PAUSE_SECONDS = 0.2
_MAX_PAUSE_SECONDS = 2.0
_PING_TIMEOUT_SECONDS = 5.0

log = structlog.get_logger(__name__)


class Inspector:
    """Client of the inspector. ``has_answered`` is true once a call has succeeded."""

    def __init__(self, broker: Broker, *, timeout_seconds: float) -> None:
        self._broker = broker
        self._timeout_seconds = timeout_seconds
        self.has_answered = False

    async def run(self) -> None:
        """Ping the inspector until it answers; then the task ends."""
        pause = _MIN_PAUSE_SECONDS
        while not self.has_answered:
            try:
                await self._broker.call_inspector("ping", timeout=_PING_TIMEOUT_SECONDS)
                self.has_answered = True
            except Unavailable:
                await asyncio.sleep(pause)
                pause = min(_MAX_PAUSE_SECONDS, 1.5 * pause)
        log.info("inspector.available")

    async def call(self, name: InspectorCall, payload: dict[str, Any]) -> dict[str, Any]:
        """Return the inspector's result. Raises the inspector's error, or :class:`Unavailable` without a reply."""
        result = await self._broker.call_inspector(name, payload, timeout=self._timeout_seconds)
        self.has_answered = True
        return result

    async def call_if_available(self, name: InspectorCall, payload: dict[str, Any]) -> dict[str, Any] | None:
        """Return the inspector's result, or None if the inspector or the broker is down or too busy to answer in time.

        Raises what :meth:`call` raises otherwise.
        """
        try:
            return await self.call(name, payload)
        except (InspectorUnavailable, InspectorTimeout) as error:
            log.warning("inspector.unavailable", code=error.code, detail=error.detail)
            return None

    async def canonical_architecture(self, name: str) -> str:
        """Return timm's name of an architecture, with its pretrained tag; unchanged if the inspector is down.

        Raises :class:`InvalidRequest` with the nearest names.
        """
        result = await self.call_if_available("architecture", {"name": name})
        return name if result is None else str(result["name"])

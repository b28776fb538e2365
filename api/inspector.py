"""Calls to the inspector: computations that need torch, in a process that has it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import structlog

from core.broker import Broker, InspectorCall, InspectorTimeout, InspectorUnavailable
from core.errors import InvalidRequest, Unavailable, restore_error

_MIN_PAUSE_SECONDS = 0.2
_MAX_PAUSE_SECONDS = 2.0
_PING_TIMEOUT_SECONDS = 5.0
_MAX_BATCH = 50  # specs in one message

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

    async def resolve_many(self, requests: Sequence[dict[str, Any]]) -> list[dict[str, Any] | InvalidRequest | None]:
        """Return for each payload of ``resolve`` the result, the error of its spec, or None without a result in time.

        After the first one without a result there are no further calls: each would wait for its timeout.
        """
        found: list[dict[str, Any] | InvalidRequest | None] = []
        while len(found) < len(requests):
            batch = requests[len(found) : len(found) + _MAX_BATCH]
            result = await self.call_if_available("resolve_many", {"requests": batch})
            responses = [None] if result is None else [_parse_response(each) for each in result["responses"]]
            found += itertools.takewhile(lambda response: response is not None, responses)
            if None in responses:
                break
        return found + [None] * (len(requests) - len(found))

    async def canonical_architecture(self, name: str) -> str:
        """Return timm's name of an architecture, with its pretrained tag; unchanged if the inspector is down.

        Raises :class:`InvalidRequest` with the nearest names.
        """
        result = await self.call_if_available("architecture", {"name": name})
        return name if result is None else str(result["name"])


def _parse_response(response: dict[str, Any]) -> dict[str, Any] | InvalidRequest | None:
    """Return the result of one spec, its error, or None if the inspector was too busy. Raises other errors."""
    if "ok" in response:
        return dict(response["ok"])
    error = restore_error(response["error"])
    if isinstance(error, InvalidRequest):
        return error
    if not isinstance(error, InspectorTimeout):
        raise error
    log.warning("inspector.unavailable", code=error.code, detail=error.detail)
    return None

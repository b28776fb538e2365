"""Questions that need torch, asked of a process that has it."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from core.broker import Broker, InspectorCall, InspectorUnavailable
from core.errors import FieldError, InvalidRequest, Unavailable

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 2.0
_PING_SECONDS = 5.0
_NEAREST = 3

log = structlog.get_logger(__name__)


class Inspector:
    """The API's side of the inspector. ``answered`` once it has proved that it works."""

    def __init__(self, hints: Broker, *, seconds: float) -> None:
        self._hints = hints
        self._seconds = seconds
        self.answered = False

    async def run(self) -> None:
        """Ask for a sign of life until there is one; a task that ends by itself."""
        pause = _FIRST_PAUSE_SECONDS
        while not self.answered:
            try:
                await self._hints.ask_inspector("ping", timeout=_PING_SECONDS)
                self.answered = True
            except Unavailable:
                await asyncio.sleep(pause)
                pause = min(_LONGEST_PAUSE_SECONDS, 1.5 * pause)
        log.info("inspector.answered")

    async def ask(self, question: InspectorCall, payload: dict[str, Any]) -> dict[str, Any]:
        """The answer. Raises what the inspector found, or :class:`Unavailable` where none came."""
        answer = await self._hints.ask_inspector(question, payload, timeout=self._seconds)
        self.answered = True
        return answer

    async def ask_if_there(self, question: InspectorCall, payload: dict[str, Any]) -> dict[str, Any] | None:
        """The answer, or None where the inspector or the broker is down. Raises as :meth:`ask` else."""
        try:
            return await self.ask(question, payload)
        except InspectorUnavailable as gone:
            log.warning("inspector.gone", detail=gone.detail)
            return None

    async def require_architecture(self, name: str) -> None:
        """Refuse an architecture that timm does not have, where an inspector is there to ask.

        Raises :class:`InvalidRequest` with the nearest names.
        """
        answer = await self.ask_if_there("architectures", {"search": name, "limit": _NEAREST})
        if answer is None:
            return
        found = [entry["name"] for entry in answer["data"]]
        if name not in found:
            hint = f" Did you mean {' or '.join(found)}?" if found else ""
            detail = f"there is no architecture {name[:80]!r}.{hint} GET /v1/architectures lists them."
            raise InvalidRequest(f"/architecture: {detail}", errors=[FieldError("/architecture", detail)])

"""What jobs can be made of: methods and architectures."""

from __future__ import annotations

from collections.abc import Sequence

from potstill._async.transport import AsyncTransport
from potstill.calls import object_path, read_call
from potstill.documents import Architecture, Method


class AsyncMethods:
    """``/v1/methods``."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def list(self) -> Sequence[Method]:
        """List the methods with their parameters as JSON Schema."""
        return await self._transport.read_list(read_call("/v1/methods"), Method)

    async def get(self, name: str) -> Method:
        """Get one method."""
        return await self._transport.read(read_call(object_path("methods", name)), Method)


class AsyncArchitectures:
    """``/v1/architectures``."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def list(self, search: str = "", *, limit: int = 20) -> Sequence[Architecture]:
        """List matching timm architectures, best match first; at most 100."""
        call = read_call("/v1/architectures", search=search or None, limit=limit)
        return await self._transport.read_list(call, Architecture)

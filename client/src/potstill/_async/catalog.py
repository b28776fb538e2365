"""What jobs can be made of: methods and architectures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from potstill._async.transport import AsyncTransport
from potstill.calls import object_path, read_call
from potstill.documents import Architecture, Method, Recommendations


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

    async def recommend(self, *, teacher: str, student: str, num_images: int, **situation: Any) -> Recommendations:
        """Recommend methods, the best first, for families of teacher and student and a number of training images.

        ``situation``: further parameters of ``GET /v1/methods/recommend``, such as ``labels`` or ``compute``.
        """
        call = read_call("/v1/methods/recommend", teacher=teacher, student=student, num_images=num_images, **situation)
        return await self._transport.read(call, Recommendations)


class AsyncArchitectures:
    """``/v1/architectures``."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def list(self, search: str = "", *, limit: int = 20) -> Sequence[Architecture]:
        """List matching timm architectures, best match first; at most 100."""
        call = read_call("/v1/architectures", search=search or None, limit=limit)
        return await self._transport.read_list(call, Architecture)

# Generated from `potstill._async` by `make docs`; do not edit.
"""What jobs can be made of: methods and architectures."""

from __future__ import annotations

from collections.abc import Sequence

from potstill._sync.transport import Transport
from potstill.calls import object_path, read_call
from potstill.documents import Architecture, Method


class Methods:
    """``/v1/methods``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Sequence[Method]:
        """List the methods with their parameters as JSON Schema."""
        return self._transport.read_list(read_call("/v1/methods"), Method)

    def get(self, name: str) -> Method:
        """Get one method."""
        return self._transport.read(read_call(object_path("methods", name)), Method)


class Architectures:
    """``/v1/architectures``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, search: str = "", *, limit: int = 20) -> Sequence[Architecture]:
        """List matching timm architectures, best match first; at most 100."""
        call = read_call("/v1/architectures", search=search or None, limit=limit)
        return self._transport.read_list(call, Architecture)

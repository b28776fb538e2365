"""Heads of HTTP requests within limits of size and time, which uvicorn with httptools does not set.

What a proxy in front sees to is seen to without one, too: of a head that never ends every piece is added to all that
came before, in the loop that serves everybody.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_BYTES = 64 * 1024  # as httptools has it for the address alone; proxies allow 8 to 64 kB
MOST_SECONDS = 30.0

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: text/plain; charset=utf-8\r\ncontent-length: 36\r\nconnection: close\r\n\r\n"
    b"The head of the request is too long."
)


class BoundedHeads(HttpToolsProtocol):
    """A connection that is closed where a head, or trailers, are too long or too slow."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._pending = 0  # bytes that have come and made neither a head nor a piece of a body
        self._in_head = True  # of the first request, which is waited for
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._wait_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what has come, and look whether it led to anything."""
        self._pending += len(data)
        super().data_received(data)
        if self._pending > MOST_BYTES:
            self._refuse()
        elif self._in_head and self._late is None:
            self._wait()

    def on_message_begin(self) -> None:
        """A head begins. One that comes in one piece, as nearly all do, needs no timer."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._pending, self._in_head = 0, False
        self._wait_no_more()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body, which the application counts."""
        self._pending = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._pending = 0
        super().on_message_complete()

    def _wait(self) -> None:
        self._late = self.loop.call_later(MOST_SECONDS, self._is_late)

    def _wait_no_more(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _is_late(self) -> None:
        self._late = None
        if self._answering:
            self._wait()  # the next request has begun early; the answer to the one before is not to break off
        else:
            self.transport.close()

    def _refuse(self) -> None:
        if self.transport.is_closing():
            return
        if not self._answering:
            self.transport.write(_TOO_LARGE)
        self.transport.close()

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

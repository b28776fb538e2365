"""Limit size and duration of HTTP request headers, which uvicorn with httptools does not do.

Needed without a reverse proxy: httptools accumulates an endless header in memory, in the event loop that serves all
requests.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEADER_BYTES = 64 * 1024  # httptools' limit for the URL; proxies allow 8 to 64 kB
HEADER_TIMEOUT_SECONDS = 30.0

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: text/plain; charset=utf-8\r\ncontent-length: 33\r\nconnection: close\r\n\r\n"
    b"The request headers are too large"
)


class HeaderLimitsProtocol(HttpToolsProtocol):
    """A connection that closes if request headers or trailers are too large or too slow."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._pending = 0  # bytes received since the last complete header or body chunk
        self._in_header = True  # of the first request
        self._timeout_handle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout of the first header."""
        super().connection_made(transport)
        self._start_timeout()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timeout."""
        self._stop_timeout()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse received bytes and check the limits."""
        self._pending += len(data)
        super().data_received(data)
        if self._pending > MAX_HEADER_BYTES:
            self._reject()
        elif self._in_header and self._timeout_handle is None:
            self._start_timeout()

    def on_message_begin(self) -> None:
        """Mark the start of a header. A header in one packet, the common case, needs no timer."""
        self._in_header = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Reset counter and timeout after a complete header."""
        self._pending, self._in_header = 0, False
        self._stop_timeout()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Reset the counter; the application limits the body."""
        self._pending = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Reset the counter after a complete request."""
        self._pending = 0
        super().on_message_complete()

    def _start_timeout(self) -> None:
        self._timeout_handle = self.loop.call_later(HEADER_TIMEOUT_SECONDS, self._on_timeout)

    def _stop_timeout(self) -> None:
        if self._timeout_handle is not None:
            self._timeout_handle.cancel()
            self._timeout_handle = None

    def _on_timeout(self) -> None:
        self._timeout_handle = None
        if self._is_responding:
            self._start_timeout()  # a pipelined request: do not interrupt the current response
        else:
            self.transport.close()

    def _reject(self) -> None:
        if self.transport.is_closing():
            return
        if not self._is_responding:
            self.transport.write(_TOO_LARGE)
        self.transport.close()

    @property
    def _is_responding(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

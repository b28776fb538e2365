"""The outermost middleware: request ids, body size limits, the access log, and a response to every exception."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import structlog
from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.encoded_slashes import protect_slashes, restore_slashes
from api.problems import problem, unexpected
from core.errors import PayloadTooLarge
from core.ids import new_id

REQUEST_ID = "X-Request-Id"
_REQUEST_ID_PATTERN = re.compile(r"(?!ps_)[A-Za-z0-9_.:-]{1,64}")  # must not look like an API key
QUIET_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})

log = structlog.get_logger(__name__)

# (operation, method, status, seconds) of every response
Observer = Callable[[str, str, int, float], None]


class RequestMiddleware:
    """Pure ASGI middleware around the app, so streams pass through unbuffered."""

    def __init__(self, app: ASGIApp, *, observe: Observer, body_limit: Callable[[Scope], int]) -> None:
        self._app = app
        self._observe = observe
        self._body_limit = body_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client_id = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = client_id if _REQUEST_ID_PATTERN.fullmatch(client_id) else new_id("req")
        # A copy, because the server may share the lifespan's state between requests.
        scope["state"] = {**scope.get("state", {}), "request_id": request_id}
        protect_slashes(scope)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        sender = _ResponseSender(send, request_id)
        started_at = time.perf_counter()
        try:
            await self._serve(scope, receive, sender)
        finally:
            self._record(scope, sender, time.perf_counter() - started_at)

    async def _serve(self, scope: Scope, receive: Receive, sender: _ResponseSender) -> None:
        request = Request(scope, receive)
        receiver = _LimitedReceiver(receive, self._body_limit(scope))
        try:
            receiver.check_content_length(Headers(scope=scope).get("content-length"))
            await self._app(scope, receiver, sender)
        except PayloadTooLarge as error:
            await problem(error, request)(scope, receive, sender)
        except ClientDisconnect:
            log.info("http.client_disconnected")
        except Exception as error:
            response = await unexpected(request, error)
            if sender.status is not None:  # the response has started; only a closed connection signals the error
                raise
            await response(scope, receive, sender)

    def _record(self, scope: Scope, sender: _ResponseSender, seconds: float) -> None:
        status = sender.status or 499  # the client disconnected before the response
        operation = getattr(scope.get("endpoint"), "__name__", "unmatched")
        self._observe(operation, _method_label(scope["method"]), status, seconds)
        path = restore_slashes(scope["path"])
        write = log.debug if path in QUIET_PATHS else log.info
        write("http.request", method=scope["method"], path=path, status=status, seconds=round(seconds, 4))


class _ResponseSender:
    """Adds the request id and default headers to the response, and stores its status."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(raw=list(message.get("headers", [])))
            headers[REQUEST_ID] = self._request_id
            headers.setdefault("X-Content-Type-Options", "nosniff")
            headers.setdefault("Cache-Control", "no-store")  # shared caches must not store authenticated content
            message = {**message, "headers": headers.raw}
        await self._send(message)


class _LimitedReceiver:
    """Counts the body while it is read, so a body without Content-Length is limited too."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._num_bytes = 0

    def check_content_length(self, content_length: str | None) -> None:
        if content_length is not None and content_length.isdecimal() and int(content_length[:19]) > self._limit:
            raise self._too_large()

    async def __call__(self) -> Message:
        message: dict[str, Any] = dict(await self._receive())
        self._num_bytes += len(message.get("body", b""))
        if self._num_bytes > self._limit:
            raise self._too_large()
        return message

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(f"The body is larger than the maximum of {self._limit:,} bytes.")


def _method_label(method: str) -> str:
    return method if method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} else "other"

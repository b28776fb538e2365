"""The outermost layer: request ids, the limit on bodies, the access log, and no exception that leaves unanswered."""

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

from api.problems import problem, unexpected
from core.errors import PayloadTooLarge
from core.ids import new_id

REQUEST_ID = "X-Request-Id"
_USABLE_ID = re.compile(r"(?!ps_)[A-Za-z0-9_.:-]{1,64}")  # and not the beginning of somebody's key
_QUIET_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})

log = structlog.get_logger(__name__)

# (operation, method, status, seconds) of every answer
Observer = Callable[[str, str, int, float], None]


class RequestMiddleware:
    """Wraps the whole app; pure ASGI, so streams pass through it untouched."""

    def __init__(self, app: ASGIApp, *, observe: Observer, body_limit: Callable[[Scope], int]) -> None:
        self._app = app
        self._observe = observe
        self._body_limit = body_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = given if _USABLE_ID.fullmatch(given) else new_id("req")
        # A copy: the server may share the lifespan's state between requests.
        scope["state"] = {**scope.get("state", {}), "request_id": request_id}
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        answer = _Answer(send, request_id)
        began = time.perf_counter()
        try:
            await self._serve(scope, receive, answer)
        finally:
            self._account(scope, answer, time.perf_counter() - began)

    async def _serve(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        request = Request(scope, receive)
        limited = _Limited(receive, self._body_limit(scope))
        try:
            limited.check_announced(Headers(scope=scope).get("content-length"))
            await self._app(scope, limited, answer)
        except PayloadTooLarge as error:
            await problem(error, request)(scope, receive, answer)
        except ClientDisconnect:
            log.info("http.client_left")
        except Exception as error:
            response = await unexpected(request, error)
            if answer.status is not None:  # half an answer is out: only a broken connection tells the client
                raise
            await response(scope, receive, answer)

    def _account(self, scope: Scope, answer: _Answer, seconds: float) -> None:
        status = answer.status or 499  # the client left before there was an answer
        operation = getattr(scope.get("endpoint"), "__name__", "unmatched")
        self._observe(operation, _known_method(scope["method"]), status, seconds)
        say = log.debug if scope["path"] in _QUIET_PATHS else log.info
        say("http.request", method=scope["method"], path=scope["path"], status=status, seconds=round(seconds, 4))


class _Answer:
    """Puts the request id on the answer and remembers its status."""

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
            headers.setdefault("Cache-Control", "no-store")  # what a key opens is nobody else's to keep
            message = {**message, "headers": headers.raw}
        await self._send(message)


class _Limited:
    """Counts the body while it is read, so that a length nobody announced is bounded too."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._read = 0

    def check_announced(self, content_length: str | None) -> None:
        if content_length is not None and content_length.isdecimal() and int(content_length[:19]) > self._limit:
            raise self._too_large()

    async def __call__(self) -> Message:
        message: dict[str, Any] = dict(await self._receive())
        self._read += len(message.get("body", b""))
        if self._read > self._limit:
            raise self._too_large()
        return message

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(f"The body is larger than the {self._limit:,} bytes that are accepted here.")


def _known_method(method: str) -> str:
    return method if method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} else "other"

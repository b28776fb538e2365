"""HEAD requests: the response of GET without its body, for every GET route that has no HEAD route of its own."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class _ResponseComplete(BaseException):
    """End the endpoint: the client needs no body, and a stream would not end by itself.

    A ``BaseException``, because no handler of errors may turn it into a response.
    """


class HeadRequests:
    """Pure ASGI middleware that serves HEAD requests as GET requests and drops the body."""

    def __init__(self, app: ASGIApp, *, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD" or not self._is_only_get(scope):
            await self._app(scope, receive, send)
            return
        get_scope = {**scope, "method": "GET"}  # a copy: the server reads the method of its own scope
        try:
            await self._app(get_scope, receive, _WithoutBody(send))
        except* _ResponseComplete:
            pass
        finally:
            scope["endpoint"] = get_scope.get("endpoint")  # for the metrics of `api.middleware`

    def _is_only_get(self, scope: Scope) -> bool:
        """Whether the path has a GET route and no HEAD route."""
        return self._has_route(scope, "GET") and not self._has_route(scope, "HEAD")

    def _has_route(self, scope: Scope, method: str) -> bool:
        tried = {"type": "http", "path": scope["path"], "root_path": scope.get("root_path", ""), "headers": []}
        return any(route.matches({**tried, "method": method})[0] is Match.FULL for route in self._routes)


class _WithoutBody:
    """Sends the start of a response and an empty body; ends the endpoint at its first part of a longer body."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._is_complete = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            if not self._is_complete:
                self._is_complete = True
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
            if message.get("more_body", False):
                raise _ResponseComplete
            return
        await self._send(message)

# Generated from `potstill._async` by `make docs`; do not edit.
"""HTTP connection pool with idempotent retries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any

import httpx

from potstill._sync.runtime import sleep
from potstill.calls import (
    CONNECT_SECONDS,
    PAGE_SIZE,
    AnyModel,
    Call,
    RetryPolicy,
    check_key,
    parse,
    read_call,
    read_json,
    read_problem,
    user_agent,
    validate,
)
from potstill.errors import ServiceUnreachable


class Transport:
    """Sends calls to one service with one API key. The synchronous one is thread-safe."""

    def __init__(
        self, base_url: str, api_key: str, *, max_retries: int = 4, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._policy = RetryPolicy(self.base_url, max_retries)
        self._http = httpx.Client(
            base_url=self.base_url,
            headers={"Authorization": f"Bearer {check_key(api_key)}", "User-Agent": user_agent()},
            transport=transport,
        )

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def send(self, call: Call) -> httpx.Response:
        """Send a call, and retry it as far as that is safe. Raises :class:`ApiError`, :class:`ServiceUnreachable`."""
        for attempt in count():
            try:
                with ExitStack() as stack:
                    response = self._http.request(**call.arguments(stack))
            except httpx.TransportError as error:
                delay = self._policy.after_break(call, attempt, error)
            else:
                if response.is_success:
                    return response
                delay = self._policy.after_problem(call, attempt, response)
            sleep(delay)
        raise AssertionError("the last attempt returns or raises")

    def put_elsewhere(self, url: str, content: Iterator[bytes], size_bytes: int) -> None:
        """Send content to another server, without the API key. Raises :class:`ServiceUnreachable`."""
        request = httpx.Request("PUT", url, content=content, headers={"Content-Length": str(size_bytes)})
        try:
            response = self._http.send(request)
        except httpx.TransportError as error:
            raise ServiceUnreachable(f"{request.url.host} does not respond: {error}") from error
        if not response.is_success:
            raise ServiceUnreachable(f"{request.url.host} refuses the file: HTTP {response.status_code}")

    def read(self, call: Call, model: type[AnyModel]) -> AnyModel:
        """Send a call and return the document of its response."""
        return parse(self.send(call), model)

    def read_list(self, call: Call, model: type[AnyModel]) -> list[AnyModel]:
        """Send a call and return the documents of a list that has only one page."""
        page = read_json(self.send(call))
        return [validate(document, model) for document in page["data"]]

    def delete(self, path: str) -> None:
        """Delete an object. Not repeatable: the second response would be 404."""
        self.send(Call("DELETE", path, repeatable=False))

    def pages(
        self, path: str, model: type[AnyModel], *, limit: int | None = None, after: str | None = None, **params: Any
    ) -> Iterator[AnyModel]:
        """Iterate over the documents of a list, at most ``limit``; pages are fetched when they are needed."""
        left = limit
        while left is None or left > 0:
            size = PAGE_SIZE if left is None else min(PAGE_SIZE, left)
            page = read_json(self.send(read_call(path, **params, limit=size, after=after)))
            for document in page["data"]:
                yield validate(document, model)
            if not page["has_more"] or not page["data"]:
                return
            after = page["data"][-1]["id"]
            left = None if left is None else left - len(page["data"])

    @contextmanager
    def stream(self, call: Call) -> Iterator[httpx.Response]:
        """Stream a response without retries; the caller resumes after a break."""
        timeout = httpx.Timeout(call.read_seconds, connect=CONNECT_SECONDS)
        with self._http.stream(
            call.method, call.path, params=dict(call.params), headers=dict(call.headers), timeout=timeout
        ) as response:
            if not response.is_success:
                response.read()
                raise read_problem(response)
            yield response

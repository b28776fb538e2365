"""Compressed responses for files and pages that are the same for every reader."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from functools import cache

from fastapi import Request
from fastapi.responses import Response

_MIN_BYTES = 1_000  # smaller files fit into a packet anyway


def compressed_response(request: Request, content: bytes, *, media_type: str, headers: Mapping[str, str]) -> Response:
    """Return the content, compressed if the client accepts gzip. For content that does not change: it is cached."""
    all_headers = {**headers, "Vary": "Accept-Encoding"}
    accepted = [each.partition(";")[0].strip() for each in request.headers.get("accept-encoding", "").split(",")]
    if len(content) < _MIN_BYTES or "gzip" not in accepted:
        return Response(content, headers=all_headers, media_type=media_type)
    return Response(_compress(content), headers={**all_headers, "Content-Encoding": "gzip"}, media_type=media_type)


@cache
def _compress(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)

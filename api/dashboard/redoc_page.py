"""``/docs/redoc``: the API reference as Redoc renders it in the browser (ADR 0034)."""

from __future__ import annotations

import base64
import hashlib

from fastapi import APIRouter
from fastapi.responses import Response

from api.dashboard.rendering import page
from api.headers import PAGE_HEADERS

router = APIRouter(include_in_schema=False)

_POLICY = "Content-Security-Policy"
_EMPTY = base64.b64encode(hashlib.sha256(b"").digest()).decode()
# Redoc adds empty style elements to the page and fills them by script. No element with content is allowed.
REDOC_POLICY = PAGE_HEADERS[_POLICY].replace("style-src 'self'", f"style-src 'self' 'sha256-{_EMPTY}'")


@router.get("/docs/redoc")
def redoc_page() -> Response:
    """Show the reference."""
    response = page("redoc.html", section="api")
    response.headers[_POLICY] = REDOC_POLICY
    return response

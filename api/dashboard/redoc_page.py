"""``/docs/redoc``: the API reference as Redoc renders it in the browser, beside the light one (ADR 0034)."""

from __future__ import annotations

import secrets

from fastapi import APIRouter
from fastapi.responses import Response

from api.dashboard.rendering import page
from api.headers import PAGE_HEADERS

router = APIRouter(include_in_schema=False)

_POLICY = "Content-Security-Policy"
_NONCE_BYTES = 18


@router.get("/docs/redoc")
def redoc_page() -> Response:
    """Show the reference. Redoc adds style elements to the page, which the nonce allows; scripts have no exception."""
    nonce = secrets.token_urlsafe(_NONCE_BYTES)
    response = page("redoc.html", section="api", nonce=nonce)
    response.headers[_POLICY] = PAGE_HEADERS[_POLICY].replace("style-src 'self'", f"style-src 'self' 'nonce-{nonce}'")
    return response

"""``/guide``: the documentation site, if it was built (``make docs-site``)."""

from __future__ import annotations

import base64
import hashlib
import re
from http import HTTPStatus
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from api.headers import PAGE_HEADERS

NAME = "guide"  # of the mount

_INLINE_SCRIPT = re.compile(r"<script(?![^>]*\bsrc=)[^>]*>(.*?)</script>", re.DOTALL)


class Guide(StaticFiles):
    """Serves the files of a built site. Its few inline scripts are allowed by their hashes, and no others."""

    def __init__(self, folder: Path) -> None:
        super().__init__(directory=folder, html=True)
        self._headers = {**PAGE_HEADERS, "Content-Security-Policy": _policy(folder), "Cache-Control": "no-cache"}

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return the response for a path."""
        response = await super().get_response(path, scope)
        response.headers.update(self._headers)
        return response


def install(app: Starlette, folder: Path) -> None:
    """Serve the site at ``/guide/``, and lead ``/guide`` there."""
    app.add_route("/guide", _to_home)
    app.mount("/guide", Guide(folder), name=NAME)


def _to_home(_: Request) -> Response:
    return RedirectResponse("/guide/", HTTPStatus.PERMANENT_REDIRECT)


def has_guide(app: Starlette) -> bool:
    """Whether the app serves the site."""
    return any(isinstance(route, Mount) and route.name == NAME for route in app.routes)


def _policy(folder: Path) -> str:
    scripts = {script for page in folder.rglob("*.html") for script in _INLINE_SCRIPT.findall(page.read_text())}
    digests = sorted(base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(["'self'", *(f"'sha256-{digest}'" for digest in digests)])
    return (
        f"default-src 'none'; script-src {allowed}; worker-src 'self' blob:; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )

"""Templates and static files of the dashboard."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from api.dashboard import evaluation, formats, job_files, views
from api.dashboard.forms import new_form_token
from api.dashboard.navigation import navigation_for
from api.headers import PAGE_HEADERS

_PACKAGE_DIR = Path(__file__).parent
STATIC_DIR = _PACKAGE_DIR / "static"
STATIC_FILES = {
    path.relative_to(STATIC_DIR).as_posix(): path for path in sorted(STATIC_DIR.rglob("*")) if path.is_file()
}


def _fingerprint() -> str:
    digest = hashlib.sha256()
    for name, path in STATIC_FILES.items():
        digest.update(name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


# Part of every static URL, so that browsers may cache the files forever.
STATIC_VERSION = _fingerprint()


def static_url(name: str) -> str:
    """Return the URL of a static file. An unknown name is a bug in a template."""
    assert name in STATIC_FILES, name
    return f"/dashboard/static/{STATIC_VERSION}/{name}"


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_PACKAGE_DIR / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(formats.FILTERS)
    environment.globals.update(
        static=static_url, views=views, evaluation=evaluation, job_files=job_files, form_token=new_form_token
    )
    return environment


_ENVIRONMENT = _environment()
# The request that a page answers. Every page has its navigation, and endpoints run in threads that copy the context.
_request: ContextVar[Request | None] = ContextVar("_request", default=None)


@contextmanager
def pages_for(request: Request) -> Iterator[None]:
    """Give the pages that the block renders the navigation of the request's caller."""
    token = _request.set(request)
    try:
        yield
    finally:
        _request.reset(token)


def page(template: str, *, status_code: HTTPStatus = HTTPStatus.OK, **context: Any) -> HTMLResponse:
    """Render a page with the security headers of :data:`api.headers.PAGE_HEADERS`."""
    content = _ENVIRONMENT.get_template(template).render(navigation=navigation_for(_request.get()), **context)
    return HTMLResponse(content, status_code=status_code, headers=PAGE_HEADERS)


def page_url(path: str, **params: str) -> str:
    """Return the address of a page with those parameters that have a value."""
    given = {name: value for name, value in params.items() if value}
    return f"{path}?{urlencode(given)}" if given else path


def see_other(path: str) -> RedirectResponse:
    """Return the answer to a form: the browser gets ``path`` next. No cache stores it."""
    return RedirectResponse(path, HTTPStatus.SEE_OTHER, headers={"Cache-Control": "no-store"})

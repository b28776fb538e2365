"""Templates and static files."""

from __future__ import annotations

import hashlib
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from api.dashboard import formats, views
from api.headers import PAGE_HEADERS

_HERE = Path(__file__).parent
STATIC_FOLDER = _HERE / "static"
STATIC_FILES = {
    path.relative_to(STATIC_FOLDER).as_posix(): path for path in sorted(STATIC_FOLDER.rglob("*")) if path.is_file()
}


def _fingerprint() -> str:
    digest = hashlib.sha256()
    for name, path in STATIC_FILES.items():
        digest.update(name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


# Part of every static address, so that browsers may keep the files for ever.
STATIC_VERSION = _fingerprint()


def static_url(name: str) -> str:
    """The address of a static file. A name that does not exist is a bug in a template."""
    assert name in STATIC_FILES, name
    return f"/dashboard/static/{STATIC_VERSION}/{name}"


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(formats.FILTERS)
    environment.globals.update(static=static_url, views=views)
    return environment


_ENVIRONMENT = _environment()


def page(template: str, *, status_code: HTTPStatus = HTTPStatus.OK, **context: Any) -> HTMLResponse:
    """Render a page with the headers that keep it to its own origin."""
    content = _ENVIRONMENT.get_template(template).render(context)
    return HTMLResponse(content, status_code=status_code, headers=PAGE_HEADERS)

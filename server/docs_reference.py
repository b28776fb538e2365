"""Generate parts of ``docs`` (settings, routes, error codes, methods, …) and modules of the client."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from api.app import create_app
from api.code_samples import PYTHON_SAMPLES
from core.broker import Broker
from core.settings import Settings
from core.store.db import open_database
from core.store.storage_url import open_store
from server.docs_api import api_page, problems_page
from server.docs_client import PACKAGE, client_modules
from server.docs_client_sync import TARGET, sync_modules
from server.docs_llms import llms_text
from server.docs_methods import method_pages

DOCS = Path(__file__).resolve().parent.parent / "docs"

_HEAD = """# Settings
Environment variables, read once at process start. Generated from `core/settings.py` by `make docs`.

| variable | default | description |
| --- | --- | --- |
"""


def settings_reference() -> str:
    """Return a table of all settings with defaults and descriptions."""
    return _HEAD + "".join(_row(name, field) for name, field in Settings.model_fields.items())


def openapi_document() -> dict[str, Any]:
    """Build the OpenAPI document of the API. Does not connect to the database or the broker."""
    with tempfile.TemporaryDirectory() as home:
        settings = Settings(home=Path(home))
        store = open_store(settings.resolved_storage_url())
        app = create_app(settings, open_database(settings), store, Broker(settings.broker_url))
        document: dict[str, Any] = app.openapi()
    return document


def openapi_reference(document: Mapping[str, Any]) -> str:
    """Return the text of ``docs/openapi.json``."""
    return json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def code_samples(document: Mapping[str, Any]) -> str:
    """Return the examples in Python of all operations, which the OpenAPI document contains."""
    from server.docs_code_samples import python_samples  # late: the client imports modules that this program writes

    return json.dumps(python_samples(document), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


_COMPUTED_DEFAULTS = {
    "job_threads": "number of CPUs",
    "job_memory_bytes": "80 % of the memory",
    "ingest_processes": "number of CPUs, 16 at most",
}


def _row(name: str, field: FieldInfo) -> str:
    default = _COMPUTED_DEFAULTS[name] if field.default_factory else _format_default(field.default)
    return f"| `POTSTILL_{name.upper()}` | {default} | {field.description or ''} |\n"


def _format_default(default: Any) -> str:
    if isinstance(default, tuple | dict):
        default = ",".join(map(str, default))
    text = str(default.get_secret_value()) if hasattr(default, "get_secret_value") else str(default)
    return f"`{text}`" if text else "empty"


if __name__ == "__main__":
    (DOCS / "settings.md").write_text(settings_reference())
    (DOCS / "api.md").write_text(api_page(openapi_document()))
    (DOCS / "problems.md").write_text(problems_page())
    (DOCS / "llms.txt").write_text(llms_text())
    for name, page in method_pages().items():
        (DOCS / "methods" / name).write_text(page)
    for name, module in client_modules(json.loads(openapi_reference(openapi_document()))).items():
        (PACKAGE / name).write_text(module)
    for name, module in sync_modules().items():
        (TARGET / name).write_text(module)
    PYTHON_SAMPLES.write_text(code_samples(openapi_document()))
    (DOCS / "openapi.json").write_text(openapi_reference(openapi_document()))

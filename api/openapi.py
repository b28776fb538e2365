"""The OpenAPI document: FastAPI's, with the bodies that our own dependencies read and the form of problems."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api.datasets.schemas import DatasetCreate
from api.jobs.retry import RetryRequest
from api.keys.schemas import KeyCreate, KeyRotate
from api.models.schemas import ModelCreate
from api.openapi_links import add_links
from api.problems import Problem
from core.spec import JobSpec

TITLE = "Potstill"
DESCRIPTION = """\
Distillation as a service for vision transformers: a dataset goes in, a worker distils, a student comes out.

Every request under `/v1` carries `Authorization: Bearer KEY`. Errors are `application/problem+json`
(RFC 9457) with a stable `code`; `errors` points at each field that is wrong. A POST that creates takes
an `Idempotency-Key`: sent again with the same body it gives the first answer, with
`Idempotent-Replayed: true`. Lists are newest first, with `limit` and `after`. A key that asks too much
too fast is answered 429 `rate_limited` with `Retry-After`; a project that has all that it may have, 403
`quota_exceeded`, whose detail says what and how to make room.
"""
TAGS = [
    {"name": "datasets", "description": "Images to learn from."},
    {"name": "models", "description": "timm's architectures, and weights to start from or to learn from."},
    {"name": "methods", "description": "How a student can learn."},
    {"name": "jobs", "description": "From a spec to a student."},
    {"name": "project", "description": "Keys, what the project has and may have, and who changed what."},
    {"name": "service", "description": "How the service itself is."},
]
_REQUEST_BODIES: tuple[type[BaseModel], ...] = (JobSpec, DatasetCreate, ModelCreate, RetryRequest, KeyCreate, KeyRotate)
_REF = "#/components/schemas/{model}"


def install(app: FastAPI) -> None:
    """Let the app describe itself in full; the document is made once, when it is first asked for."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = build(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def build(app: FastAPI) -> dict[str, Any]:
    """The document of an app."""
    found = get_openapi(
        title=app.title,
        version=app.version,
        description=DESCRIPTION,
        routes=app.routes,
        tags=TAGS,
        servers=[{"url": "/"}],
    )
    schemas = found.setdefault("components", {}).setdefault("schemas", {})
    _, bodies = models_json_schema([(model, "validation") for model in _REQUEST_BODIES], ref_template=_REF)
    _, answers = models_json_schema([(Problem, "serialization")], ref_template=_REF)
    for extra in (bodies["$defs"], answers["$defs"]):
        for name, schema in extra.items():
            schemas.setdefault(name, schema)
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    described = schemas["JobOut"]["properties"]["spec"]["description"]
    schemas["JobOut"]["properties"]["spec"] = {"$ref": "#/components/schemas/JobSpec", "description": described}
    _declare_keys(found)
    _declare_request_ids(found)
    add_links(found)
    return found


def _declare_keys(document: dict[str, Any]) -> None:
    """Everything under /v1 needs a key; ``api.deps`` sees to it."""
    described = {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer ps_…`"}
    document["components"]["securitySchemes"] = {"api_key": described}
    for path, operations in document["paths"].items():
        if path.startswith("/v1/"):
            for operation in operations.values():
                operation["security"] = [{"api_key": []}]


def _declare_request_ids(document: dict[str, Any]) -> None:
    header = {"description": "Found again in the service's logs.", "schema": {"type": "string"}}
    for path in document["paths"].values():
        for operation in path.values():
            for answer in operation["responses"].values():
                answer.setdefault("headers", {})["X-Request-Id"] = header

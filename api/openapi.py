"""The OpenAPI document: FastAPI's own, plus the request bodies that routes declare and the schema of problems."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api.code_samples import add_code_samples
from api.openapi_links import add_links
from api.problems import Problem
from api.request_body import declared_body
from core.spec import METHODS

TITLE = "Potstill"
DESCRIPTION = """\
Distillation as a service for vision transformers: upload a dataset, queue a job, download the student.

Where a path or a spec takes the id of a dataset, model or job, it also takes a unique name (URL-encoded in paths) or a
unique id prefix with at least three characters after the type (`ds_01j`). An id wins over a name, a name over a prefix,
and a keyword such as `random` over a model's name. If several objects match, the response is 409 `ambiguous_reference`
with the `candidates`. Stored specs and the audit log hold full ids.

Every request under `/v1` carries `Authorization: Bearer KEY`. If the operator has configured an OpenID Connect issuer,
a token of it works like a key; other tokens are 401 `token_invalid` or `token_expired`, or 403 `token_without_project`.
Errors are `application/problem+json`
(RFC 9457) with a stable `code`; `errors` names each invalid field. A POST that creates an object accepts an
`Idempotency-Key`: a repeated request with the same body returns the first response, with
`Idempotent-Replayed: true`. Lists are newest first, with `limit` and `after`. A key that exceeds a rate limit
gets 429 `rate_limited` with `Retry-After`. A project that exceeds a quota gets 403 `quota_exceeded`; its
detail names the quota and how to free some of it.
"""
TAGS = [
    {"name": "datasets", "description": "Images for training and evaluation."},
    {"name": "models", "description": "timm architectures, and weights for students and teachers."},
    {"name": "uploads", "description": "Resumable uploads of large files (tus 1.0)."},
    {
        "name": "methods",
        "description": "Distillation methods and their parameters; [the catalogue](/methods) compares them.",
    },
    {"name": "jobs", "description": "Distillation jobs, their events, metrics, checkpoints and artifacts."},
    {"name": "sweeps", "description": "Jobs that differ in a few fields, and their Pareto fronts."},
    {"name": "webhooks", "description": "Signed requests to your own service when something happens."},
    {"name": "project", "description": "API keys, usage and limits, and the audit log."},
    {"name": "service", "description": "Health, metrics and workers of the service."},
]
_REF = "#/components/schemas/{model}"


def install(app: FastAPI) -> None:
    """Replace the app's OpenAPI document; it is built at its first request."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = build(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def build(app: FastAPI) -> dict[str, Any]:
    """Build the OpenAPI document of an app."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=DESCRIPTION,
        routes=app.routes,
        tags=TAGS,
        servers=[{"url": "/"}],
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    models = _declare_bodies(document, app)
    _, bodies = models_json_schema([(model, "validation") for model in models], ref_template=_REF)
    _, responses = models_json_schema([(Problem, "serialization")], ref_template=_REF)
    for extra in (bodies["$defs"], responses["$defs"]):
        for name, schema in extra.items():
            schemas.setdefault(name, schema)
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    description = schemas["JobOut"]["properties"]["spec"]["description"]
    schemas["JobOut"]["properties"]["spec"] = {"$ref": "#/components/schemas/JobSpec", "description": description}
    _link_methods(schemas)
    _declare_keys(document)
    _declare_request_ids(document)
    add_links(document)
    add_code_samples(document)
    return document


def _declare_bodies(document: dict[str, Any], app: FastAPI) -> list[type[BaseModel]]:
    """Add the request bodies that routes declare; return the models whose schemas they need."""
    models: list[type[BaseModel]] = []
    for route in iter_route_contexts(app.routes):
        body = declared_body(route.endpoint) if route.endpoint else None
        if body is None or not body.content:
            continue
        models += [model for model in body.models if model not in models]
        for method in route.methods or ():
            operation = document["paths"][route.path_format][method.lower()]
            operation["requestBody"] = {"required": body.required, "content": body.content}
    return models


def _link_methods(schemas: dict[str, Any]) -> None:
    """Link the parameters of each method to its entry in the dashboard's catalogue."""
    for name, method in METHODS.items():
        schema = schemas.get(method.params.__name__)
        if schema is not None:
            schema["externalDocs"] = {"url": f"/methods#{name}", "description": f"{name} in the catalogue of methods"}


def _declare_keys(document: dict[str, Any]) -> None:
    """Declare that every operation under ``/v1`` needs an API key, which ``api.deps`` enforces."""
    scheme = {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer ps_…`"}
    document["components"]["securitySchemes"] = {"api_key": scheme}
    for path, operations in document["paths"].items():
        if path.startswith("/v1/"):
            for operation in operations.values():
                operation["security"] = [{"api_key": []}]


def _declare_request_ids(document: dict[str, Any]) -> None:
    header = {"description": "Id of this request in the service's logs.", "schema": {"type": "string"}}
    for path in document["paths"].values():
        for operation in path.values():
            for response in operation["responses"].values():
                response.setdefault("headers", {})["X-Request-Id"] = header

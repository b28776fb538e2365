"""OpenAPI links from a response to the operations on the objects in it.

Links follow from the paths, so new resources need no code here: a ``POST`` on a collection links to every operation
on the created object, and a list to every ``GET`` on its objects.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_PARAMETER = re.compile(r"\{(\w+)\}")
_FROM_PATH = "$request.path."
# Identifies the objects of a list that have no `id`.
_NAME = "name"


def add_links(document: dict[str, Any]) -> None:
    """Add the links to an OpenAPI document."""
    for path, operations in document["paths"].items():
        below = dict(_operations_below(document, path))
        for status, response in operations.get("post", {}).get("responses", {}).items():
            if status in {"201", "202"} and "id" in _properties(document, response):
                _add(response, path, below, "$response.body#/id", methods=("get", "post", "patch", "delete"))
        response = operations.get("get", {}).get("responses", {}).get("200", {})
        item = _item_properties(document, response)
        if item:
            key = "id" if "id" in item else _NAME
            _add(response, path, below, f"$response.body#/data/0/{key}", methods=("get",))
    _link_students(document)


def _operations_below(document: dict[str, Any], collection: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the operations on an object of a collection: their paths have exactly one more parameter."""
    own_parameters = set(_PARAMETER.findall(collection))
    for path, operations in document["paths"].items():
        if path.startswith(f"{collection}/{{") and len(set(_PARAMETER.findall(path)) - own_parameters) == 1:
            yield path, operations


def _add(
    response: dict[str, Any],
    collection: str,
    below: dict[str, dict[str, Any]],
    expression: str,
    *,
    methods: tuple[str, ...],
) -> None:
    own_parameters = _PARAMETER.findall(collection)
    for path, operations in below.items():
        (new,) = set(_PARAMETER.findall(path)) - set(own_parameters)
        parameters = {name: f"{_FROM_PATH}{name}" for name in own_parameters} | {new: expression}
        for method in methods:
            if method in operations:
                _link(response, operations[method], parameters)


def _link(response: dict[str, Any], target: dict[str, Any], parameters: dict[str, str]) -> None:
    name = target["operationId"]
    response.setdefault("links", {})[name] = {
        "operationId": name,
        "parameters": parameters,
        "description": target["summary"],
    }


def _link_students(document: dict[str, Any]) -> None:
    """Link a job to the model that is its student."""
    paths = document["paths"]
    response = paths["/v1/jobs/{job_id}"]["get"]["responses"]["200"]
    _link(response, paths["/v1/models/{model_id}"]["get"], {"model_id": "$response.body#/result/model"})


def _item_properties(document: dict[str, Any], response: dict[str, Any]) -> dict[str, Any]:
    """Return the properties of the objects in a list; empty if the response is not a list."""
    items = _properties(document, response).get("data", {}).get("items", {})
    return _resolve(document, items).get("properties", {}) if items else {}


def _properties(document: dict[str, Any], response: dict[str, Any]) -> dict[str, Any]:
    schema = response.get("content", {}).get("application/json", {}).get("schema", {})
    properties: dict[str, Any] = _resolve(document, schema).get("properties", {})
    return properties


def _resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    if reference is None:
        return schema
    resolved: dict[str, Any] = document["components"]["schemas"][reference.rsplit("/", 1)[-1]]
    return resolved

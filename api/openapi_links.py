"""OpenAPI links: what can be asked next about what an operation answered.

They are read off the paths, so a new resource has them without a word here: a ``POST`` on a collection leads to
every operation on the object that it made, and a list to every ``GET`` on the objects that it names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_PARAMETER = re.compile(r"\{(\w+)\}")
_KEPT_PARAMETERS = "$request.path."
# What an object of a list is called where it has no `id`.
_NAMED = "name"


def add_links(document: dict[str, Any]) -> None:
    """Add the links to an OpenAPI document."""
    for path, operations in document["paths"].items():
        below = dict(_operations_below(document, path))
        for status, answer in operations.get("post", {}).get("responses", {}).items():
            if status in {"201", "202"} and "id" in _properties(document, answer):
                _put(answer, path, below, "$response.body#/id", methods=("get", "post", "delete"))
        answer = operations.get("get", {}).get("responses", {}).get("200", {})
        item = _item(document, answer)
        if item:
            key = "id" if "id" in item else _NAMED
            _put(answer, path, below, f"$response.body#/data/0/{key}", methods=("get",))
    _link_students(document)


def _operations_below(document: dict[str, Any], collection: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The operations on one object of a collection: a path parameter more than the collection has, and no other."""
    known = set(_PARAMETER.findall(collection))
    for path, operations in document["paths"].items():
        if path.startswith(f"{collection}/{{") and len(set(_PARAMETER.findall(path)) - known) == 1:
            yield path, operations


def _put(
    answer: dict[str, Any],
    collection: str,
    below: dict[str, dict[str, Any]],
    expression: str,
    *,
    methods: tuple[str, ...],
) -> None:
    known = _PARAMETER.findall(collection)
    for path, operations in below.items():
        (new,) = set(_PARAMETER.findall(path)) - set(known)
        parameters = {name: f"{_KEPT_PARAMETERS}{name}" for name in known} | {new: expression}
        for method in methods:
            if method in operations:
                _link(answer, operations[method], parameters)


def _link(answer: dict[str, Any], target: dict[str, Any], parameters: dict[str, str]) -> None:
    name = target["operationId"]
    answer.setdefault("links", {})[name] = {
        "operationId": name,
        "parameters": parameters,
        "description": target["summary"],
    }


def _link_students(document: dict[str, Any]) -> None:
    """A job that has succeeded names its student, which is a model."""
    paths = document["paths"]
    answer = paths["/v1/jobs/{job_id}"]["get"]["responses"]["200"]
    _link(answer, paths["/v1/models/{model_id}"]["get"], {"model_id": "$response.body#/result/model"})


def _item(document: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """The properties of the objects in a list; none where the answer is no list."""
    items = _properties(document, answer).get("data", {}).get("items", {})
    return _resolved(document, items).get("properties", {}) if items else {}


def _properties(document: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
    properties: dict[str, Any] = _resolved(document, schema).get("properties", {})
    return properties


def _resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    if reference is None:
        return schema
    found: dict[str, Any] = document["components"]["schemas"][reference.rsplit("/", 1)[-1]]
    return found

"""Presentation of a model document of the public API and of its lineage. Pure functions, no HTTP, no store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from api.dashboard import formats
from core.store.lineage import Role

Document = Mapping[str, Any]

KINDS = {"upload": "Upload", "student": "Student", "compressed": "Compressed"}
MAX_DEPTH = 4  # of a lineage, so that its rows stay readable
MAX_LINEAGE_ROWS = 60
_ROLES_BEFORE: Mapping[Role, str] = {
    "teacher": "teacher",
    "initial_weights": "initial weights",
    "student": "made by",
    "compressed": "compressed from",
    "checkpoint": "checkpoint of",
}
_ROLES_AFTER: Mapping[Role, str] = {
    "teacher": "teaches",
    "initial_weights": "starts",
    "student": "student",
    "compressed": "compressed to",
    "checkpoint": "checkpoint",
}
_SOURCES = {
    "request": "given with the upload",
    "architecture": "assumed, from timm's configuration of the architecture",
    "default": "assumed: pixel values are scaled to −1…1",
    "job": "of the job that made it",
}


@dataclass(frozen=True, slots=True)
class LineageRow:
    """A node of the lineage. ``depth`` counts the edges from the model; ``url`` is None for what has no page."""

    depth: int
    role: str
    name: str
    details: str
    url: str | None


def ancestors(lineage: Document) -> Sequence[LineageRow]:
    """Return what the model was made from, nearest first, each below what was made from it."""
    return list(_rows(lineage, "source"))[:MAX_LINEAGE_ROWS]


def descendants(lineage: Document) -> Sequence[LineageRow]:
    """Return what was made from the model, nearest first, each below what it was made from."""
    return list(_rows(lineage, "target"))[:MAX_LINEAGE_ROWS]


def normalization_text(model: Document) -> str | None:
    """Describe mean and standard deviation; None before they are known."""
    found = model["normalization"]
    if not found:
        return None
    mean, std = (", ".join(f"{value:.4g}" for value in found[name]) for name in ("mean", "std"))
    return f"mean {mean}; std {std}"


def normalization_source(model: Document) -> str | None:
    """Describe where the normalization comes from."""
    return _SOURCES.get(model["normalization_source"] or "")


def properties(model: Document) -> list[tuple[str, str]]:
    """Return the properties of a model as (label, value) pairs; unknown ones are left out."""
    size = model["image_size"]
    arguments = ", ".join(f"{name}={value}" for name, value in sorted(model["arguments"].items()))
    rows = [
        ("Architecture", model["architecture"]),
        ("Arguments", arguments),
        ("Parameters", None if model["parameters"] is None else f"{model['parameters']:,}"),
        ("Classes", model["num_classes"]),
        ("Channels", model["channels"]),
        ("Image size", f"{size} × {size}" if size else "any" if model["status"] == "ready" else None),
        ("Weights", model["size_bytes"] and formats.size(model["size_bytes"])),
        ("Id", model["id"]),
    ]
    return [(label, str(value)) for label, value in rows if value not in {None, ""}]


def _rows(lineage: Document, end: Literal["source", "target"]) -> Iterator[LineageRow]:
    """Walk the edges depth first, each node once. ``end``: the end of an edge that is farther from the model."""
    nodes = {node["id"]: node for node in lineage["nodes"]}
    near = "target" if end == "source" else "source"
    roles = _ROLES_BEFORE if end == "source" else _ROLES_AFTER
    seen = {lineage["model"]}

    def walk(node_id: str, depth: int) -> Iterator[LineageRow]:
        for edge in lineage["edges"]:
            far = edge[end]
            if edge[near] != node_id or far in seen or far not in nodes:
                continue
            seen.add(far)
            yield _row(nodes[far], depth, roles[edge["role"]])
            if depth + 1 < MAX_DEPTH:
                yield from walk(far, depth + 1)

    yield from walk(lineage["model"], 0)


def _row(node: Document, depth: int, role: str) -> LineageRow:
    details = node["details"]
    match node["object"]:
        case "job":
            texts = ["job", details.get("method"), details.get("status")]
            url = f"/jobs/{node['id']}"
        case "model":
            texts = ["model", details.get("architecture")]
            if details.get("parameters"):
                texts.append(f"{formats.short(details['parameters'])} parameters")
            url = f"/models/{node['id']}"
        case "artifact":
            texts = ["file", details.get("size_bytes") and formats.size(details["size_bytes"])]
            if details.get("top1") is not None:
                texts.append(f"top-1 {formats.percent(details['top1'])}")
            url = f"/jobs/{node['id'].partition('/')[0]}"
        case "checkpoint":
            texts, url = ["checkpoint"], f"/jobs/{details['job']}" if node["exists"] else ""
        case _:
            texts = ["weights", details.get("weights")]
            url = ""
    if not node["exists"]:
        texts, url = ["deleted"], ""
    name = node["name"] or node["id"]
    return LineageRow(depth, role, name, ", ".join(str(text) for text in texts if text), url or None)

"""Expand a sweep to the specs of its jobs: a base spec, a grid over its fields, and explicit points.

A field is written as in ``potstill jobs submit --set``: names and list indexes joined by dots, e.g. `training.epochs`
or `teachers.0.weights`. Pure functions: the specs are documents that are not validated yet.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from core.errors import FieldError, InvalidRequest
from core.spec.parse import pointer
from core.spec.patch import merge_patch

Document = Mapping[str, Any]
Path = tuple[str, ...]

# Fields of a spec that do not vary, and why.
_FIXED = {
    "name": "the name of each job is made from the name of the sweep and its values",
    "metadata": "the metadata of the spec is that of all jobs",
    "priority": "the priority of the spec is that of all jobs",
}
_MAX_NAME_CHARACTERS = 200  # of a job
_MAX_LABEL_CHARACTERS = 120  # of the values in a name
_MAX_TEXT_CHARACTERS = 40  # of one of them
_MAX_VARIED_FIELDS = 50
_MAX_REPORTED_ERRORS = 100
_MAX_INDEX_DIGITS = 4


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One job of a sweep.

    Attributes:
        number: Position in the sweep, from 1.
        base_name: Start of its name, which all jobs share; None if there is none.
        document: The job's spec, with its name; not validated.
        values: The values of the sweep's varied fields, by field. None: the spec has no such field.
        label: The values as a short text, e.g. `epochs=20 method=kd`.
        sources: Pointers of the spec fields that the request's grid sets, with the pointer of the value in the request.
        patch: Index and content of the explicit point, None without explicit points.
    """

    number: int
    base_name: str | None
    document: dict[str, Any]
    values: dict[str, Any]
    label: str
    sources: tuple[tuple[str, str], ...]
    patch: tuple[int, Document] | None

    def request_pointer(self, spec_pointer: str) -> str:
        """Return the pointer into the sweep's request for a pointer into this job's spec."""
        for field, value in self.sources:
            if spec_pointer == field or spec_pointer.startswith(f"{field}/"):
                return value + spec_pointer.removeprefix(field)
        if spec_pointer and self.patch is not None and _has(self.patch[1], spec_pointer):
            return f"/points/{self.patch[0]}{spec_pointer}"
        return "/name" if spec_pointer == "/name" else f"/spec{spec_pointer}"


def expand(
    spec: Document,
    grid: Mapping[str, Sequence[Any]],
    points: Sequence[Document],
    *,
    max_jobs: int,
    name: str | None = None,
) -> list[SweepPoint]:
    """Return the jobs of a sweep: each explicit point with each combination of the grid, the last field varying first.

    A point is a merge patch (RFC 7396) of the spec; the values of the grid replace fields of the result. ``name``
    defaults to that of the spec. Raises :class:`InvalidRequest` for fields that cannot vary, repeated values, and more
    than ``max_jobs`` jobs.
    """
    _check_size(grid, points, max_jobs)
    paths = _checked_paths(grid)
    _check_points(points)
    combinations = list(_combinations(spec, grid, points, paths))
    documents = [each.document for each in combinations]
    values = _varied_values(documents, [*paths, *_patched_paths(points)])
    short = _short_names(list(values[0]))
    base_name = name or _spec_name(spec)
    return [
        _point(number, each, own, short, base_name)
        for number, (each, own) in enumerate(zip(combinations, values, strict=True), start=1)
    ]


def _spec_name(spec: Document) -> str:
    name = spec.get("name")
    if name is None:
        return ""
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME_CHARACTERS:
        raise InvalidRequest.for_field("/spec/name", f"a string of 1 to {_MAX_NAME_CHARACTERS} characters is expected")
    return name


class _Combination(NamedTuple):
    """One combination of a point and values: the job's spec, and the fields of the request that it comes from."""

    document: Document
    sources: tuple[tuple[str, str], ...]
    patch: tuple[int, Document] | None


def _combinations(
    spec: Document, grid: Mapping[str, Sequence[Any]], points: Sequence[Document], paths: Sequence[Path]
) -> Iterator[_Combination]:
    for patch in enumerate(points) if points else (None,):
        base = dict(spec) if patch is None else merge_patch(dict(spec), patch[1])
        for indexes in itertools.product(*(range(len(values)) for values in grid.values())):
            document, sources = base, []
            for (field, values), path, index in zip(grid.items(), paths, indexes, strict=True):
                document = _with_value(document, path, values[index], field)
                sources.append((pointer(path), pointer(("grid", field, index))))
            yield _Combination(document, tuple(sources), patch)


def _point(
    number: int, combination: _Combination, values: dict[str, Any], short: Mapping[str, str], base_name: str
) -> SweepPoint:
    label = " ".join(f"{short[field]}={_text(value)}" for field, value in values.items() if value is not None)
    label = label if 0 < len(label) <= _MAX_LABEL_CHARACTERS else f"#{number}"
    return SweepPoint(
        number=number,
        base_name=base_name or None,
        document={**combination.document, "name": _job_name(base_name, label)},
        values=values,
        label=label,
        sources=combination.sources,
        patch=combination.patch,
    )


# --- checks -----------------------------------------------------------------------------------------


def _checked_paths(grid: Mapping[str, Sequence[Any]]) -> list[Path]:
    errors: list[FieldError] = []
    paths: list[Path] = []
    for field, values in grid.items():
        at = pointer(("grid", field))
        path = tuple(field.split("."))
        detail = _field_problem(field, path, paths)
        errors += [] if detail is None else [FieldError(at, detail)]
        paths.append(path)
        errors += [] if values else [FieldError(at, "the list has no value; give at least one, or leave the field out")]
        texts = [json.dumps(value, sort_keys=True) for value in values]
        errors += [
            FieldError(f"{at}/{index}", f"the value {text[:_MAX_TEXT_CHARACTERS]} is repeated; give each value once")
            for index, text in enumerate(texts)
            if text in texts[:index]
        ]
    if errors:
        raise InvalidRequest.for_fields(errors[:_MAX_REPORTED_ERRORS], num_errors=len(errors))
    return paths


def _field_problem(field: str, path: Path, others: Sequence[Path]) -> str | None:
    if field.startswith("/"):
        dotted = field.strip("/").replace("/", ".")
        return f"a field is written with dots: {dotted}"
    if not all(path):
        return "a field is names and list indexes joined by dots, for example training.epochs"
    if path[0] in _FIXED:
        return f"{path[0]} cannot vary: {_FIXED[path[0]]}"
    inside = next((other for other in others if other[: len(path)] == path or path[: len(other)] == other), None)
    return None if inside is None else f"it overlaps with {'.'.join(inside)}; vary one of the two"


def _check_points(points: Sequence[Document]) -> None:
    errors = [
        FieldError(f"/points/{index}/{name}", f"{name} cannot vary: {reason}")
        for index, patch in enumerate(points)
        for name, reason in _FIXED.items()
        if name in patch
    ]
    texts = [json.dumps(patch, sort_keys=True) for patch in points]
    errors += [
        FieldError(f"/points/{index}", "the point is repeated; give each point once")
        for index, text in enumerate(texts)
        if text in texts[:index]
    ]
    if errors:
        raise InvalidRequest.for_fields(errors[:_MAX_REPORTED_ERRORS], num_errors=len(errors))


def _check_size(grid: Mapping[str, Sequence[Any]], points: Sequence[Document], max_jobs: int) -> None:
    if not grid and not points:
        raise InvalidRequest.for_field(
            "/grid", 'give at least one field with its values, for example {"training.epochs": [20, 40]}, or points'
        )
    num_jobs = math.prod(max(1, len(values)) for values in grid.values()) * max(1, len(points))
    if num_jobs > max_jobs:
        factors = [str(len(values)) for values in grid.values()] + ([f"{len(points)} points"] if points else [])
        raise InvalidRequest.for_field(
            "/grid" if grid else "/points",
            f"{' × '.join(factors)} are {num_jobs:,} jobs; a sweep has at most {max_jobs:,}. Give fewer values.",
        )


# --- documents --------------------------------------------------------------------------------------


def _with_value(document: Any, path: Path, value: Any, field: str) -> Any:
    """Return a copy of a document with another value at a path. Raises :class:`InvalidRequest` for ``field``."""
    if not path:
        return value
    first, rest = path[0], path[1:]
    if isinstance(document, list):
        index = _index(first, len(document))
        if index is None:
            raise _no_field(field, f"{first} is no index of a list with {len(document)} entries")
        return [*document[:index], _with_value(document[index], rest, value, field), *document[index + 1 :]]
    if document is not None and not isinstance(document, Mapping):
        raise _no_field(field, f"the spec has a value, not an object, before .{first}")
    inner = document or {}
    return {**inner, first: _with_value(inner.get(first), rest, value, field)}


def _no_field(field: str, detail: str) -> InvalidRequest:
    return InvalidRequest.for_field(pointer(("grid", field)), f"the spec has no such field: {detail}")


def _index(text: str, length: int) -> int | None:
    if not text.isascii() or not text.isdecimal() or len(text) > _MAX_INDEX_DIGITS or int(text) >= length:
        return None
    return int(text)


def _value_at(document: Any, path: Path) -> Any:
    for part in path:
        if isinstance(document, Mapping):
            document = document.get(part)
        elif isinstance(document, list):
            index = _index(part, len(document))
            document = None if index is None else document[index]
        else:
            return None
    return document


def _has(document: Any, spec_pointer: str) -> bool:
    """Whether a merge patch sets the field with this pointer, or an object around it."""
    for part in spec_pointer.split("/")[1:]:
        if not isinstance(document, Mapping):
            return True  # a value or list, which replaces the field
        if part not in document:
            return False
        document = document[part]
    return True


# --- varied values ----------------------------------------------------------------------------------


def _patched_paths(points: Sequence[Document]) -> Iterator[Path]:
    for patch in points:
        yield from _leaves(patch)


def _leaves(value: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the paths of the leaves: values, lists, and objects without fields."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _leaves(inner, (*path, name))
    else:
        yield path


def _varied_values(documents: Sequence[Document], paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the values of the varied fields for each document, by dotted field.

    An object among the values is compared field by field; fields that are equal in all documents are left out.
    """
    leaves = dict.fromkeys(
        leaf for path in paths for document in documents for leaf in _leaves(_value_at(document, path), path)
    )
    objects = {leaf[:length] for leaf in leaves for length in range(len(leaf))}  # with fields in another document
    columns = {leaf: [_value_at(document, leaf) for document in documents] for leaf in leaves if leaf not in objects}
    varied = {leaf: column for leaf, column in columns.items() if any(value != column[0] for value in column)}
    varied = varied or columns
    if len(varied) > _MAX_VARIED_FIELDS:
        raise InvalidRequest(f"The jobs differ in {len(varied):,} fields; vary at most {_MAX_VARIED_FIELDS}.")
    return [{".".join(leaf): column[row] for leaf, column in varied.items()} for row in range(len(documents))]


def _short_names(fields: Sequence[str]) -> dict[str, str]:
    """Return the shortest distinct endings of the fields; `method.name` counts as `method`."""
    paths = {field: field.removesuffix(".name").split(".") for field in fields}
    found: dict[str, str] = {}
    for field, path in paths.items():
        endings = [".".join(path[-count:]) for count in range(1, len(path) + 1)]
        others = [other for name, other in paths.items() if name != field]
        distinct = (end for count, end in enumerate(endings, 1) if all(path[-count:] != o[-count:] for o in others))
        found[field] = next(distinct, field)
    return found


def _text(value: Any) -> str:
    """Return a value as a short text without spaces around it."""
    match value:
        case str():
            text = value
        case float():
            text = f"{value:g}"
        case [] | None:
            text = "none"
        case [*entries]:
            names = [entry.get("name", entry) if isinstance(entry, Mapping) else entry for entry in entries]
            text = "+".join(map(_text, names))
        case _:
            text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_TEXT_CHARACTERS else f"{text[: _MAX_TEXT_CHARACTERS - 1]}…"


def _job_name(base: str, label: str) -> str:
    room = _MAX_NAME_CHARACTERS - len(label) - 1
    base = base if len(base) <= room else f"{base[: room - 1]}…"
    return f"{base} {label}".strip()

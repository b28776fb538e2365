"""Read job specs and the settings of the option ``--set``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from potstill.errors import InvalidArgument
from potstill.spec_text import parse_document


def read_spec(source: str, settings: Iterable[str] = (), **fields: str | None) -> dict[str, Any]:
    """Read a spec from a file, or from standard input for ``-``. ``settings`` and ``fields`` override it.

    Raises :class:`InvalidArgument`.
    """
    text = sys.stdin.read() if source == "-" else _read_file(Path(source))
    try:
        document = parse_document(text)
    except ValueError as error:
        raise InvalidArgument(f"{source} is neither JSON nor YAML: {error}") from error
    if not isinstance(document, dict):
        raise InvalidArgument(
            f"{source} does not hold a job spec: an object with dataset, student and method is expected"
        )
    document |= {key: value for key, value in fields.items() if value is not None}
    apply_settings(document, settings)
    return document


def apply_settings(document: dict[str, Any], settings: Iterable[str]) -> None:
    """Override fields of a spec by ``FIELD=VALUE`` settings. Raises :class:`InvalidArgument`."""
    for setting in settings:
        _set_field(document, setting)


def read_changes(settings: Iterable[str]) -> dict[str, Any]:
    """Build a merge patch from ``FIELD=VALUE`` settings; values are JSON or plain strings."""
    patch: dict[str, Any] = {}
    apply_settings(patch, settings)
    return patch


def read_metadata(entries: Iterable[str]) -> dict[str, str]:
    """Build metadata from ``KEY=VALUE`` entries. Raises :class:`InvalidArgument`."""
    for entry in entries:
        if "=" not in entry:
            raise InvalidArgument(f"--metadata {entry}: expected KEY=VALUE, for example team=search")
    return dict(entry.split("=", 1) for entry in entries)


def read_grid(settings: Iterable[str]) -> dict[str, list[Any]]:
    """Build a grid from ``FIELD=VALUES`` settings: a JSON list, or values joined by commas.

    Raises :class:`InvalidArgument`.
    """
    grid: dict[str, list[Any]] = {}
    for setting in settings:
        field, equals, text = setting.partition("=")
        if not equals or not field or field in grid:
            problem = f"{field} is given twice" if field in grid else "expected FIELD=VALUES"
            raise InvalidArgument(f"--grid {setting}: {problem}, for example training.epochs=20,40")
        grid[field] = _values(text)
    return grid


def _values(text: str) -> list[Any]:
    """Parse a JSON list, JSON values joined by commas, or texts joined by commas."""
    for candidate in (text, f"[{text}]"):
        values = _value(candidate)
        if isinstance(values, list):
            return values
    return [_value(part) for part in text.split(",")]


def read_points(source: str | None) -> list[dict[str, Any]] | None:
    """Read a list of merge patches from a file. Raises :class:`InvalidArgument`."""
    if source is None:
        return None
    try:
        points = parse_document(_read_file(Path(source)))
    except ValueError as error:
        raise InvalidArgument(f"{source} is neither JSON nor YAML: {error}") from error
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        raise InvalidArgument(f"{source} does not hold a list of objects, such as [{{method: {{name: kd}}}}]")
    return points


def read_json_option(name: str, text: str | None) -> Any:
    """Return the value of an option that is JSON. Raises :class:`InvalidArgument`."""
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        raise InvalidArgument(f"{name} is not JSON: {error}") from error


def _set_field(document: dict[str, Any], setting: str) -> None:
    """Set a field. A number in the path is an index of a list that the document has: ``teachers.0.weights=train``."""
    path, equals, text = setting.partition("=")
    *parents, field = path.split(".")
    if not equals or not all([*parents, field]):
        raise InvalidArgument(f"--set {setting}: expected FIELD=VALUE, for example training.batch_size=64")
    inner: Any = document
    for parent in parents:
        inner = inner[_index(inner, parent, setting)] if isinstance(inner, list) else inner.setdefault(parent, {})
        if not isinstance(inner, dict | list):
            raise InvalidArgument(f"--set {setting}: {parent} is not an object")
    inner[_index(inner, field, setting) if isinstance(inner, list) else field] = _value(text)


def _index(items: list[Any], text: str, setting: str) -> int:
    if not text.isdecimal() or int(text) >= len(items):
        raise InvalidArgument(f"--set {setting}: expected an index from 0 to {len(items) - 1} instead of {text}")
    return int(text)


def _value(text: str) -> Any:
    """Parse JSON; return other text as a string."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _read_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{path} cannot be read: {error}") from error

"""How the folders of an uploaded dataset are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Labels = Literal["auto", "none"]
ClassFrom = Literal["auto", "first", "parent"]
Splits = Mapping[str, str] | str


def layout_fields(labels: Labels, splits: Splits, class_from: ClassFrom) -> dict[str, Any]:
    """Return the fields that differ from their defaults."""
    folders = splits if isinstance(splits, str) else dict(splits)
    fields = {"labels": labels, "splits": folders, "class_from": class_from}
    return {name: value for name, value in fields.items() if value != "auto"}

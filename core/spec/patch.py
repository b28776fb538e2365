"""Merge patches of JSON documents (RFC 7396), and differences between two documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

FieldPath = tuple[str | int, ...]


def merge_patch(target: Any, patch: Any) -> Any:
    """Return ``target`` with ``patch`` applied: objects are merged, null removes a member, other values replace."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def differences(old: Any, new: Any, path: FieldPath = ()) -> Iterator[FieldPath]:
    """Yield the deepest paths at which two JSON documents differ. Lists of different length differ as a whole."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in dict.fromkeys((*old, *new)):
            if name in old and name in new:
                yield from differences(old[name], new[name], (*path, name))
            else:
                yield (*path, name)
    elif _is_list(old) and _is_list(new) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from differences(before, after, (*path, index))
    elif old != new:
        yield path


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)

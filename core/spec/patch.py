"""Merge patches of documents (RFC 7396), and where two documents differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Place = tuple[str | int, ...]


def merge_patch(target: Any, patch: Any) -> Any:
    """``target`` with ``patch`` merged in: objects are merged, null takes a member away, all else replaces."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def differences(old: Any, new: Any, at: Place = ()) -> Iterator[Place]:
    """The places at which two JSON documents differ, as deep as both have them. Lists of other lengths differ whole."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in dict.fromkeys((*old, *new)):
            if name in old and name in new:
                yield from differences(old[name], new[name], (*at, name))
            else:
                yield (*at, name)
    elif _is_list(old) and _is_list(new) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from differences(before, after, (*at, index))
    elif old != new:
        yield at


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)

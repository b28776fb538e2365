"""Encoded slashes in paths: `/v1/datasets/a%2Fb` is the dataset `a/b`. Servers decode a path before routing."""

from __future__ import annotations

from urllib.parse import unquote

from starlette.types import Scope

_ENCODED = b"%2f"
_PLACEHOLDER = "\ufdd0"  # a Unicode noncharacter, which no text contains


def protect_slashes(scope: Scope) -> None:
    """Replace encoded slashes in the request's path by a placeholder, so that they separate no segments."""
    raw_path = scope.get("raw_path") or b""
    if _ENCODED in raw_path.lower():
        segments = raw_path.decode("ascii", "replace").split("/")
        scope["path"] = "/".join(unquote(segment).replace("/", _PLACEHOLDER) for segment in segments)


def restore_slashes(text: str) -> str:
    """Return the text of a path or a path parameter with its slashes."""
    return text.replace(_PLACEHOLDER, "/")

"""Secrets that must not be read by whoever reads a log or an error: keys, cookies, passwords in URLs."""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from functools import lru_cache
from typing import Any

_HIDDEN = "[hidden]"
# What a key's holder may recognise it by stays; of its secret not even a part does (a message may cut it short).
# A scheme has an end: strangers choose the texts, and from each letter of a long word it would be looked for anew.
_SECRETS = re.compile(
    r"(?P<key>ps_[0-9a-z]{26})_[0-9a-f]+"
    r"|(?P<scheme>\b(?:bearer|basic)\s+)(?!ps_)(?=\S*[\d+/=])[\w.~+/=-]{8,}"
    r"|(?P<cookie>potstill_session[=:]\s*)[^;,\s'\"]+"
    r"|(?P<url>[a-z][a-z0-9+.-]{0,31}://[^\s:/@'\"]*:)[^\s@/'\"]+(?=@)",
    re.IGNORECASE,
)
_SECRET_FIELDS = re.compile(
    r"(?:.*[_-])?(?:authorization|cookies?|password|passwd|secret|token|api[_-]key|secret[_-](?:access[_-])?key)$",
    re.IGNORECASE,
)
_SIGNS = ("ps_", "://", "earer", "asic", "EARER", "ASIC", "potstill_session")  # no text without one holds a secret
_DEEPEST = 6  # of a log event's fields


def redact(text: str) -> str:
    """The text without the secrets that it holds."""
    for sign in _SIGNS:  # ten times faster than the pattern, and a log has many lines
        if sign in text:
            return _SECRETS.sub(_without, text)
    return text


def redact_event(_logger: object, _method: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
    """The same for a log event, as a processor of structlog; a field that is named for a secret is hidden whole."""
    return {name: _field(name, value, _DEEPEST) for name, value in event.items()}


def _field(name: object, value: Any, depth: int) -> Any:
    if value is None or isinstance(value, int | float):
        return value
    return _HIDDEN if _is_secret(str(name)) else _value(value, depth)


@lru_cache(maxsize=1024)  # every request writes a line, with the same names
def _is_secret(name: str) -> bool:
    return _SECRET_FIELDS.match(name) is not None


def _value(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return redact(value)
    if value is None or isinstance(value, int | float):
        return value
    if depth == 0:
        return redact(str(value))
    if isinstance(value, Mapping):
        return {name: _field(name, each, depth - 1) for name, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_value(each, depth - 1) for each in value]
    return redact(str(value))


def _without(found: re.Match[str]) -> str:
    kept = next(text for text in found.groups() if text is not None)
    return f"{kept}_{_HIDDEN}" if found["key"] else f"{kept}{_HIDDEN}"

"""Redaction of secrets in logs and errors: API keys, cookies, passwords in URLs."""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from functools import lru_cache
from typing import Any

_HIDDEN = "[hidden]"
# The ID of a key stays, so that its owner recognizes it; no part of its secret does, also if a message truncates it.
# The length of a URL scheme is limited: texts are untrusted, and the search restarts at each letter of a long word.
_SECRETS = re.compile(
    r"(?P<key>ps_[0-9a-z]{26})_[0-9a-f]+"
    r"|(?P<scheme>\b(?:bearer|basic)\s+)(?!ps_)(?=\S*[\d+/=])[\w.~+/=-]{8,}"
    r"|(?P<jwt>\beyJ)[\w-]{8,}\.[\w-]{4,}(?:\.[\w-]*)?"
    r"|(?P<webhook>whsec)_[\w+/=-]{16,}"
    r"|(?P<hub>hf)_[A-Za-z0-9]{16,}"
    r"|(?P<cookie>potstill_session[=:]\s*)[^;,\s'\"]+"
    r"|(?P<url>[a-z][a-z0-9+.-]{0,31}://[^\s:/@'\"]*:)[^\s@/'\"]+(?=@)",
    re.IGNORECASE,
)
_SECRET_FIELDS = re.compile(
    r"(?:.*[_-])?(?:authorization|cookies?|password|passwd|secret|token|api[_-]key|secret[_-](?:access[_-])?key)$",
    re.IGNORECASE,
)
_MARKERS = (
    "ps_",
    "whsec_",
    "eyJ",
    "hf_",
    "://",
    "earer",
    "asic",
    "EARER",
    "ASIC",
    "potstill_session",
)  # every secret contains one of these
_MAX_DEPTH = 6  # of a log event's nested fields


def redact(text: str) -> str:
    """Return the text with its secrets replaced."""
    for marker in _MARKERS:  # ten times faster than the pattern, and a log has many lines
        if marker in text:
            return _SECRETS.sub(_replace, text)
    return text


def hide_query(url: str) -> str:
    """Return a URL without its query, which may contain a signature or a token."""
    address, separator, _ = url.partition("?")
    return f"{address}?{_HIDDEN}" if separator else address


def redact_event(_logger: object, _method: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
    """Redact a log event, as a structlog processor; hide the complete value of a field with a secret's name."""
    return {name: _redact_field(name, value, _MAX_DEPTH) for name, value in event.items()}


def _redact_field(name: object, value: Any, depth: int) -> Any:
    if value is None or isinstance(value, int | float):
        return value
    return _HIDDEN if _is_secret_name(str(name)) else _redact_value(value, depth)


@lru_cache(maxsize=1024)  # requests log the same field names
def _is_secret_name(name: str) -> bool:
    return _SECRET_FIELDS.match(name) is not None


def _redact_value(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return redact(value)
    if value is None or isinstance(value, int | float):
        return value
    if depth == 0:
        return redact(str(value))
    if isinstance(value, Mapping):
        return {name: _redact_field(name, item, depth - 1) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redact_value(item, depth - 1) for item in value]
    return redact(str(value))


def _replace(match: re.Match[str]) -> str:
    prefix = next(text for text in match.groups() if text is not None)
    return f"{prefix}_{_HIDDEN}" if match["key"] or match["webhook"] or match["hub"] else f"{prefix}{_HIDDEN}"

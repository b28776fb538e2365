"""Typed ids that sort by time: ``job_`` + 26 characters (48 bits of milliseconds, 80 random).

The same layout as a ULID (Crockford's base 32), in lower case.
"""

from __future__ import annotations

import re
import secrets
import time
from typing import Literal

Prefix = Literal["ds", "mdl", "job", "evt", "ckpt", "up", "swp", "wh", "key", "prj", "wrk", "req"]

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_RANDOM_BITS = 80
_LENGTH = 26
_PATTERN = re.compile(rf"[a-z]+_[{_ALPHABET}]{{{_LENGTH}}}")


def new_id(prefix: Prefix) -> str:
    """Return a new id; later ids of one prefix sort after earlier ones (to the millisecond)."""
    number = (time.time_ns() // 1_000_000) << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
    digits = (_ALPHABET[(number >> shift) & 31] for shift in range(5 * (_LENGTH - 1), -1, -5))
    return f"{prefix}_{''.join(digits)}"


def is_id(text: str, prefix: Prefix) -> bool:
    """Say whether ``text`` has the form of an id of this kind (not whether such an object exists)."""
    return text.startswith(f"{prefix}_") and _PATTERN.fullmatch(text) is not None

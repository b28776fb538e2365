"""Typed ids that sort by time: ``job_`` + 26 characters (48 bits of milliseconds, 80 random).

The layout is that of a ULID (Crockford's base 32), in lower case.
"""

from __future__ import annotations

import os
import re
import threading
import time
from datetime import datetime
from typing import Literal

Prefix = Literal[
    "ds", "mdl", "job", "evt", "ckpt", "up", "swp", "wh", "whd", "key", "prj", "wrk", "req", "aud", "cnt", "push", "trk"
]

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_RANDOM_BITS = 80
_INCREMENT_BITS = 64
_BUFFER_BYTES = 4096
ID_CHARACTERS = 26
_PATTERN = re.compile(rf"[a-z]+_[{ALPHABET}]{{{ID_CHARACTERS}}}")


class _Clock:
    """Strictly increasing numbers: milliseconds and random bits, or a random increment of the last number."""

    def __init__(self) -> None:
        self._last = 0
        self.reset()

    def reset(self) -> None:
        """Reset lock and random bits. A forked child shares its parent's bits, and may inherit a locked lock."""
        self._lock = threading.Lock()
        self._buffer, self._offset = b"", 0

    def next(self) -> int:
        with self._lock:
            number = (time.time_ns() // 1_000_000) << _RANDOM_BITS | self._random(_RANDOM_BITS)
            if number <= self._last:
                number = self._last + 1 + self._random(_INCREMENT_BITS)
            self._last = number
            return number

    def _random(self, bits: int) -> int:
        """Return random bits from a buffer: one ``os.urandom`` call per id would take a tenth of a request's time."""
        size = bits // 8
        if self._offset + size > len(self._buffer):
            self._buffer, self._offset = os.urandom(_BUFFER_BYTES), 0
        self._offset += size
        return int.from_bytes(self._buffer[self._offset - size : self._offset])


_clock = _Clock()
os.register_at_fork(after_in_child=_clock.reset)


def new_id(prefix: Prefix) -> str:
    """Return a new id. It sorts after all earlier ids of this process, and after those of others to the millisecond."""
    return _format(prefix, _clock.next())


def first_id(prefix: Prefix, moment: datetime) -> str:
    """Return a lower bound of the ids that are made at this time or later."""
    return _format(prefix, int(moment.timestamp() * 1000) << _RANDOM_BITS)


def _format(prefix: Prefix, number: int) -> str:
    digits = (ALPHABET[(number >> shift) & 31] for shift in range(5 * (ID_CHARACTERS - 1), -1, -5))
    return f"{prefix}_{''.join(digits)}"


def has_id_form(text: str) -> bool:
    """Return whether ``text`` has the form of an id of any type."""
    return _PATTERN.fullmatch(text) is not None


def is_id(text: str, prefix: Prefix) -> bool:
    """Return whether ``text`` has the form of an id with this prefix, not whether such an object exists."""
    return text.startswith(f"{prefix}_") and _PATTERN.fullmatch(text) is not None

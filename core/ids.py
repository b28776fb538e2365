"""Typed ids that sort by time: ``job_`` + 26 characters (48 bits of milliseconds, 80 random).

The same layout as a ULID (Crockford's base 32), in lower case.
"""

from __future__ import annotations

import os
import re
import threading
import time
from typing import Literal

Prefix = Literal["ds", "mdl", "job", "evt", "ckpt", "up", "swp", "wh", "key", "prj", "wrk", "req", "aud"]

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_RANDOM_BITS = 80
_STEP_BITS = 64
_DRAWN_BYTES = 4096
_LENGTH = 26
_PATTERN = re.compile(rf"[a-z]+_[{_ALPHABET}]{{{_LENGTH}}}")


class _Clock:
    """Numbers that only grow: milliseconds with random bits below, or a random step past the last one."""

    def __init__(self) -> None:
        self._last = 0
        self.begin()

    def begin(self) -> None:
        """Begin with an open lock and bits of one's own: a fork would share the bits, and maybe leave the lock shut."""
        self._lock = threading.Lock()
        self._drawn, self._used = b"", 0

    def next(self) -> int:
        with self._lock:
            number = (time.time_ns() // 1_000_000) << _RANDOM_BITS | self._random(_RANDOM_BITS)
            if number <= self._last:
                number = self._last + 1 + self._random(_STEP_BITS)
            self._last = number
            return number

    def _random(self, bits: int) -> int:
        """Random bits, drawn from the system many at a time: every request takes an id, and a draw a tenth of it."""
        size = bits // 8
        if self._used + size > len(self._drawn):
            self._drawn, self._used = os.urandom(_DRAWN_BYTES), 0
        self._used += size
        return int.from_bytes(self._drawn[self._used - size : self._used])


_clock = _Clock()
os.register_at_fork(after_in_child=_clock.begin)


def new_id(prefix: Prefix) -> str:
    """Return a new id; it sorts after all that this process made before, and across processes to the millisecond."""
    number = _clock.next()
    digits = (_ALPHABET[(number >> shift) & 31] for shift in range(5 * (_LENGTH - 1), -1, -5))
    return f"{prefix}_{''.join(digits)}"


def is_id(text: str, prefix: Prefix) -> bool:
    """Say whether ``text`` has the form of an id of this kind (not whether such an object exists)."""
    return text.startswith(f"{prefix}_") and _PATTERN.fullmatch(text) is not None

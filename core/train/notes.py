"""What was found out once on this machine and would be found again: small facts by all that they depend on.

Kept in the cache folder that jobs share, so a note may go at any time; then the fact is found out anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import timm
import torch

from core.train.precision import Arithmetic, machine_of

_FORMAT = 1  # raised when what is noted changes for the same words


class Notes:
    """Notes in a folder. Whatever trouble there is with a file, there is no note."""

    def __init__(self, cache: Path, arithmetic: Arithmetic, threads: int) -> None:
        self._folder = cache / "notes"
        self._surroundings = {
            "format": _FORMAT,
            "device": arithmetic.device.type,
            "precision": arithmetic.precision,
            "threads": threads,
            "machine": machine_of(arithmetic.device),
            "torch": str(torch.__version__),
            "timm": timm.__version__,
        }

    def find(self, kind: str, of: Mapping[str, Any]) -> dict[str, Any] | None:
        """What was noted of this, or None."""
        try:
            found = json.loads(self._path(kind, of).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def keep(self, kind: str, of: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        """Note it, whole or not at all."""
        path = self._path(kind, of)
        beside = path.with_suffix(f".{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(json.dumps(dict(found)), encoding="utf-8")
            beside.replace(path)
        except OSError:
            with suppress(OSError):
                beside.unlink(missing_ok=True)

    def _path(self, kind: str, of: Mapping[str, Any]) -> Path:
        words = json.dumps([kind, self._surroundings, of], sort_keys=True, separators=(",", ":"))
        return self._folder / f"{hashlib.sha256(words.encode()).hexdigest()}.json"

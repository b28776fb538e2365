"""What was found out once on this machine and would be found again: small facts by all that they depend on.

``<cache>/notes/<key>.json`` is a digest and the fact, written beside and renamed. A note may go at any time, and
whatever trouble there is with a file, there is no note: then the fact is found out anew.
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

from core.train.precision import machine_of

_FORMAT = 2  # raised when what is noted changes for the same words


class ResultCache:
    """The notes of a cache folder that hold for a kind of machine with so many threads."""

    def __init__(self, cache: Path, device: torch.device, threads: int) -> None:
        self._folder = cache / "notes"
        self._surroundings = {
            "format": _FORMAT,
            "machine": machine_of(device),
            "threads": threads,
            "torch": str(torch.__version__),
            "timm": timm.__version__,
        }

    def find(self, kind: str, of: Mapping[str, Any]) -> dict[str, Any] | None:
        """What was noted of this, or None."""
        path = self._path(kind, of)
        try:
            document = json.loads(path.read_bytes())
            found: dict[str, Any] = document["found"]
            if document["digest"] != _digest(found):
                return None
            os.utime(path)  # what was used longest ago goes first
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return found

    def keep(self, kind: str, of: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        """Note it, whole or not at all."""
        path = self._path(kind, of)
        beside = path.with_suffix(f".{os.getpid()}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(json.dumps({"digest": _digest(found), "found": found}), encoding="utf-8")
            beside.replace(path)
        except OSError:  # a full disk is no reason to end a job: the next one finds it out again
            with suppress(OSError):
                beside.unlink(missing_ok=True)

    def _path(self, kind: str, of: Mapping[str, Any]) -> Path:
        return self._folder / f"{_digest([kind, self._surroundings, of])}.json"


def _digest(words: Any) -> str:
    return hashlib.sha256(json.dumps(words, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

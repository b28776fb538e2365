"""Cache of small measured results, keyed by everything that they depend on.

``<cache>/results/<key>.json`` holds a result and its digest. Entries may be deleted at any time; an unreadable or
damaged one is a miss.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import timm
import torch

from core.system.digest import json_digest
from core.system.disk import atomic_path
from core.train.precision import device_description

_FORMAT = 2  # increment when the result for the same key changes


class ResultCache:
    """Results in a cache folder that are valid for one kind of device and number of threads."""

    def __init__(self, cache: Path, device: torch.device, threads: int) -> None:
        self._folder = cache / "results"
        self._environment = {
            "format": _FORMAT,
            "machine": device_description(device),
            "threads": threads,
            "torch": str(torch.__version__),
            "timm": timm.__version__,
        }

    def get(self, kind: str, key_fields: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return a cached result, or None."""
        path = self._path(kind, key_fields)
        try:
            document = json.loads(path.read_bytes())
            result: dict[str, Any] = document["result"]
            if document["digest"] != json_digest(result):
                return None
            os.utime(path)  # eviction deletes the least recently used entries
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return result

    def put(self, kind: str, key_fields: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Store a result atomically. A disk error is ignored, as the next job can measure again."""
        path = self._path(kind, key_fields)
        content = json.dumps({"digest": json_digest(result), "result": result})
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path, durable=False) as temporary:
                temporary.write_text(content, encoding="utf-8")

    def _path(self, kind: str, key_fields: Mapping[str, Any]) -> Path:
        return self._folder / f"{json_digest([kind, self._environment, key_fields])}.json"

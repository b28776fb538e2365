"""Result files of the quality benchmark: one per finished run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.results import write_json

Result = dict[str, Any]
CRASHED = "crashed"
"""Status of a run that failed for a reason outside its spec. It is not written, so a later start tries it again."""


class Results:
    """The files of a folder, by name. A result belongs to a run only if it has the digest of the run's spec."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        files = sorted(folder.glob("*.json")) if folder.is_dir() else []
        self._found: dict[str, Result] = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}

    def get(self, name: str, digest: str) -> Result | None:
        """Return the result of the run with this spec; None if there is none, or one of another spec."""
        found = self._found.get(name)
        return found if found is not None and found["digest"] == digest else None

    def add(self, result: Result) -> None:
        """Write the result of a finished run, atomically; remember that of a crashed run."""
        if result["status"] != CRASHED:
            write_json(self.folder / f"{result['name']}.json", result)
        self._found[result["name"]] = result

    def forget_failed(self) -> None:
        """Forget the results of runs that did not succeed, so that they are repeated."""
        self._found = {name: result for name, result in self._found.items() if result["status"] == "succeeded"}

    def __len__(self) -> int:
        return len(self._found)

"""SHA-256 digests of JSON documents and of files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def json_digest(document: Any) -> str:
    """Return the SHA-256 of a JSON document; the order of its keys does not matter."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

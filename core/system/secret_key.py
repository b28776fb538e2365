"""The service's secret key in a file: generated once, readable by its owner only."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def load_secret_key(path: Path) -> str:
    """Return the secret key in ``path``; generate it if the file does not exist.

    Several processes may call this concurrently; the first file linked into place wins.
    """
    if not path.exists():
        _write_once(path, secrets.token_urlsafe(32))
    return path.read_text(encoding="ascii").strip()


def _write_once(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return  # another process was first; its key is used
    finally:
        temporary.unlink()

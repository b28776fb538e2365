"""Opens the artifact store of a storage URL."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from core.store.artifact_store import ArtifactStore, LocalArtifactStore


def open_store(url: str, *, retry_seconds: float = 60.0) -> ArtifactStore:
    """Open the store of ``file:///folder`` or ``s3://bucket/prefix``.

    A bucket that does not answer is tried again for ``retry_seconds``: it may restart, and a dataset whose files cannot
    be stored has to be uploaded again. Raises ``ValueError`` for any other URL.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and not parts.netloc and parts.path:
        return LocalArtifactStore(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc and not parts.query:
        from core.store.s3 import S3ArtifactStore  # optional dependency

        return S3ArtifactStore(parts.netloc, unquote(parts.path).strip("/"), retry_seconds=retry_seconds)
    raise ValueError(f"STORAGE_URL must be file:///an/absolute/folder or s3://bucket/prefix, not {url!r}")

"""Fetch the shards of a dataset for its ingestion: several files, in one tar."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

from core.ingest_errors import DownloadTooLarge

FetchShard = Callable[[str, Path, int], None]


def fetch_shards(urls: Sequence[str], path: Path, *, max_bytes: int, fetch: FetchShard) -> Path:
    """Download each URL, and put the files into a tar at ``path``; return the path.

    ``fetch`` gets a URL, a path and the bytes that are left of ``max_bytes``. The shards are named by their position:
    the sandboxed reader opens them, and their own names may be anything. Raises :class:`DownloadTooLarge`, and what
    ``fetch`` raises.
    """
    shard, left = path.with_name("shard"), max_bytes
    with tarfile.open(path, "x") as archive:
        for number, url in enumerate(urls):
            fetch(url, shard, left)
            left -= shard.stat().st_size
            if left < 0:
                raise DownloadTooLarge(f"the shards have more than {max_bytes:,} bytes; use fewer")
            archive.add(shard, f"{_stem(url)}-{number:06d}.tar")
            shard.unlink()
    return path


def _stem(url: str) -> str:
    """Return a name that tells the split, such as ``train``, and holds no separator."""
    name = url.partition("?")[0].rpartition("/")[2].partition(".")[0]
    stem = "".join(character for character in name if character.isalnum() or character in "-_")[:100]
    return stem.strip("-_") or "shard"

"""Fetch a dataset from a bucket for its ingestion: one file, or all files below a prefix in one tar."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from core.errors import StorageFailed
from core.ingest_errors import DownloadFailed, DownloadTooLarge
from core.store.s3 import BucketReader


def fetch_from_bucket(url: str, path: Path, *, max_bytes: int, max_files: int, on_chunk: Callable[[], None]) -> Path:
    """Download ``s3://bucket/key`` to ``path``, or the files below ``s3://bucket/prefix/`` into a tar; return the path.

    Raises :class:`DownloadFailed`, :class:`DownloadTooLarge`.
    """
    parts = urlsplit(url)
    key = parts.path.lstrip("/")
    reader = BucketReader(parts.netloc)
    try:
        if key.endswith("/") or not key:
            _fetch_folder(reader, key, path, max_bytes=max_bytes, max_files=max_files, on_chunk=on_chunk)
        else:
            size = reader.size(key)
            _require_size(size, max_bytes)
            _save(reader.open(key), path, max_bytes, on_chunk)
    except StorageFailed as error:
        raise DownloadFailed(f"{url} cannot be read: {error.detail}") from error
    return path


def _fetch_folder(
    reader: BucketReader, prefix: str, path: Path, *, max_bytes: int, max_files: int, on_chunk: Callable[[], None]
) -> None:
    listed = []
    for item in reader.list(prefix):
        listed.append(item)
        if len(listed) > max_files:
            raise DownloadTooLarge(f"the folder has more than {max_files:,} files; use an archive")
    if not listed:
        raise DownloadFailed("the folder has no files; check the URL, which ends with / for a folder")
    _require_size(sum(item.size_bytes for item in listed), max_bytes)
    file = path.with_name("object")
    with closing(tarfile.open(path, "x")) as archive:
        for item in listed:
            _save(reader.open(item.key), file, max_bytes, on_chunk)
            archive.add(file, item.key.removeprefix(prefix))
            file.unlink()


def _require_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise DownloadTooLarge(f"the files have {size:,} bytes, at most {max_bytes:,} are accepted")


def _save(chunks: Iterator[bytes], path: Path, max_bytes: int, on_chunk: Callable[[], None]) -> None:
    size = 0
    with path.open("xb") as file:
        for chunk in chunks:
            on_chunk()
            size += len(chunk)
            _require_size(size, max_bytes)
            file.write(chunk)

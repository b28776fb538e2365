"""Artifact store in a bucket of Amazon S3 or of a compatible service.

Uses obstore (Rust's object_store), which retries transient failures. A bucket writes an object atomically, also after
a multipart upload. Credentials, region and endpoint come from the standard AWS environment variables
(``AWS_ACCESS_KEY_ID``, ``AWS_REGION``, ``AWS_ENDPOINT_URL``, …) or from the machine's role.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, Literal

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from core.errors import StorageFailed, StoredFileDamaged
from core.store.artifact_store import ListedFile, StoredFile, check_key
from core.system.disk import disk_error_reason
from core.system.fault_injection import fault_point

_CHUNK_BYTES = 1024 * 1024
_PART_BYTES = 16 * 1024 * 1024  # part size of multipart uploads; a few parts are in memory at a time
_URL = re.compile(r"https?://\S+")
_LIST_PAGE_SIZE = 1000  # objects per request
_MAX_RETRIES = 20  # more than a minute has time for, so that `retry_seconds` decides: pauses grow from 0.1 to 15 s


class S3ArtifactStore:
    """Artifact store in a bucket, below an optional prefix.

    Incomplete multipart uploads are not listed; delete them with a lifecycle rule of the bucket
    (``AbortIncompleteMultipartUpload``).
    """

    def __init__(self, bucket: str, prefix: str = "", *, retry_seconds: float = 60.0) -> None:
        self._bucket = bucket
        self._store = _open_bucket(bucket, prefix, retry_seconds)

    def put(self, key: str, source: Path | BinaryIO) -> StoredFile:
        """Publish a file under its key, atomically."""
        check_key(key)
        with _translate_errors(key):
            if isinstance(source, Path):
                with source.open("rb") as file:
                    return self._put(key, file)
            return self._put(key, source)

    def _put(self, key: str, file: BinaryIO) -> StoredFile:
        digest = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]  # read only
        size = file.seek(0, os.SEEK_END)  # not `tell`: hashing a BytesIO leaves its position unchanged
        file.seek(0)
        try:
            obstore.put(self._store, key, file, chunk_size=_PART_BYTES, max_concurrency=4)
        except FileNotFoundError:  # for a PUT, only the bucket itself can be missing
            raise StorageFailed(f"The artifact store failed at {key}: there is no bucket {self._bucket}.") from None
        return StoredFile(key, size, digest.hexdigest())

    def measure(self, key: str) -> StoredFile:
        """Read a file back and return its actual size and hash."""
        digest, size = hashlib.sha256(), 0
        for chunk in self.open(key):
            digest.update(chunk)
            size += len(chunk)
        return StoredFile(key, size, digest.hexdigest())

    def fetch(self, key: str, target: Path, *, sha256: str | None = None) -> None:
        """Copy a file to a local path, atomically; verify ``sha256`` if given."""
        partial = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
        digest = hashlib.sha256()
        try:
            with _translate_errors(key):
                target.parent.mkdir(parents=True, exist_ok=True)
                with partial.open("xb") as out:
                    for chunk in self.open(key):
                        out.write(chunk)
                        digest.update(chunk)
                if sha256 is not None and digest.hexdigest() != sha256:
                    raise StoredFileDamaged(f"The stored file {key} is damaged: its sha256 differs.")
                fault_point("store.fetched")
                partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def open(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Iterate over the bytes from ``start`` in chunks. Raises immediately if the file does not exist."""
        check_key(key)
        if start == 0 and length is None:
            return _iter_chunks(key, self._get(key, {}))
        size = self.size(key)  # a range beyond the end is an error in S3
        if size is None:
            raise _missing_file(key)
        end = size if length is None else min(size, start + length)
        if start >= end:
            return iter(())
        return _iter_chunks(key, self._get(key, {"range": (start, end)}))

    def _get(self, key: str, options: Any) -> Any:
        with _translate_errors(key):
            try:
                return obstore.get(self._store, key, options=options)
            except FileNotFoundError as error:
                raise _missing_file(key) from error

    def size(self, key: str) -> int | None:
        """Return the size in bytes; None if the file does not exist."""
        check_key(key)
        with _translate_errors(key):
            try:
                return int(obstore.head(self._store, key)["size"])
            except FileNotFoundError:
                return None

    def local_path(self, key: str) -> Path | None:
        """Return None: objects are not on this machine."""
        check_key(key)
        return None

    def sign_url(self, key: str, method: Literal["GET", "PUT"], seconds: float) -> str | None:
        """Return a presigned URL."""
        check_key(key)
        with _translate_errors(key):
            return str(obstore.sign(self._store, method, key, timedelta(seconds=seconds)))

    def delete(self, key: str) -> None:
        """Delete a file; do nothing if it does not exist."""
        check_key(key)
        with _translate_errors(key), _ignore_missing():
            obstore.delete(self._store, key)

    def delete_prefix(self, prefix: str) -> int:
        """Delete all files under a folder of keys; return their number."""
        keys = [listed.key for listed in self.list_prefix(prefix)]
        with _translate_errors(prefix), _ignore_missing():
            obstore.delete(self._store, keys)
        return len(keys)

    def list_prefix(self, prefix: str = "") -> Iterator[ListedFile]:
        """List the files under a folder of keys, or all."""
        if prefix:
            check_key(prefix)
        with _translate_errors(prefix or "the bucket root"):
            for page in obstore.list(self._store, prefix or None, chunk_size=_LIST_PAGE_SIZE):
                for item in page:
                    yield ListedFile(item["path"], item["size"], item["last_modified"])

    def remove_partials(self, older_than_seconds: float) -> int:  # noqa: ARG002 - a lifecycle rule deletes them
        """Return 0: a bucket lists only complete objects."""
        return 0


class BucketReader:
    """Reads the objects of a bucket that is not the service's own; their keys may have any characters."""

    def __init__(self, bucket: str, *, retry_seconds: float = 60.0) -> None:
        self._store = _open_bucket(bucket, "", retry_seconds)

    def size(self, key: str) -> int:
        """Return the size of an object in bytes. Raises ``StorageFailed``."""
        with _translate_errors(key):
            return int(obstore.head(self._store, key)["size"])

    def open(self, key: str) -> Iterator[bytes]:
        """Iterate over the bytes of an object in chunks. Raises ``StorageFailed``."""
        with _translate_errors(key):
            return _iter_chunks(key, obstore.get(self._store, key))

    def list(self, prefix: str) -> Iterator[ListedFile]:
        """List the objects below a prefix. Raises ``StorageFailed``."""
        with _translate_errors(prefix or "the bucket root"):
            for page in obstore.list(self._store, prefix or None, chunk_size=_LIST_PAGE_SIZE):
                for item in page:
                    yield ListedFile(item["path"], item["size"], item["last_modified"])


def _open_bucket(bucket: str, prefix: str, retry_seconds: float) -> S3Store:
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    return S3Store(
        bucket,
        prefix=prefix or None,
        client_options={"timeout": "120s", "connect_timeout": "5s", "allow_http": endpoint.startswith("http://")},
        retry_config={"retry_timeout": timedelta(seconds=retry_seconds), "max_retries": _MAX_RETRIES},
    )


def _missing_file(key: str) -> StoredFileDamaged:
    return StoredFileDamaged(f"The stored file {key} is missing.")


def _iter_chunks(key: str, response: Any) -> Iterator[bytes]:
    with _translate_errors(key):
        for chunk in response.stream(min_chunk_size=_CHUNK_BYTES):
            yield bytes(chunk)


@contextmanager
def _translate_errors(key: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise StorageFailed(f"The stored file {key} is missing.") from error
    except OSError as error:  # of the local disk
        raise StorageFailed(f"The artifact store failed at {key}: {disk_error_reason(error)}.") from error
    except BaseError as error:
        raise StorageFailed(f"The artifact store failed at {key}: {_first_line(error)}.") from error


@contextmanager
def _ignore_missing() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        return


def _first_line(error: Exception) -> str:
    """Return the first line of a message without addresses, which are internal; obstore appends the whole request."""
    return _URL.sub("the bucket", str(error).strip().partition("\n")[0]).rstrip(".")[:300]

"""The artefact store in a bucket of Amazon S3 or of anything that speaks its protocol.

By obstore, which is Rust's object_store: a bucket writes an object whole or not at all, also one that is sent in
parts, and what fails for a moment is tried again. Credentials, region and endpoint come from the environment that
every tool of AWS reads (``AWS_ACCESS_KEY_ID``, ``AWS_REGION``, ``AWS_ENDPOINT_URL``, …), or from the machine's role.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from core.errors import StorageFailed, StoredFileDamaged
from core.store.artifact_store import Listed, StoredFile, check_key
from core.system.disk import why
from core.system.fault_injection import fault_point

_CHUNK = 1024 * 1024
_PART = 16 * 1024 * 1024  # of what is sent in parts; held in memory, a few at a time
_LISTED = 1000  # objects a request


class S3ArtifactStore:
    """A bucket, or the part of it below a prefix.

    Parts of an upload that was never completed are not seen here: let a rule of the bucket delete them
    (``AbortIncompleteMultipartUpload``).
    """

    def __init__(self, bucket: str, prefix: str = "", *, retry_seconds: float = 30.0) -> None:
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        self._bucket = bucket
        self._store = S3Store(
            bucket,
            prefix=prefix or None,
            client_options={"timeout": "120s", "connect_timeout": "5s", "allow_http": endpoint.startswith("http://")},
            retry_config={"retry_timeout": timedelta(seconds=retry_seconds), "max_retries": 6},
        )

    def put(self, key: str, source: Path | BinaryIO) -> StoredFile:
        """Publish a file: whole under its key, or not there."""
        check_key(key)
        with _failing(key):
            if isinstance(source, Path):
                with source.open("rb") as file:
                    return self._put(key, file)
            return self._put(key, source)

    def _put(self, key: str, file: BinaryIO) -> StoredFile:
        digest = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]  # read only
        size = file.tell()
        file.seek(0)
        try:
            obstore.put(self._store, key, file, chunk_size=_PART, max_concurrency=4)
        except FileNotFoundError:  # nothing can be missing but what it is put into
            raise StorageFailed(f"The artefact store failed at {key}: there is no bucket {self._bucket}.") from None
        return StoredFile(key, size, digest.hexdigest())

    def measure(self, key: str) -> StoredFile:
        """Read a file back and hash what is really there."""
        digest, size = hashlib.sha256(), 0
        for chunk in self.open(key):
            digest.update(chunk)
            size += len(chunk)
        return StoredFile(key, size, digest.hexdigest())

    def fetch(self, key: str, target: Path, *, sha256: str | None = None) -> None:
        """Copy a file to a local path (whole or not there), checked against ``sha256`` if given."""
        partial = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
        digest = hashlib.sha256()
        try:
            with _failing(key):
                target.parent.mkdir(parents=True, exist_ok=True)
                with partial.open("xb") as out:
                    for chunk in self.open(key):
                        out.write(chunk)
                        digest.update(chunk)
                if sha256 is not None and digest.hexdigest() != sha256:
                    raise StoredFileDamaged(f"The stored file {key} is not what was stored (its sha256 differs).")
                fault_point("store.fetched")
                partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def open(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The bytes from ``start``, in chunks. Raises at once where there is no such file."""
        check_key(key)
        if start == 0 and length is None:
            return _chunks(key, self._get(key, {}))
        size = self.size(key)  # a range behind the end would be an error
        if size is None:
            raise _absent(key)
        end = size if length is None else min(size, start + length)
        if start >= end:
            return iter(())
        return _chunks(key, self._get(key, {"range": (start, end)}))

    def _get(self, key: str, options: Any) -> Any:
        with _failing(key):
            try:
                return obstore.get(self._store, key, options=options)
            except FileNotFoundError as error:
                raise _absent(key) from error

    def size(self, key: str) -> int | None:
        """The size in bytes, or None where there is no such file."""
        check_key(key)
        with _failing(key):
            try:
                return int(obstore.head(self._store, key)["size"])
            except FileNotFoundError:
                return None

    def local_path(self, key: str) -> Path | None:
        """None: a bucket is on no machine."""
        check_key(key)
        return None

    def delete(self, key: str) -> None:
        """Delete a file; nothing happens where there is none."""
        check_key(key)
        with _failing(key), _absent_is_fine():
            obstore.delete(self._store, key)

    def delete_prefix(self, prefix: str) -> int:
        """Delete every file under a folder of keys; returns how many."""
        keys = [listed.key for listed in self.list_prefix(prefix)]
        with _failing(prefix), _absent_is_fine():
            obstore.delete(self._store, keys)
        return len(keys)

    def list_prefix(self, prefix: str = "") -> Iterator[Listed]:
        """The files under a folder of keys, or all."""
        if prefix:
            check_key(prefix)
        with _failing(prefix or "the whole bucket"):
            for page in obstore.list(self._store, prefix or None, chunk_size=_LISTED):
                for found in page:
                    yield Listed(found["path"], found["size"], found["last_modified"])

    def remove_partials(self, older_than_seconds: float) -> int:  # noqa: ARG002 - the bucket's own rule does it
        """Nothing here: a bucket shows no object that is not whole."""
        return 0


def _absent(key: str) -> StoredFileDamaged:
    return StoredFileDamaged(f"The stored file {key} is not there.")


def _chunks(key: str, found: Any) -> Iterator[bytes]:
    with _failing(key):
        for chunk in found.stream(min_chunk_size=_CHUNK):
            yield bytes(chunk)


@contextmanager
def _failing(key: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise StorageFailed(f"The stored file {key} is not there.") from error
    except OSError as error:  # the disk that a copy is written to, or read from
        raise StorageFailed(f"The artefact store failed at {key}: {why(error)}.") from error
    except BaseError as error:
        raise StorageFailed(f"The artefact store failed at {key}: {_first_line(error)}.") from error


@contextmanager
def _absent_is_fine() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        return


def _first_line(error: Exception) -> str:
    """Without what follows: obstore shows the request and its answer in full."""
    return str(error).strip().partition("\n")[0].rstrip(".")[:300]

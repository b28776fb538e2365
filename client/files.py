"""Pack folders for upload; download and verify artifacts."""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from client.documents import Artifact
from client.errors import ClientError, DownloadDamaged, ServiceUnreachable
from client.transport import Transport, retry_delay_seconds

_MAX_ATTEMPTS = 5


@contextmanager
def packed_archive(source: Path) -> Iterator[Path]:
    """Yield ``source`` if it is a file, or a temporary zip of the folder ``source``.

    The zip is not compressed, because images already are. Raises :class:`ClientError` if the path is missing.
    """
    if source.is_file():
        yield source
        return
    if not source.is_dir():
        raise ClientError(f"there is no file or folder {source}")
    with tempfile.TemporaryDirectory(prefix="potstill-") as folder:
        archive = Path(folder) / f"{source.resolve().name or 'dataset'}.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED, strict_timestamps=False) as out:
            for path in sorted(source.rglob("*")):
                if path.is_file() and not path.is_symlink():
                    out.write(path, path.relative_to(source))
        yield archive


def download(
    transport: Transport,
    url: str,
    artifact: Artifact,
    folder: Path,
    *,
    on_bytes: Callable[[int], None] | None = None,
    pause: Callable[[float], None],
) -> Path:
    """Download one artifact into ``folder``; resume after a broken connection.

    The file gets its name only after its SHA-256 is verified. Raises :class:`DownloadDamaged` on a mismatch and
    :class:`ServiceUnreachable` after all retries.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / _check_name(artifact["name"])
    part = target.with_name(f".{target.name}.part")
    part.unlink(missing_ok=True)
    for attempt in range(_MAX_ATTEMPTS):
        try:
            _download_rest(transport, url, artifact, part, on_bytes)
            break
        except httpx.TransportError as error:
            if attempt == _MAX_ATTEMPTS - 1:
                raise ServiceUnreachable(f"the download of {artifact['name']} keeps breaking: {error}") from error
            pause(retry_delay_seconds(attempt))
    if file_sha256(part) != artifact["sha256"]:
        part.unlink()
        raise DownloadDamaged(f"{artifact['name']} is damaged: its SHA-256 does not match; try again")
    part.replace(target)
    return target


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download_rest(
    transport: Transport, url: str, artifact: Artifact, part: Path, on_bytes: Callable[[int], None] | None
) -> None:
    offset = part.stat().st_size if part.exists() else 0
    if offset >= artifact["size_bytes"] and part.exists():
        return
    # If-Range: if the file has changed meanwhile, the service sends it from the start.
    headers = {"Accept-Encoding": "identity"}  # ranges refer to the unencoded file
    if offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": f'"{artifact["sha256"]}"'}
    with transport.stream(url, headers=headers) as response:
        resumes = offset > 0 and response.status_code == httpx.codes.PARTIAL_CONTENT
        with part.open("ab" if resumes else "wb") as file:
            for block in response.iter_bytes():  # as received; do not wait for full blocks
                file.write(block)
                if on_bytes is not None:
                    on_bytes(len(block))
            file.flush()
            os.fsync(file.fileno())


def _check_name(name: str) -> str:
    """Reject an artifact name that leads outside the folder."""
    if name in {"", ".", ".."} or Path(name).name != name or "\\" in name:
        raise DownloadDamaged(f"the service lists a file with an invalid name: {name!r}")
    return name

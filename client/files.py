"""Files on their way: a folder packed for upload, a download that is whole and verified or not there."""

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
from client.transport import Transport, pause_seconds

_TRIES = 5


@contextmanager
def packed(source: Path) -> Iterator[Path]:
    """An archive of ``source``: the file itself, or for a folder a temporary zip of it.

    Images are compressed already, so the zip only stores them. Raises :class:`ClientError` if there is
    no such path.
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
    """Fetch one artefact into ``folder``; a broken connection goes on where it broke.

    The file appears under its name only after its SHA-256 agreed with the list's. Raises
    :class:`DownloadDamaged` where it does not, :class:`ServiceUnreachable` where tries run out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / _plain(artifact["name"])
    part = target.with_name(f".{target.name}.part")
    part.unlink(missing_ok=True)
    for attempt in range(_TRIES):
        try:
            _fetch_rest(transport, url, artifact, part, on_bytes)
            break
        except httpx.TransportError as error:
            if attempt == _TRIES - 1:
                raise ServiceUnreachable(f"the download of {artifact['name']} keeps breaking: {error}") from error
            pause(pause_seconds(attempt))
    if file_sha256(part) != artifact["sha256"]:
        part.unlink()
        raise DownloadDamaged(f"{artifact['name']} arrived damaged: its SHA-256 is not the listed one; try again")
    part.replace(target)
    return target


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch_rest(
    transport: Transport, url: str, artifact: Artifact, part: Path, on_bytes: Callable[[int], None] | None
) -> None:
    have = part.stat().st_size if part.exists() else 0
    if have >= artifact["size_bytes"] and part.exists():
        return
    # If-Range: should the file have changed meanwhile, it is sent whole and we begin again.
    headers = {"Accept-Encoding": "identity"}  # positions count the file's own bytes
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": f'"{artifact["sha256"]}"'}
    with transport.stream(url, headers=headers) as answer:
        goes_on = have > 0 and answer.status_code == httpx.codes.PARTIAL_CONTENT
        with part.open("ab" if goes_on else "wb") as file:
            for block in answer.iter_bytes():  # as it arrives: a full block may never come
                file.write(block)
                if on_bytes is not None:
                    on_bytes(len(block))
            file.flush()
            os.fsync(file.fileno())


def _plain(name: str) -> str:
    """Refuse a name that would leave the folder, whoever sent it."""
    if name in {"", ".", ".."} or Path(name).name != name or "\\" in name:
        raise DownloadDamaged(f"the service lists a file with an unusable name: {name!r}")
    return name

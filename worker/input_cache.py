"""What jobs read out of a bucket, kept on this machine for the attempts and the jobs that read it next.

An entry of a shared folder holds the files of one dataset or model in ``files``. Its key says what is in them, so that
whatever is sent twice is kept once. A file is written beside its place, checked, synced and renamed; an entry is used
once every file in it was hashed and found to be what was stored, each time anew, and what is not is fetched again. Its
lock is held for as long as it is used, so that nobody deletes it meanwhile.

A cache that cannot be written, or has no room, costs time alone: then files go where the attempt works.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import structlog

from core.errors import StorageFailed
from core.store.artifact_store import ArtifactStore, StoredFile
from core.system.disk import REFUSALS, sync
from core.system.disk_cache import DiskCache, alone, in_words
from worker.stored_files import fetch_folder

_CHUNK = 1024 * 1024

log = structlog.get_logger(__name__)

Poll = Callable[[], None]


class InputCache:
    """At most ``max_bytes`` of them below ``root``. A context manager: what was brought is in use until its end."""

    def __init__(self, store: ArtifactStore, root: Path, max_bytes: int) -> None:
        self._store = store
        self._root = root
        self._max_bytes = max_bytes
        self._in_use: list[IO[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._in_use:
            self._in_use.pop().close()

    def fetch(self, files: Sequence[StoredFile], folder: Path, poll: Poll) -> Path:
        """A folder with these files, each checked: a kept one to be read only, or else ``folder``, whole or not there.

        ``poll`` is called while another process fetches the same, and while files are hashed; it may raise. Raises
        ``StorageFailed``, and ``StoredFileDamaged`` where a file is lost or is not what was stored.
        """
        kept = None
        if self._max_bytes and files and all(self._store.local_path(file.key) is None for file in files):
            shared = DiskCache(self._root, self._max_bytes)  # a new one: where it has no room, it stops for good
            kept = self._kept(shared, files, poll)
            if kept is None:
                log.warning("inputs.not_kept", num_bytes=_size(files), reason=shared.stopped)
        return fetch_folder(self._store, files, folder) if kept is None else kept

    def _kept(self, shared: DiskCache, files: Sequence[StoredFile], poll: Poll) -> Path | None:
        """The entry's folder, in use from now on; None where it cannot be kept, and ``shared`` says why."""
        if _size(files) > self._max_bytes:
            shared.make_room(_size(files))  # on the disk, where these files go too
            return None
        key = _key(files)
        lock = shared.kept(key, poll)
        if lock is None:
            return None
        try:
            entry = _Entry(self._store, shared, shared.root / key, poll)
            is_whole = not entry.lacking(files) or entry.fill(files)
        except BaseException:
            lock.close()
            raise
        if not is_whole:
            lock.close()
            return None
        self._in_use.append(lock)
        return entry.files


class _Entry:
    """One entry that nobody deletes meanwhile."""

    def __init__(self, store: ArtifactStore, shared: DiskCache, folder: Path, poll: Poll) -> None:
        self.files = folder / "files"
        self._beside = folder / "partial"
        self._folder = folder
        self._store = store
        self._shared = shared
        self._poll = poll

    def lacking(self, files: Sequence[StoredFile]) -> list[StoredFile]:
        """Those of the files that are not here, or are not what was stored."""
        return [file for file in files if not self._is_whole(file)]

    def fill(self, files: Sequence[StoredFile]) -> bool:
        """Fetch what is lacking, unless another process does; whether there is room for it on this disk."""
        try:
            self._folder.mkdir(exist_ok=True)
            with alone(self._folder / "fill.lock", self._poll):
                shutil.rmtree(self._beside, ignore_errors=True)  # left by a process that was killed
                if lacking := self.lacking(files):
                    self._shared.make_room(_size(lacking) - self._replaced(lacking))
                    if self._shared.stopped is None:
                        self._fetch(lacking)
        except OSError as error:
            self._shared.stop(in_words(error))
        except StorageFailed as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in REFUSALS:
                raise  # the bucket's doing, and nothing that another place on this disk would help
            self._shared.stop(in_words(error.__cause__))
        return self._shared.stopped is None

    def _fetch(self, files: Sequence[StoredFile]) -> None:
        """Nothing shows before all of it is here. Who reads what it replaces keeps what was opened."""
        try:
            for file in files:
                self._poll()
                self._store.fetch(file.key, self._beside / file.name, sha256=file.sha256)
                sync(self._beside / file.name)
            self.files.mkdir(exist_ok=True)
            for file in files:
                (self._beside / file.name).replace(self.files / file.name)
            sync(self.files)
        finally:
            shutil.rmtree(self._beside, ignore_errors=True)

    def _replaced(self, files: Sequence[StoredFile]) -> int:
        """The bytes of damaged files, which make room when they are replaced."""
        paths = [self.files / file.name for file in files]
        return sum(path.stat().st_size for path in paths if path.exists())

    def _is_whole(self, file: StoredFile) -> bool:
        try:
            with (self.files / file.name).open("rb") as content:
                is_whole = self._hash(content) == (file.size_bytes, file.sha256)
        except FileNotFoundError:
            return False
        except OSError:  # what a disk cannot give back is as good as lost
            is_whole = False
        if not is_whole:
            log.warning("inputs.damaged", key=file.key)
        return is_whole

    def _hash(self, content: IO[bytes]) -> tuple[int, str]:
        digest = hashlib.sha256()
        while chunk := content.read(_CHUNK):
            self._poll()
            digest.update(chunk)
        return content.tell(), digest.hexdigest()


def _key(files: Sequence[StoredFile]) -> str:
    lines = sorted(f"{file.name} {file.sha256}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _size(files: Sequence[StoredFile]) -> int:
    return sum(file.size_bytes for file in files)

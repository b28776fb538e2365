"""Ingestion: from an archive, a folder or a built-in set to a stored dataset. Torch-free.

Every image is decoded once, to check it and to take the fingerprint. A file that cannot be used is
reported and left out; the dataset fails only where nothing sensible would remain, or where the source
as a whole is hostile or damaged.
"""

from __future__ import annotations

import secrets
import shutil
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from core.data.images import BrokenImage, decode
from core.data.stored import INDEX, Index
from core.errors import DatasetRejected
from core.ingest.archives import archive_files, folder_files
from core.ingest.builtin import builtin_files
from core.ingest.dataset_writer import StoredWriter
from core.ingest.folder_layout import Layout, arrange
from core.ingest.limits import IngestLimits, Rejected
from core.ingest.paths import shown
from core.ingest.source_files import Labels, Row, SourceFile
from core.ingest_errors import (
    ArchiveEncrypted,
    FileTooLarge,
    ImageTooLarge,
    NestedArchive,
    NoImages,
    SpecialFile,
    UnsafePath,
)

__all__ = ["IngestLimits", "IngestReport", "Labels", "Rejected", "ingest_archive", "ingest_builtin", "ingest_folder"]

# Where every file is left out for the same one of these reasons, it is the dataset's.
_ONE_REASON = (ArchiveEncrypted, FileTooLarge, ImageTooLarge, NestedArchive, SpecialFile, UnsafePath)
MAX_LISTED = 1_000  # rejected files that are named; more are only counted
_STRIDE = 8  # files between two calls of ``progress``: large images take a while each

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestReport:
    """What was made. ``num_rejected`` counts all files left out; ``rejected`` names 1,000 and says how many more."""

    num_classes: int | None
    classes: tuple[str, ...] | None
    channels: int
    image_size: int
    splits: dict[str, dict[str, int]]
    fingerprint: str
    size_bytes: int
    rejected: tuple[Rejected, ...]
    num_rejected: int


def ingest_archive(
    path: Path,
    out_folder: Path,
    limits: IngestLimits | None = None,
    *,
    seed: int = 0,
    name: str | None = None,
    labels: Labels = "auto",
    progress: Progress | None = None,
) -> IngestReport:
    """Make a stored dataset of a zip or tar archive of images, or of Parquet; ``arrange`` says which layouts are read.

    ``out_folder`` must not exist yet, or be empty; it is there whole or not at all. ``seed`` decides
    which images become the test split where the archive has none. ``labels`` none makes a dataset without
    classes, whatever the folders or columns say. ``progress`` is called with the
    number of files seen, now and then; what it raises ends the work. Raises :class:`DatasetRejected`.
    """
    limits = limits or IngestLimits()
    files = archive_files(path, limits, labels=labels, scratch=out_folder.parent)
    name = name or path.name
    return _ingest(files, out_folder, limits=limits, seed=seed, name=name, labels=labels, progress=progress)


def ingest_folder(
    folder: Path,
    out_folder: Path,
    limits: IngestLimits | None = None,
    *,
    seed: int = 0,
    name: str | None = None,
    labels: Labels = "auto",
    progress: Progress | None = None,
) -> IngestReport:
    """Make a stored dataset of a folder of one's own; the same as :func:`ingest_archive` of it packed."""
    limits = limits or IngestLimits()
    files = folder_files(folder, limits, labels=labels)
    name = name or folder.resolve().name
    return _ingest(files, out_folder, limits=limits, seed=seed, name=name, labels=labels, progress=progress)


def ingest_builtin(name: str, out_folder: Path, *, seed: int = 0, progress: Progress | None = None) -> IngestReport:
    """Make a stored dataset of ``digits`` or ``mnist-5k``. Raises :class:`core.errors.InvalidRequest` for others."""
    files = builtin_files(name)
    return _ingest(files, out_folder, limits=IngestLimits(), seed=seed, name=name, labels="auto", progress=progress)


def _ingest(
    files: Generator[SourceFile],
    out_folder: Path,
    *,
    limits: IngestLimits,
    seed: int,
    name: str,
    labels: Labels,
    progress: Progress | None,
) -> IngestReport:
    rejections = _Rejections()
    with _whole_or_not_at_all(out_folder) as folder, closing(files), closing(StoredWriter(folder)) as writer:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow thinks of odd but readable files is nobody's concern
            rows = _store_files(files, writer, rejections, limits, progress)
        if not writer.paths():
            raise _nothing_left(rejections)
        layout = _arranged(writer, rejections, seed, labels, rows)
        for rejected in layout.rejected:
            rejections.add(shown(rejected.path), rejected.reason, rejected.code)
        index = writer.finish(layout, name=name)
        size_bytes = sum(file.stat().st_size for file in folder.iterdir())
    return _report(index, rejections, size_bytes)


def _store_files(
    files: Iterable[SourceFile],
    writer: StoredWriter,
    rejections: _Rejections,
    limits: IngestLimits,
    progress: Progress | None,
) -> dict[str, Row]:
    """Store what can be decoded. What tables say of their images, by path."""
    rows: dict[str, Row] = {}
    for count, file in enumerate(files, start=1):
        if progress is not None and count % _STRIDE == 0:
            progress(count)
        if file.problem is not None:
            rejections.add(file.path, file.problem, file.code)
        elif file.path in writer:
            rejections.add(file.path, "there is another file with this path, which was taken", "duplicate_path")
        else:
            try:
                picture = decode(file.content, max_pixels=limits.max_image_pixels)
            except BrokenImage as reason:
                rejections.add(file.path, str(reason), reason.code)
            else:
                writer.add(file.path, file.content, picture)
                if file.row is not None:
                    rows[file.path] = file.row
    return rows


def _arranged(
    writer: StoredWriter, rejections: _Rejections, seed: int, labels: Labels, rows: Mapping[str, Row]
) -> Layout:
    try:
        return arrange(writer.paths(), seed=seed, labels=labels, rows=rows)
    except DatasetRejected as error:  # what was left out may be why
        error.extra["rejected"] = rejections.document()
        raise


class _Rejections:
    """The files left out so far. A hostile archive may have a million: only the first are kept."""

    def __init__(self) -> None:
        self.listed: list[Rejected] = []
        self.count = 0
        self.codes: set[str] = set()

    def add(self, path: str, reason: str, code: str) -> None:
        self.count += 1
        self.codes.add(code)
        if len(self.listed) < MAX_LISTED:
            self.listed.append(Rejected(path, reason, code))

    def summary(self) -> tuple[Rejected, ...]:
        more = self.count - len(self.listed)
        rest = (Rejected("…", f"{more:,} more files are left out", "more"),) if more else ()
        return (*self.listed, *rest)

    def document(self) -> list[dict[str, str]]:
        return [asdict(rejected) for rejected in self.summary()]


def _nothing_left(rejections: _Rejections) -> DatasetRejected:
    if not rejections.count:
        return NoImages("there are no files in it; send a folder of images, one folder a class")
    first = rejections.listed[0]
    (code,) = rejections.codes if len(rejections.codes) == 1 else (NoImages.code,)
    kind = next((kind for kind in _ONE_REASON if kind.code == code), NoImages)
    return kind(
        f"none of the {rejections.count:,} files is an image that can be read; {first.path}: {first.reason}",
        extra={"rejected": rejections.document()},
    )


def _report(index: Index, rejections: _Rejections, size_bytes: int) -> IngestReport:
    return IngestReport(
        num_classes=None if index.classes is None else len(index.classes),
        classes=index.classes,
        channels=index.channels,
        image_size=index.image_size,
        splits={name: {"num_samples": split.num_samples} for name, split in index.splits.items()},
        fingerprint=index.fingerprint,
        size_bytes=size_bytes,
        rejected=rejections.summary(),
        num_rejected=rejections.count,
    )


@contextmanager
def _whole_or_not_at_all(out_folder: Path) -> Iterator[Path]:
    """A folder beside the wanted place, renamed to it at the end or removed on any error."""
    out_folder.parent.mkdir(parents=True, exist_ok=True)
    if (out_folder / INDEX).exists():
        raise FileExistsError(f"{out_folder} already holds a stored dataset")
    beside = out_folder.with_name(f".{out_folder.name}-{secrets.token_hex(8)}")
    beside.mkdir()
    try:
        yield beside
        beside.rename(out_folder)  # takes the place of an empty folder, fails for any other
    except BaseException:
        shutil.rmtree(beside)
        raise

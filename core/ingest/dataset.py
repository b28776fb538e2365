"""Ingest an archive, a folder or a built-in dataset into a stored dataset. Does not import torch.

Every image is decoded once, to validate it and to compute the fingerprint. Unusable files are reported and left
out. The dataset fails only if too few files remain, or if the source itself is hostile or damaged.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter

from core.data.deep_images import ValueRange
from core.data.stored import INDEX, Index
from core.errors import DatasetRejected
from core.ingest.archives import archive_files, folder_files
from core.ingest.builtin import builtin_files
from core.ingest.dataset_warnings import image_warnings
from core.ingest.dataset_writer import DatasetWriter
from core.ingest.decoder_pool import Checked, DecoderPool, check_files, out_of_memory
from core.ingest.duplicates import duplicate_warnings
from core.ingest.folder_layout import Layout, infer_layout
from core.ingest.image_check import CheckedImage, MemoryExceeded, UnreadableImage
from core.ingest.label_files import LabelFiles
from core.ingest.limits import IngestLimits, RejectedFile
from core.ingest.paths import printable_name
from core.ingest.source_files import SourceFile, SourceSize, TableRow
from core.ingest_errors import (
    ArchiveEncrypted,
    FileTooLarge,
    ImageTooLarge,
    NestedArchive,
    NoImages,
    SpecialFile,
    UnsafePath,
)
from core.job_warnings import JobWarning
from core.spec.dataset_layout import LayoutOptions
from core.system.disk import atomic_path

__all__ = [
    "IngestLimits",
    "IngestReport",
    "LayoutOptions",
    "RejectedFile",
    "ingest_archive",
    "ingest_builtin",
    "ingest_folder",
]

# If all files are rejected with the same one of these errors, it becomes the dataset's error.
_SINGLE_REASON_ERRORS = (ArchiveEncrypted, FileTooLarge, ImageTooLarge, NestedArchive, SpecialFile, UnsafePath)
MAX_LISTED_REJECTIONS = 1_000  # further rejected files are only counted
_PROGRESS_STRIDE = 8  # files between two calls of ``progress``; small because large images are slow

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestReport:
    """Result of an ingestion. ``rejected`` lists up to 1,000 files; ``num_rejected`` counts all of them."""

    num_classes: int | None
    classes: tuple[str, ...] | None
    channels: int
    image_size: int
    value_range: ValueRange | None
    cropped_fraction: float
    splits: dict[str, dict[str, int]]
    fingerprint: str
    size_bytes: int
    rejected: tuple[RejectedFile, ...]
    num_rejected: int
    warnings: tuple[JobWarning, ...] = ()

    def document(self) -> dict[str, Any]:
        """The report as a JSON document."""
        document: dict[str, Any] = _REPORT.dump_python(self, mode="json")
        return document

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Restore a report. Raises ``pydantic.ValidationError``: the process that wrote it is not trusted."""
        return TypeAdapter(cls).validate_python(document)


_REPORT = TypeAdapter(IngestReport)


def ingest_archive(
    path: Path,
    out_folder: Path,
    limits: IngestLimits | None = None,
    *,
    seed: int = 0,
    name: str | None = None,
    options: LayoutOptions | None = None,
    decoders: DecoderPool | None = None,
    progress: Progress | None = None,
) -> IngestReport:
    """Ingest a zip or tar archive of images or Parquet files; ``infer_layout`` lists the supported layouts.

    Args:
        path: The archive.
        out_folder: Folder of the stored dataset; absent or empty. It is created completely or not at all.
        limits: Limits on sizes and counts.
        seed: Selects the images of the test split if the archive has none.
        name: Name of the dataset. Default: the archive's file name.
        options: How folders and tables become splits and classes.
        decoders: Processes that decode the images; None decodes them in this process. The result is the same.
        progress: Called periodically with the number of files read and their total, which is None while it is
            unknown; an exception from it ends the ingestion.

    Raises:
        DatasetRejected: The dataset cannot be used.
    """
    limits, options = limits or IngestLimits(), options or LayoutOptions()
    found: list[JobWarning] = []
    size = SourceSize()
    files = archive_files(
        path, limits, labels=options.labels, scratch_dir=out_folder.parent, size=size, warn=found.append
    )
    source = _Source(files, size, limits, decoders, progress)
    report = _ingest(source, out_folder, seed=seed, name=name or path.name, options=options)
    return replace(report, warnings=(*found, *report.warnings))


def ingest_folder(
    folder: Path,
    out_folder: Path,
    limits: IngestLimits | None = None,
    *,
    seed: int = 0,
    name: str | None = None,
    options: LayoutOptions | None = None,
    decoders: DecoderPool | None = None,
    progress: Progress | None = None,
) -> IngestReport:
    """Ingest a trusted local folder, with the same result as :func:`ingest_archive` of the packed folder."""
    limits, options = limits or IngestLimits(), options or LayoutOptions()
    files = folder_files(folder, limits, labels=options.labels)
    source = _Source(files, SourceSize(), limits, decoders, progress)
    return _ingest(source, out_folder, seed=seed, name=name or folder.resolve().name, options=options)


def ingest_builtin(name: str, out_folder: Path, *, seed: int = 0, progress: Progress | None = None) -> IngestReport:
    """Ingest a dataset of :data:`~core.ingest.builtin.BUILTIN`.

    Raises :class:`core.errors.InvalidRequest` for other names.
    """
    source = _Source(builtin_files(name), SourceSize(), IngestLimits(), None, progress)
    return _ingest(source, out_folder, seed=seed, name=name, options=LayoutOptions())


@dataclass(frozen=True, slots=True)
class _Source:
    """The files of a source, and how they are checked."""

    files: Generator[SourceFile]
    size: SourceSize
    limits: IngestLimits
    decoders: DecoderPool | None
    progress: Progress | None

    def checked(self) -> Iterator[Checked]:
        """Iterate over the files with the results of their check; report the progress."""
        max_pixels = self.limits.max_image_pixels
        results = check_files(self.files, max_pixels) if self.decoders is None else self.decoders.check(self.files)
        for count, checked in enumerate(results, start=1):
            if self.progress is not None and count % _PROGRESS_STRIDE == 0:
                self.progress(count, self.size.num_files)
            yield checked


def _ingest(source: _Source, out_folder: Path, *, seed: int, name: str, options: LayoutOptions) -> IngestReport:
    rejections, label_files = _Rejections(), LabelFiles(options)
    source = replace(source, files=label_files.collect(source.files))
    with _dataset_folder(out_folder) as folder, closing(source.files), closing(DatasetWriter(folder)) as writer:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about unusual but readable files
            rows = _store_files(source.checked(), writer, rejections)
        if not writer.paths():
            raise _no_images_error(rejections)
        rows = rows or label_files.rows(writer.paths())
        layout = _infer_layout(writer, rejections, seed, options, rows)
        for rejected in layout.rejected:
            rejections.add(printable_name(rejected.path), rejected.reason, rejected.code)
        index = writer.finish(layout, name=name)
        found = [*layout.warnings, *duplicate_warnings(layout, writer.digests(layout)), *image_warnings(index)]
        found += label_files.warnings(writer.paths())
        size_bytes = sum(file.stat().st_size for file in folder.iterdir())
    return _report(index, rejections, found, size_bytes)


def _store_files(checked: Iterable[Checked], writer: DatasetWriter, rejections: _Rejections) -> dict[str, TableRow]:
    """Store the images that can be decoded; return the table rows by image path."""
    rows: dict[str, TableRow] = {}
    for file, result in checked:
        if file.reason is None and file.path in writer:
            rejections.add(file.path, "an earlier file has the same path", "duplicate_path")
            continue
        match result:
            case CheckedImage():
                writer.add(file.path, file.content, result)
                if file.row is not None:
                    rows[file.path] = file.row
            case UnreadableImage():
                rejections.add(file.path, result.reason, result.code)
            case MemoryExceeded():
                raise out_of_memory(printable_name(file.path))
            case None:
                assert file.reason is not None, "an accepted file has a result"
                rejections.add(file.path, file.reason, file.code)
    return rows


def _infer_layout(
    writer: DatasetWriter, rejections: _Rejections, seed: int, options: LayoutOptions, rows: Mapping[str, TableRow]
) -> Layout:
    try:
        return infer_layout(writer.paths(), seed=seed, options=options, rows=rows)
    except DatasetRejected as error:  # rejected files may be the cause
        error.extra["rejected"] = rejections.document()
        raise


class _Rejections:
    """Collects rejected files. Lists only the first ones, because a hostile archive may have a million."""

    def __init__(self) -> None:
        self.listed: list[RejectedFile] = []
        self.count = 0
        self.codes: set[str] = set()

    def add(self, path: str, reason: str, code: str) -> None:
        self.count += 1
        self.codes.add(code)
        if len(self.listed) < MAX_LISTED_REJECTIONS:
            self.listed.append(RejectedFile(path, reason, code))

    def summary(self) -> tuple[RejectedFile, ...]:
        more = self.count - len(self.listed)
        rest = (RejectedFile("…", f"{more:,} more files are left out", "more"),) if more else ()
        return (*self.listed, *rest)

    def document(self) -> list[dict[str, str]]:
        return [asdict(rejected) for rejected in self.summary()]


def _no_images_error(rejections: _Rejections) -> DatasetRejected:
    if not rejections.count:
        return NoImages("the dataset contains no files; send a folder of images, one folder per class")
    first = rejections.listed[0]
    (code,) = rejections.codes if len(rejections.codes) == 1 else (NoImages.code,)
    error_type = next((error for error in _SINGLE_REASON_ERRORS if error.code == code), NoImages)
    return error_type(
        f"none of the {rejections.count:,} files is a readable image; {first.path}: {first.reason}",
        extra={"rejected": rejections.document()},
    )


def _report(index: Index, rejections: _Rejections, warnings: Iterable[JobWarning], size_bytes: int) -> IngestReport:
    return IngestReport(
        num_classes=None if index.classes is None else len(index.classes),
        classes=index.classes,
        channels=index.channels,
        image_size=index.image_size,
        value_range=index.value_range,
        cropped_fraction=index.cropped_fraction,
        splits={name: {"num_samples": split.num_samples} for name, split in index.splits.items()},
        fingerprint=index.fingerprint,
        size_bytes=size_bytes,
        rejected=rejections.summary(),
        num_rejected=rejections.count,
        warnings=tuple(warnings),
    )


@contextmanager
def _dataset_folder(out_folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``out_folder`` when the block succeeds."""
    out_folder.parent.mkdir(parents=True, exist_ok=True)
    if (out_folder / INDEX).exists():
        raise FileExistsError(f"{out_folder} already holds a stored dataset")
    with atomic_path(out_folder) as temporary:
        temporary.mkdir()
        yield temporary

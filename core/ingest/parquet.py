"""Parquet tables of encoded images, as datasets on the Hugging Face hub are stored.

A table may be hostile. What its footer declares is checked before a page is read, what comes out is
counted again, and rows are read one by one: a dictionary page can repeat one large value for ever.
Nothing in a table is executed; a row's image goes the way of every image file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from core.data.stored import UNLABELLED
from core.ingest.columns import Columns, find_columns
from core.ingest.limits import Budget, IngestLimits, readable
from core.ingest.paths import NotAccepted, clean_label, shown
from core.ingest.source_files import Labels, Row, SourceFile
from core.ingest_errors import TableUnclear, TooManyFiles

SPLIT_NAMES = frozenset({"train", "training", "test", "testing", "val", "valid", "validation"})

_BUFFER = 1 << 20  # bytes of a compressed column that are read at once
_MAX_FOOTER_STRING = 16 * 1024**2
_MAX_FOOTER_ENTRIES = 1_000_000
_MAX_REASON = 200  # characters of the reader's own words


class Tables:
    """The Parquet files of one upload, which must agree on their labels.

    ``packed_bytes`` is the upload's size; None for a trusted folder.
    """

    def __init__(self, limits: IngestLimits, *, packed_bytes: int | None, labels: Labels) -> None:
        self._limits = limits
        self._packed_bytes = packed_bytes
        self._labels = labels
        self._budget = Budget(limits, packed_bytes=packed_bytes)
        self._kind: tuple[str, tuple[str, ...] | None] | None = None
        self._rows: dict[tuple[str, int | str | None], Row] = {}

    def files(self, path: str, source: Path | IO[bytes]) -> Iterator[SourceFile]:
        """The rows of one table as files called ``PATH#ROW``, rows counted from 0.

        Raises :class:`NotAccepted` for a file that cannot be read, also in its middle, and
        :class:`core.errors.DatasetRejected` for a bomb, for unclear columns, and for files that do not fit together.
        """
        try:
            with pq.ParquetFile(
                source,
                pre_buffer=False,
                buffer_size=_BUFFER,
                thrift_string_size_limit=_MAX_FOOTER_STRING,
                thrift_container_size_limit=_MAX_FOOTER_ENTRIES,
                arrow_extensions_enabled=False,
            ) as file:
                columns = find_columns(file.schema_arrow, labels=self._labels)
                self._check_declared(file.metadata)
                self._check_agreement(path, columns)
                rows = file.iter_batches(batch_size=1, columns=columns.read, use_threads=False)
                for number, row in enumerate(rows):
                    yield self._file(f"{path}#{number}", row, columns, split_of(path))
        except MemoryError:
            raise
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            words = " ".join(str(error).split())[:_MAX_REASON]
            reason = f"the Parquet file is damaged or of a kind that is not read here: {words}"
            raise NotAccepted(reason, code="table_unreadable") from error

    def _check_declared(self, metadata: pq.FileMetaData) -> None:
        # Of row groups, not of columns: asking a damaged column for its size can end the whole process.
        declared = Budget(self._limits, packed_bytes=self._packed_bytes)
        if metadata.num_rows > self._limits.max_archive_files:
            raise TooManyFiles(f"there are more than {self._limits.max_archive_files:,} rows; send fewer")
        for group in range(metadata.num_row_groups):
            declared.count_bytes(max(0, metadata.row_group(group).total_byte_size))

    def _check_agreement(self, path: str, columns: Columns) -> None:
        if columns.label is None:  # e.g. a test split whose labels are kept back
            return
        kind = (columns.label_kind, columns.names)
        if self._kind is not None and self._kind != kind:
            raise TableUnclear(
                f"{path} has other classes, or labels of another kind, than the Parquet files before it; "
                "write all of them from one dataset"
            )
        self._kind = kind

    def _file(self, path: str, batch: pa.RecordBatch, columns: Columns, split: str) -> SourceFile:
        self._budget.count_file()
        try:
            content = self._content(batch.column(columns.image)[0], columns)
            label = _label(batch, columns)
            if columns.split is not None:
                written = batch.column(columns.split)[0].as_py()
                split = split if written is None else clean_label(written).casefold()
        except NotAccepted as reason:
            return SourceFile(path, problem=str(reason), code=reason.code)
        row = self._rows.setdefault((split, label), Row(split, label, columns.names))
        return SourceFile(path, content, row=row)

    def _content(self, cell: Any, columns: Columns) -> bytes:
        if columns.image_is_struct and cell.is_valid:
            cell = cell["bytes"]
            if not cell.is_valid:
                raise NotAccepted(
                    "the row names an image file instead of holding it; embed the images", code="row_invalid"
                )
        if not cell.is_valid:
            raise NotAccepted("the row has no image", code="row_invalid")
        size = cell.as_buffer().size
        self._budget.count_bytes(size)
        if size > self._limits.max_file_bytes:
            most = readable(self._limits.max_file_bytes)
            raise NotAccepted(f"the image has {readable(size)}, at most {most} are accepted", code="file_too_large")
        content: bytes = cell.as_py()
        return content


def split_of(path: str) -> str:
    """The split that a table's name says (``train-00000-of-00002.parquet``), else its folder; empty if neither."""
    *folders, name = path.split("/")
    words = [re.split(r"[-_.]", name)[0], *reversed(folders)]
    return next((word.casefold() for word in words if word.casefold() in SPLIT_NAMES), "")


def _label(batch: pa.RecordBatch, columns: Columns) -> int | str | None:
    if columns.label is None:
        return None
    value = batch.column(columns.label)[0].as_py()
    if isinstance(value, str):
        return clean_label(value)
    if columns.names is None or value is None:
        return None if value is None else int(value)
    if value == UNLABELLED:  # the hub's mark of a hidden label
        return None
    if not 0 <= value < len(columns.names):
        reason = f"the label {shown(str(value))} is not one of the {len(columns.names)} classes"
        raise NotAccepted(reason, code="label_invalid")
    return int(value)

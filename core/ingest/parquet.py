"""Read Parquet tables of encoded images, the format of datasets on the Hugging Face hub.

Tables are untrusted. Sizes in the footer are checked before any page is read, and actual sizes while reading.
Rows are read one by one, because a dictionary page can repeat one large value without end. Nothing in a table is
executed; images take the same path as image files.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from core.data.stored import UNLABELED
from core.ingest.columns import Columns, find_columns
from core.ingest.limits import IngestLimits, UnpackBudget, format_bytes
from core.ingest.paths import NotAccepted, clean_label, printable_name
from core.ingest.source_files import Labels, SourceFile, TableRow
from core.ingest.split_names import split_name
from core.ingest_errors import TableUnclear, TooManyFiles

_MAX_LABEL = 2**64  # beyond it: infinity, or a value that is no number of a class
_BUFFER_BYTES = 1 << 20  # read size of a compressed column
_MAX_FOOTER_STRING = 16 * 1024**2
_MAX_FOOTER_ENTRIES = 1_000_000
_MAX_REASON_LENGTH = 200  # characters of the reader's message


class ParquetReader:
    """Reads the Parquet files of one upload, whose labels must be consistent.

    ``packed_bytes`` is the upload's size; None for a trusted folder.
    """

    def __init__(self, limits: IngestLimits, *, packed_bytes: int | None, labels: Labels) -> None:
        self._limits = limits
        self._packed_bytes = packed_bytes
        self._labels = labels
        self._budget = UnpackBudget(limits, packed_bytes=packed_bytes)
        self.num_rows = 0  # of the tables so far
        self._kind: tuple[str, tuple[str, ...] | None] | None = None
        self._rows: dict[tuple[str, int | str | None], TableRow] = {}

    def files(self, path: str, source: Path | IO[bytes]) -> Iterator[SourceFile]:
        """Iterate over the rows of one table as files named ``PATH#ROW``; rows count from 0.

        Raises:
            NotAccepted: The file cannot be read. May occur after some rows.
            DatasetRejected: Decompression bomb, ambiguous columns, or inconsistent files.
        """
        try:
            with pq.ParquetFile(
                source,
                pre_buffer=False,
                buffer_size=_BUFFER_BYTES,
                thrift_string_size_limit=_MAX_FOOTER_STRING,
                thrift_container_size_limit=_MAX_FOOTER_ENTRIES,
                arrow_extensions_enabled=False,
            ) as file:
                columns = find_columns(file.schema_arrow, labels=self._labels)
                self._check_metadata(file.metadata)
                self._check_consistency(path, columns)
                rows = file.iter_batches(batch_size=1, columns=columns.leaf_paths, use_threads=False)
                for number, row in enumerate(rows):
                    yield self._file(f"{path}#{number}", row, columns, split_from_path(path))
        except MemoryError:
            raise
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            message = " ".join(str(error).split())[:_MAX_REASON_LENGTH]
            reason = f"the Parquet file is damaged or its format is not supported: {message}"
            raise NotAccepted(reason, code="table_unreadable") from error

    def _check_metadata(self, metadata: pq.FileMetaData) -> None:
        # Sizes of row groups, not of columns: reading the size of a damaged column can crash the process.
        declared = UnpackBudget(self._limits, packed_bytes=self._packed_bytes)
        if metadata.num_rows > self._limits.max_archive_files:
            raise TooManyFiles(f"there are more than {self._limits.max_archive_files:,} rows; send fewer")
        self.num_rows += metadata.num_rows
        for group in range(metadata.num_row_groups):
            declared.count_bytes(max(0, metadata.row_group(group).total_byte_size))

    def _check_consistency(self, path: str, columns: Columns) -> None:
        if columns.label is None:  # e.g. a test split with hidden labels
            return
        kind = (columns.label_kind, columns.class_names)
        if self._kind is not None and self._kind != kind:
            raise TableUnclear(
                f"{path} has other classes or another label type than the previous Parquet files; "
                "write all files from one dataset"
            )
        self._kind = kind

    def _file(self, path: str, batch: pa.RecordBatch, columns: Columns, split: str) -> SourceFile:
        self._budget.count_file()
        try:
            content = self._content(batch.column(columns.image)[0], columns)
            label = _label(batch, columns)
            if columns.split is not None:
                cell = batch.column(columns.split)[0].as_py()
                split = split if cell is None else clean_label(cell).casefold()
        except NotAccepted as error:
            return SourceFile(path, reason=str(error), code=error.code)
        row = self._rows.setdefault((split, label), TableRow(split, label, columns.class_names))
        return SourceFile(path, content, row=row)

    def _content(self, cell: Any, columns: Columns) -> bytes:
        if columns.image_is_struct and cell.is_valid:
            cell = cell["bytes"]
            if not cell.is_valid:
                raise NotAccepted(
                    "the row contains a file path instead of an image; embed the images", code="row_invalid"
                )
        if not cell.is_valid:
            raise NotAccepted("the row has no image", code="row_invalid")
        size = cell.as_buffer().size
        self._budget.count_bytes(size)
        if size > self._limits.max_file_bytes:
            limit = format_bytes(self._limits.max_file_bytes)
            raise NotAccepted(
                f"the image has {format_bytes(size)}, at most {limit} are accepted", code="file_too_large"
            )
        content: bytes = cell.as_py()
        return content


def split_from_path(path: str) -> str:
    """Return the split in a table's file name (``train-00000-of-00002.parquet``), else in its folders, else ""."""
    *folders, name = path.split("/")
    names = [name.rpartition(".")[0], *reversed(folders)]
    return next((found.word for name in names if (found := split_name(name)) is not None), "")


def _label(batch: pa.RecordBatch, columns: Columns) -> int | str | None:
    """Return the label of a row; None for null and NaN. A boolean is a string, because its class needs a name."""
    if columns.label is None:
        return None
    value = batch.column(columns.label)[0].as_py()
    if isinstance(value, str):
        return clean_label(value)
    if value is None or value != value:  # noqa: PLR0124 - NaN, of a float or a decimal
        return None
    if isinstance(value, bool):
        return str(value).lower()
    value = _whole(value, columns.label)
    return value if columns.class_names is None else _class_index(value, len(columns.class_names))


def _class_index(value: int, num_classes: int) -> int | None:
    if value == UNLABELED:  # the hub's value for a hidden label
        return None
    if not 0 <= value < num_classes:
        reason = f"the label {printable_name(str(value))} is not one of the {num_classes} classes"
        raise NotAccepted(reason, code="label_invalid")
    return value


def _whole(value: float | Decimal, column: str) -> int:
    if not -_MAX_LABEL < value < _MAX_LABEL or value != int(value):
        raise TableUnclear(
            f"the column {column} holds {printable_name(str(value))}; a label is a whole number, text or a boolean. "
            "Rewrite the column, or set labels to none"
        )
    return int(value)

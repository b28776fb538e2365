"""Labels in files next to the images: ``metadata.csv`` or ``.jsonl`` of the hub, and the files of WebDataset.

Other label files are not read. They are recognized by their names, so that a warning can name them.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from core.ingest.limits import format_bytes
from core.ingest.paths import (
    CLASS_NAMES_FILE,
    NotAccepted,
    clean_label,
    clean_path,
    is_label_file,
    printable_name,
)
from core.ingest.sidecars import CLS_SUFFIX, Sidecars, is_sidecar
from core.ingest.source_files import LABEL_NAMES, SourceFile, TableRow
from core.ingest.split_names import split_name
from core.job_warnings import JobWarning
from core.spec.dataset_layout import LayoutOptions, SplitFolders, folder_parts

FILE_COLUMN = "file_name"
_MAX_BYTES = 64 * 1024**2
_INTEGER = re.compile(r"0|-?[1-9]\d{0,17}")  # 007 is a name
_WHOLE = re.compile(r"(-?\d+)\.0*")  # pandas writes integers with gaps so
_NO_CLS = "the image has no label: there is no .cls file with its name"
_NUM_NAMED = 3  # files that the warning names
_LISTS = re.compile(r"(.*[_-])?(labels?|annotations?|classes|train|test|val)\.txt")
_ANNOTATIONS = re.compile(r".*(coco|instances|annotation|label).*")


class LabelFiles:
    """Collects the label files of a source, and gives the images their labels."""

    def __init__(self, options: LayoutOptions) -> None:
        self._options = options
        self._labels: dict[str, str] = {}
        self._sidecars = Sidecars()
        self._read: list[str] = []
        self._unread: list[str] = []
        self._text_stems: list[str] = []
        self._is_used = False

    def collect(self, files: Generator[SourceFile]) -> Generator[SourceFile]:
        """Iterate over the files that are no label files. A label file that cannot be read is a rejected file."""
        with closing(files):
            for file in files:
                if file.reason is None and file.row is None and is_label_file(file.path):
                    yield from self._read_file(file)
                    continue
                if file.code == "not_an_image":
                    self._note_unread(file.path)
                elif file.reason is None and file.row is None:
                    self._sidecars.note_image(file.path)
                yield file
            for file in self._sidecars.rejected():
                if file.code == "not_an_image":
                    self._note_unread(file.path)
                yield file

    def rows(self, sources: Sequence[str]) -> dict[str, TableRow]:
        """Return the split and label of each image; empty if no label file names one of the images."""
        found = {source: text for source in sources if (text := self._label(source)) is not None}
        if not found:
            return {}
        self._is_used = True
        self._read += self._sidecars.used_paths(found)
        are_integers = all(_INTEGER.fullmatch(text) for text in found.values())
        names = self._sidecars.class_names(map(int, found.values())) if are_integers else None
        missing = _NO_CLS if self._sidecars.has_cls else None
        rows: dict[tuple[str, int | str | None, str | None], TableRow] = {}
        result = {}
        for source in sources:
            value = found.get(source)
            label: int | str | None = int(value) if value is not None and are_integers else value
            reason = missing if label is None else None
            if names is not None and isinstance(label, int) and not 0 <= label < len(names):
                origin = f" of {self._sidecars.class_names_path}" if self._sidecars.class_names_path else ""
                reason, label = f"the label {label} is not one of the {len(names)} classes{origin}", None
            split = self._split(source)
            result[source] = rows.setdefault((split, label, reason), TableRow(split, label, names, reason))
        return result

    def warnings(self, sources: Iterable[str]) -> list[JobWarning]:
        """Warn about label files that replace the folders as classes, and about label files that are not read."""
        stems = {source.rpartition(".")[0].rpartition("/")[2] for source in sources} if self._text_stems else set()
        unread = self._unread + [path for path in self._text_stems if path.rpartition("/")[2][:-4] in stems]
        found = []
        if self._is_used:
            message = f"Labels come from {_named(self._read)}, not from folders."
            fix = None if any(path.endswith(".cls") for path in self._read) else "Remove the file to use folders."
            found.append(JobWarning(code="labels_from_files", message=message, fix=fix))
        else:
            unread = [*self._read, *filter(None, [self._sidecars.class_names_path]), *unread]
        if unread and self._options.labels == "auto":
            message = f"These files may hold labels, and are not read: {_named(unread)}."
            fix = (
                "Put the images into class folders (train/CLASS/image), or send metadata.csv with the columns "
                f"{FILE_COLUMN} and label in the folder of the images."
            )
            found.append(JobWarning(code="label_files_not_read", message=message, fix=fix))
        return found

    def _read_file(self, file: SourceFile) -> Iterator[SourceFile]:
        if self._options.labels == "none":
            return
        try:
            self._read_labels(file.path, file.content)
        except NotAccepted as error:
            yield SourceFile(file.path, reason=str(error), code=error.code)

    def _read_labels(self, path: str, content: bytes) -> None:
        name = path.rpartition("/")[2].casefold()
        if is_sidecar(path):
            self._sidecars.add_json(path, content)
        elif name.endswith(CLS_SUFFIX):
            self._sidecars.add_cls(path, _text(content))
        elif name == CLASS_NAMES_FILE:
            self._sidecars.add_class_names(path, _text(content))
        else:
            self._labels |= _listed_labels(path, _text(content))
            self._read.append(path)

    def _note_unread(self, path: str) -> None:
        *folders, name = path.casefold().split("/")
        is_list = name.endswith((".csv", ".tsv", ".jsonl", ".xml")) or _LISTS.fullmatch(name)
        if is_list or (name.endswith(".json") and (_ANNOTATIONS.fullmatch(name) or "annotations" in folders)):
            self._unread.append(path)
        elif name.endswith(".txt"):
            self._text_stems.append(path)  # YOLO has one beside each image

    def _label(self, source: str) -> str | None:
        return self._labels.get(source) or self._sidecars.label(source)

    def _split(self, source: str) -> str:
        """Name of the innermost folder that is a split; empty without one."""
        folders = [folder.casefold() for folder in source.split("/")[:-1]]
        if isinstance(self._options.splits, SplitFolders):
            for name in (self._options.splits.test, self._options.splits.train):
                if name is not None and folder_parts(name)[-1].casefold() in folders:
                    return name.casefold()
            return ""
        return next((folder for folder in reversed(folders) if split_name(folder) is not None), "")


def _listed_labels(path: str, text: str) -> dict[str, str]:
    """Return the labels of ``metadata.csv`` or ``.jsonl`` by image path; file names are relative to its folder."""
    folder = path[: path.rfind("/") + 1]
    labels: dict[str, str] = {}
    for number, row in enumerate(_rows(path, text), start=1):
        column = next((name for name in LABEL_NAMES if name in row), None)
        if column is None or FILE_COLUMN not in row:
            columns = printable_name(", ".join(map(str, row)))
            raise NotAccepted(
                f"row {number} has no columns {FILE_COLUMN} and label; its columns are {columns}",
                code="label_file_unclear",
            )
        label = _label_text(row[column], number)
        source = clean_path(folder + str(row[FILE_COLUMN]))
        if source is not None and label is not None:
            labels[source] = label
    return labels


def _rows(path: str, text: str) -> Iterator[Mapping[str, Any]]:
    try:
        if path.casefold().endswith(".csv"):
            yield from csv.DictReader(io.StringIO(text, newline=""))
            return
        for line in filter(str.strip, text.split("\n")):
            yield dict(json.loads(line))
    except (csv.Error, ValueError, TypeError, RecursionError) as error:
        raise NotAccepted(
            f"the label file cannot be read: {' '.join(str(error).split())[:200]}", code="label_file_unreadable"
        ) from None


def _label_text(value: Any, number: int) -> str | None:
    """Return a label as text; None for a gap."""
    if value is None or str(value).strip().casefold() in {"", "nan"}:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and (whole := _WHOLE.fullmatch(value.strip())):
        value = whole[1]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int):
        raise NotAccepted(f"the label of row {number} is no whole number, text or boolean", code="label_file_unclear")
    return clean_label(str(value))


def _text(content: bytes) -> str:
    if len(content) > _MAX_BYTES:
        raise NotAccepted(
            f"the label file has more than {format_bytes(_MAX_BYTES)}; split it by folder", code="file_too_large"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise NotAccepted("the label file is not UTF-8", code="label_file_unreadable") from None


def _named(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _NUM_NAMED:,} more" if len(paths) > _NUM_NAMED else ""
    return ", ".join(printable_name(path) for path in paths[:_NUM_NAMED]) + more

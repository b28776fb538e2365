"""Image files and table rows as read from a source."""

from __future__ import annotations

from dataclasses import dataclass

from core.spec.dataset_layout import Labels

__all__ = ["LABEL_NAMES", "Labels", "SourceFile", "TableRow"]

LABEL_NAMES = ("label", "labels", "class", "target", "category", "class_name", "fine_label")  # of columns


@dataclass(frozen=True, slots=True)
class TableRow:
    """Split and label of an image in a table.

    Attributes:
        split: Lower-case name; empty if the table has none.
        label: Class index, class name, or None if unlabeled.
        class_names: Declared classes in label order, or None; ``label`` is then an index into them.
        reason: Why there is no label, if the source tells.
    """

    split: str
    label: int | str | None
    class_names: tuple[str, ...] | None
    reason: str | None = None

    @property
    def class_name(self) -> str | None:
        """Name of the label's class."""
        if self.class_names is not None and isinstance(self.label, int):
            return self.class_names[self.label]
        return None if self.label is None else str(self.label)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """An accepted file with its clean path and content, or a rejected file with its original name and reason.

    Attributes:
        path: Clean path; for a rejected file the printable name; for a table row ``PATH#ROW``.
        content: Bytes of the image file.
        reason: Why the file is left out; None if it is accepted.
        code: Stable code of ``reason``.
        row: Table row of the image, if it comes from a table.
    """

    path: str
    content: bytes = b""
    reason: str | None = None
    code: str = ""
    row: TableRow | None = None


@dataclass(slots=True)
class SourceSize:
    """Number of files of a source, for progress; None while it is unknown, e.g. for a tar."""

    num_files: int | None = None

"""What a source gives, one after the other: image files, or rows of tables that hold one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Labels = Literal["auto", "none"]  # folders or a table's label column are the classes; or there are none


@dataclass(frozen=True, slots=True)
class Row:
    """What a table says of one of its images.

    ``split`` is a name in lower case, empty where nothing says it. ``label`` is None where there is none.
    ``names``: the classes in their order where the table declares them; ``label`` then counts in them.
    """

    split: str
    label: int | str | None
    names: tuple[str, ...] | None

    @property
    def class_name(self) -> str | None:
        """The label in words."""
        if self.names is not None and isinstance(self.label, int):
            return self.names[self.label]
        return None if self.label is None else str(self.label)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file: its clean path and content, or its name as found and why it is left out (in words, and a stable one).

    ``row`` is there for an image from a table, whose path is the table's with ``#`` and the row's number.
    """

    path: str
    content: bytes = b""
    problem: str | None = None
    code: str = ""
    row: Row | None = None

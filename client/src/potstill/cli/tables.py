"""Tables that fit the terminal: optional columns are left out, and no word is broken."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from potstill.cli.console import out
from potstill.formats import plain_text

_GAP = 2
_MAX_WORD = 40  # longer words of a column that wraps are broken

_STATUS_STYLE = {
    "queued": "yellow",
    "processing": "yellow",
    "running": "blue",
    "paused": "magenta",
    "succeeded": "green",
    "ready": "green",
    "active": "green",
    "failed": "red",
    "cancelled": "dim",
}

Cell = str | Text


@dataclass(frozen=True, slots=True)
class Column:
    """A column.

    ``wraps``: long texts take several lines. ``optional``: left out where space is short, the highest number first; 0:
    never.
    """

    heading: str
    justify: Literal["left", "right"] = "left"
    wraps: bool = False
    optional: int = 0


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[Cell]], *, width: int | None = None) -> None:
    """Print a table. Cells are plain text, which may be untrusted."""
    out.print(make_table(columns, rows, width=out.width if width is None else width))


def make_table(columns: Sequence[Column], rows: Iterable[Sequence[Cell]], *, width: int) -> Table:
    """Build a table of at most ``width`` characters, as far as the columns that must stay allow it."""
    cells = [[_text(cell) for cell in row] for row in rows]
    shown = list(range(len(columns)))
    widths = [_min_width(column, [row[index] for row in cells]) for index, column in enumerate(columns)]
    while sum(widths[index] + _GAP for index in shown) - _GAP > width:
        droppable = [index for index in shown if columns[index].optional]
        if not droppable:
            break
        shown.remove(max(droppable, key=lambda index: columns[index].optional))
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, _GAP, 0, 0))
    for index in shown:
        column = columns[index]
        table.add_column(
            column.heading,
            justify=column.justify,
            no_wrap=not column.wraps,
            overflow="fold",
            min_width=widths[index],
        )
    for row in cells:
        table.add_row(*(row[index] for index in shown))
    return table


def status_text(status: str) -> Text:
    """A status in its color."""
    return Text(status, style=_STATUS_STYLE.get(status, ""))


def _text(cell: Cell) -> Text:
    return cell if isinstance(cell, Text) else Text(plain_text(cell))


def _min_width(column: Column, cells: Iterable[Text]) -> int:
    """Width in which no word is broken: of the longest word if the column wraps, else of the longest cell."""
    if not column.wraps:
        return max((cell_len(text) for text in (column.heading, *(cell.plain for cell in cells))), default=0)
    words = (word for text in (column.heading, *(cell.plain for cell in cells)) for word in text.split())
    return min(_MAX_WORD, max((cell_len(word) for word in words), default=0))

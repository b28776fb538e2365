"""Lists as CSV files to download."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

from fastapi.responses import StreamingResponse

from api.downloads import attachment

_FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # first characters of a cell that a spreadsheet computes


def csv_response(filename: str, rows: Iterable[Sequence[object]]) -> StreamingResponse:
    """Return rows as a CSV file that is sent while they are read."""
    headers = {
        "Content-Disposition": attachment(filename),
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    return StreamingResponse(csv_lines(rows), headers=headers, media_type="text/csv")


def csv_lines(rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Yield the rows as lines of CSV; None is empty.

    A cell that a spreadsheet would compute starts with an apostrophe.
    """
    for row in rows:
        line = io.StringIO()
        csv.writer(line).writerow([_inert("" if cell is None else str(cell)) for cell in row])
        yield line.getvalue()


def _inert(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_FORMULAS) else cell

"""Search of lists by words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, or_

_MAX_WORDS = 8  # of a search


def word_conditions(text: str, columns: Sequence[Any], *, on_postgresql: bool) -> list[ColumnElement[bool]]:
    """Return a condition for each word of the text: one of the columns contains it in any case.

    LIKE of SQLite ignores the case of ASCII by itself; ``icontains`` would call ``lower`` for each value there, which
    takes longer than the comparison.
    """
    return [
        or_(*(_contains(column, word, on_postgresql=on_postgresql) for column in columns))
        for word in text.split()[:_MAX_WORDS]
    ]


def _contains(column: Any, word: str, *, on_postgresql: bool) -> ColumnElement[bool]:
    condition: ColumnElement[bool] = (column.icontains if on_postgresql else column.contains)(word, autoescape=True)
    return condition

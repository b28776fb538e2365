"""Cursor pagination by id, and validation of ids from requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute, Session

from core.errors import InvalidRequest, NotFound
from core.ids import Prefix, is_id

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Items of one page, and whether more follow."""

    items: Sequence[T]
    has_more: bool


def paginate_newest_first(
    session: Session,
    statement: Select[T],
    id_column: InstrumentedAttribute[str],
    *,
    limit: int,
    after: str | None,
    prefix: Prefix,
) -> Page[T]:
    """Load one page, newest first: ids sort by time. The object of ``after`` may have been deleted.

    Raises ``InvalidRequest`` if ``after`` is not an id with this prefix.
    """
    if after is not None:
        if not is_id(after, prefix):
            raise InvalidRequest(f"after must be the id of the last object of the previous page ({prefix}_…)")
        statement = statement.where(id_column < after)
    rows = session.scalars(statement.order_by(id_column.desc()).limit(limit + 1)).all()
    return Page(rows[:limit], len(rows) > limit)


def require_id(text: str, prefix: Prefix, kind: str) -> None:
    """Raise ``NotFound`` if ``text`` is not a well-formed id, without a database query."""
    if not is_id(text, prefix):
        raise not_found(kind, text)


def not_found(kind: str, text: Any) -> NotFound:
    """Error for an object that the project does not have."""
    return NotFound(f"There is no {kind} {str(text)[:60]!r} in this project.")

"""A page of a list, and the ids that somebody sent."""

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
    """Some items of a list in its order, and whether more follow."""

    items: Sequence[T]
    has_more: bool


def newest_first(
    session: Session,
    statement: Select[T],
    id_column: InstrumentedAttribute[str],
    *,
    limit: int,
    after: str | None,
    prefix: Prefix,
) -> Page[T]:
    """One page, newest first: ids sort by time. ``after`` may be of an object that is gone by now.

    Raises ``InvalidRequest`` where ``after`` is no id of this kind.
    """
    if after is not None:
        if not is_id(after, prefix):
            raise InvalidRequest(f"after must be the id of the last object of the page before ({prefix}_…)")
        statement = statement.where(id_column < after)
    rows = session.scalars(statement.order_by(id_column.desc()).limit(limit + 1)).all()
    return Page(rows[:limit], len(rows) > limit)


def require_id(text: str, prefix: Prefix, what: str) -> None:
    """Raise ``NotFound`` for what cannot be an id: no database need be asked about it."""
    if not is_id(text, prefix):
        raise missing(what, text)


def missing(what: str, text: Any) -> NotFound:
    """The error for an object that this project does not have."""
    return NotFound(f"There is no {what} {str(text)[:60]!r} in this project.")

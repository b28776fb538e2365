"""Query parameters that are times."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AwareDatetime, BeforeValidator

from api.problems import invalid_field


def _require_date(value: object) -> object:
    """Refuse a number: pydantic would read it as seconds since 1970."""
    if isinstance(value, str) and not re.match(r"\d{4}-\d{2}-\d{2}", value):
        raise ValueError("a time in RFC 3339 is expected, such as 2026-01-31T08:00:00Z")
    return value


Time = Annotated[AwareDatetime, BeforeValidator(_require_date)]


def to_utc(time: datetime | None, at: str) -> datetime | None:
    """Return the time in UTC. Raises ``InvalidRequest`` if its offset moves it beyond the years that have a date."""
    try:
        return None if time is None else time.astimezone(UTC)
    except OverflowError:
        raise invalid_field(at, "the time is out of range") from None

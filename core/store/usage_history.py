"""Usage of a project by day (UTC): jobs, time on devices, stored bytes. Computed from the rows that exist.

A deleted job no longer counts, and its files count for no day.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import JSON, ColumnElement, Executable, Float, Select, cast, column, func, select
from sqlalchemy.orm import Session

from core.ids import first_id
from core.store.db import is_postgresql, utc_now
from core.store.quotas import get_stored_bytes
from core.store.tables import Artifact, Checkpoint, Dataset, Job, Model
from core.store.upload_tables import Upload

MAX_JOB_AGE = timedelta(days=31)  # a job that was created longer before the first day is left out


@dataclass(frozen=True, slots=True)
class UsageDay:
    """One day. ``stored_bytes`` is the size at its end of the objects that still exist."""

    day: date
    jobs_created: int
    jobs_ended: int
    device_seconds: float
    stored_bytes: int


def read_days(session: Session, project_id: str, num_days: int) -> list[UsageDay]:
    """Return the last ``num_days`` days, oldest first; the last one is today.

    ``device_seconds`` is the working time of all attempts of the jobs that ended on the day, times their devices.
    """
    today = utc_now(session).date()
    days = [today - timedelta(days=age) for age in range(num_days - 1, -1, -1)]
    start = datetime.combine(days[0], time(), UTC)
    on_postgresql = is_postgresql(session)
    created = _by_day(session, _created(project_id, start, on_postgresql=on_postgresql))
    ended = _by_day(session, _ended(project_id, start, on_postgresql=on_postgresql))
    added = _added_bytes(session, project_id, start, on_postgresql=on_postgresql)
    stored = get_stored_bytes(session, project_id)
    result = []
    for day in reversed(days):
        num_ended, seconds = ended.get(day, (0, 0.0))
        result.append(UsageDay(day, created.get(day, (0,))[0], num_ended, float(seconds or 0.0), max(0, stored)))
        stored -= added.get(day, 0)
    return result[::-1]


def _created(project_id: str, start: datetime, *, on_postgresql: bool) -> Select[str, int]:
    day = _day(Job.created_at, on_postgresql=on_postgresql)
    statement = select(day, func.count()).where(Job.project_id == project_id, Job.created_at >= start).group_by(day)
    return statement.with_hint(Job, "INDEXED BY ix_jobs_figures", dialect_name="sqlite")  # without the rows


def _ended(project_id: str, start: datetime, *, on_postgresql: bool) -> Select[str, int, Any]:
    day = _day(Job.finished_at, on_postgresql=on_postgresql)
    elements = func.json_array_elements if on_postgresql else func.json_each
    value = elements(Job.stages).table_valued(column("value", JSON)).alias("stage").c.value
    seconds = value.op("->>")("seconds") if on_postgresql else func.json_extract(value, "$.seconds")
    working_seconds = select(func.sum(cast(seconds, Float))).scalar_subquery()
    devices = func.coalesce(Job.spec["resources"]["devices"].as_integer(), 1)
    oldest_id = first_id("job", start - MAX_JOB_AGE)  # ids sort by time, so the index of lists bounds the scan
    return (
        select(day, func.count(), func.sum(working_seconds * devices))
        .where(Job.project_id == project_id, Job.id >= oldest_id, Job.finished_at >= start)
        .group_by(day)
    )


def _added_bytes(session: Session, project_id: str, start: datetime, *, on_postgresql: bool) -> Mapping[date, int]:
    """Sum the bytes of the existing objects by the day on which they were added."""
    added: dict[date, int] = {}
    own = Model.job_id.is_(None) | ~select(Job.id).where(Job.id == Model.job_id).exists()
    for created_at, size, conditions in (
        (Artifact.created_at, Artifact.size_bytes, (Artifact.project_id == project_id,)),
        (Dataset.created_at, Dataset.size_bytes, (Dataset.project_id == project_id,)),
        (Model.created_at, Model.size_bytes, (Model.project_id == project_id, own)),
        (Upload.created_at, Upload.received_bytes, (Upload.project_id == project_id,)),
        (Checkpoint.created_at, Checkpoint.size_bytes, (Checkpoint.project_id == project_id,)),
    ):
        day = _day(created_at, on_postgresql=on_postgresql)
        statement = select(day, func.sum(size)).where(*conditions, created_at >= start).group_by(day)
        for key, (num_bytes,) in _by_day(session, statement).items():
            added[key] = added.get(key, 0) + int(num_bytes or 0)
    return added


def _by_day(session: Session, statement: Executable) -> dict[date, Sequence[Any]]:
    return {date.fromisoformat(row[0]): row[1:] for row in session.execute(statement)}


def _day(moment: ColumnElement[Any] | Any, *, on_postgresql: bool) -> ColumnElement[str]:
    """Return the day in UTC as ISO text."""
    if on_postgresql:
        return func.to_char(func.timezone("UTC", moment), "YYYY-MM-DD")
    return func.strftime("%Y-%m-%d", moment)

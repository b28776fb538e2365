"""Series of numbers that a run logs: written in batches, read thinned out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from core.store.checkpoints import PUBLIC_TRACK
from core.store.leases import Attempt, hold
from core.store.tables import Metric

Point = tuple[int, float | None]

_ROWS_A_STATEMENT = 1000  # below SQLite's limit of 32,766 values


@dataclass(frozen=True, slots=True)
class Series:
    """One series: (step, value), ascending by step. A value is None where it was not finite."""

    name: str
    points: Sequence[Point]


def insert(session: Session, attempt: Attempt, values: Iterable[tuple[str, int, float]]) -> None:
    """Write a batch of (name, step, value); what is there already is replaced. Raises ``LeaseLost``."""
    job = hold(session, attempt)
    latest = {(name, step): value if math.isfinite(value) else None for name, step, value in values}
    rows = [
        {"job_id": job.id, "project_id": job.project_id, "name": name, "step": step, "value": value}
        for (name, step), value in latest.items()
    ]
    upsert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    statement = upsert(Metric)
    statement = statement.on_conflict_do_update(
        index_elements=["job_id", "name", "step"], set_={"value": statement.excluded.value}
    )
    for start in range(0, len(rows), _ROWS_A_STATEMENT):
        session.execute(statement, rows[start : start + _ROWS_A_STATEMENT])


def drop_after(session: Session, attempt: Attempt, step: int, *, track: str = PUBLIC_TRACK) -> None:
    """Forget what was logged beyond the checkpoint that a track resumes from (``step``; -1: all of it).

    The series of the track ``teacher-K`` begin with ``teacher/K/``; all others are the student's.
    Raises ``LeaseLost``.
    """
    job = hold(session, attempt)
    if track == PUBLIC_TRACK:
        of_track = ~Metric.name.startswith("teacher/")
    else:
        of_track = Metric.name.startswith(track.replace("-", "/") + "/", autoescape=True)
    session.execute(
        delete(Metric)
        .where(Metric.job_id == job.id, Metric.step > step, of_track)
        .execution_options(synchronize_session=False)
    )


def series(
    session: Session, project_id: str, job_id: str, *, name: str | None = None, max_points: int | None = None
) -> list[Series]:
    """The series of a job, or the one called ``name``, each thinned to at most ``max_points``.

    Of a job that is not the project's: none.
    """
    statement = select(Metric.name, Metric.step, Metric.value).where(
        Metric.project_id == project_id, Metric.job_id == job_id
    )
    if name is not None:
        statement = statement.where(Metric.name == name)
    found: dict[str, list[Point]] = {}
    for series_name, step, value in session.execute(statement.order_by(Metric.name, Metric.step)):
        found.setdefault(series_name, []).append((step, value))
    return [Series(key, points if max_points is None else thin(points, max_points)) for key, points in found.items()]


def thin(points: Sequence[Point], max_points: int) -> Sequence[Point]:
    """At most ``max_points`` of the points: first, last, and the lowest and highest of equal slices between.

    So a spike is never lost, which an average or every n-th point would do.
    """
    if len(points) <= max_points:
        return points
    if max_points < 4:
        return [points[0], points[-1]][-max_points:]
    inner, slices = points[1:-1], (max_points - 2) // 2
    chosen = [points[0]]
    for k in range(slices):
        part = inner[k * len(inner) // slices : (k + 1) * len(inner) // slices]
        low, high = min(part, key=_height), max(part, key=_height)
        chosen += sorted({low, high}, key=lambda point: point[0])
    return [*chosen, points[-1]]


def _height(point: Point) -> float:
    return math.inf if point[1] is None else point[1]  # a value that was not finite is the tallest spike

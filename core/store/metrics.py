"""Series of numbers that a run logs: written in batches, read thinned out."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import InstrumentedAttribute, Session

from core.store import metric_rollups
from core.store.checkpoints import PUBLIC_TRACK
from core.store.job_leases import LeaseToken, lock_job
from core.store.metric_rollups import MetricRollup, Point, height
from core.store.tables import Metric, MetricRollupRow

# A series up to here is thinned from its points, a longer one from the lows and highs of its spans.
MOST_POINTS_READ = 4096
_ROWS_A_STATEMENT = 1000  # below SQLite's limit of 32,766 values


@dataclass(frozen=True, slots=True)
class Series:
    """One series: (step, value), ascending by step. A value is None where it was not finite."""

    name: str
    points: Sequence[Point]


def insert(session: Session, attempt: LeaseToken, values: Iterable[tuple[str, int, float]]) -> None:
    """Write a batch of (name, step, value); what is there already is replaced. Raises ``LeaseLost``."""
    job = lock_job(session, attempt)
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
    if latest:
        metric_rollups.add(session, job, latest)


def drop_after(session: Session, attempt: LeaseToken, step: int, *, track: str = PUBLIC_TRACK) -> None:
    """Forget what was logged beyond the checkpoint that a track resumes from (``step``; -1: all of it).

    The series of the track ``teacher-K`` begin with ``teacher/K/``; all others are the student's.
    Raises ``LeaseLost``.
    """
    job = lock_job(session, attempt)

    def of_track(name: InstrumentedAttribute[str]) -> ColumnElement[bool]:
        if track == PUBLIC_TRACK:
            return ~name.startswith("teacher/")
        return name.startswith(track.replace("-", "/") + "/", autoescape=True)

    session.execute(
        delete(Metric)
        .where(Metric.job_id == job.id, Metric.step > step, of_track(Metric.name))
        .execution_options(synchronize_session=False)
    )
    metric_rollups.drop_after(session, job, step, of_track(MetricRollupRow.name))


def series(
    session: Session, project_id: str, job_id: str, *, name: str | None = None, max_points: int | None = None
) -> list[Series]:
    """The series of a job, or the one called ``name``, each thinned to at most ``max_points``.

    Of a job that is not the project's: none. However long a series is, about ``MOST_POINTS_READ`` rows of it
    are read where ``max_points`` is not more.
    """
    if max_points is None:
        return _whole(session, project_id, job_id, None if name is None else [name])
    most_read = max(max_points, MOST_POINTS_READ)
    summed_up = metric_rollups.of_job(session, project_id, job_id, name)
    long = {key: found for key, found in summed_up.items() if sum(one.num_points for one in found) > most_read}
    short = _whole(session, project_id, job_id, [key for key in summed_up if key not in long])
    found = [Series(one.name, thin(one.points, max_points)) for one in short]
    found += [Series(key, thin(_outline(session, job_id, key, parts), max_points)) for key, parts in long.items()]
    return sorted(found, key=lambda one: one.name)


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
        low, high = min(part, key=height), max(part, key=height)
        chosen += sorted({low, high}, key=lambda point: point[0])
    return [*chosen, points[-1]]


def _whole(session: Session, project_id: str, job_id: str, names: Collection[str] | None) -> list[Series]:
    """Every point of the series with these names, or of all."""
    statement = select(Metric.name, Metric.step, Metric.value).where(
        Metric.project_id == project_id, Metric.job_id == job_id
    )
    if names is not None:
        statement = statement.where(Metric.name.in_(names))
    found: dict[str, list[Point]] = {}
    for series_name, step, value in session.execute(statement.order_by(Metric.name, Metric.step)):
        found.setdefault(series_name, []).append((step, value))
    return [Series(key, points) for key, points in found.items()]


def _outline(session: Session, job_id: str, name: str, parts: Sequence[MetricRollup]) -> list[Point]:
    """First and last point of a series, and the lows and highs of its spans: every spike is among them."""
    ends = (parts[0].first_step, parts[-1].last_step)
    read = select(Metric.step, Metric.value).where(Metric.job_id == job_id, Metric.name == name, Metric.step.in_(ends))
    points: dict[int, float | None] = {row[0]: row[1] for row in session.execute(read)}
    for part in parts:
        points.update(part.extremes())
    return sorted(points.items())

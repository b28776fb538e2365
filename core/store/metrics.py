"""Metric series of a job: written in batches, read downsampled."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, delete, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from core.reporting import STUDENT_TRACK, track_series
from core.store import metric_rollups
from core.store.db import insert_or_conflict
from core.store.job_leases import LeaseToken, lock_job
from core.store.metric_rollups import MetricRollup, Point, sort_value
from core.store.tables import Metric, MetricRollupRow

MAX_POINTS_READ = 4096  # a longer series is downsampled from its rollups instead of its points
_ROWS_PER_STATEMENT = 1000  # below SQLite's limit of 32,766 values


@dataclass(frozen=True, slots=True)
class Series:
    """Metric series: points (step, value), ascending by step. A value is None if it was not finite."""

    name: str
    points: Sequence[Point]


def insert(session: Session, lease: LeaseToken, values: Iterable[tuple[str, int, float]]) -> None:
    """Write a batch of (name, step, value), replacing existing points. Raises ``LeaseLost``."""
    job = lock_job(session, lease)
    latest = {(name, step): value if math.isfinite(value) else None for name, step, value in values}
    rows = [
        {"job_id": job.id, "project_id": job.project_id, "name": name, "step": step, "value": value}
        for (name, step), value in latest.items()
    ]
    statement = insert_or_conflict(session, Metric)
    statement = statement.on_conflict_do_update(
        index_elements=["job_id", "name", "step"], set_={"value": statement.excluded.value}
    )
    for start in range(0, len(rows), _ROWS_PER_STATEMENT):
        session.execute(statement, rows[start : start + _ROWS_PER_STATEMENT])
    if latest:
        metric_rollups.add_points(session, job, latest)


def delete_after(session: Session, lease: LeaseToken, step: int, *, track: str = STUDENT_TRACK) -> None:
    """Delete the points beyond ``step``, at which a track resumes (-1: all points).

    :func:`core.reporting.track_series` tells which series a track has. Raises ``LeaseLost``.
    """
    job = lock_job(session, lease)

    def is_in_track(name: InstrumentedAttribute[str]) -> ColumnElement[bool]:
        prefix, others = track_series(track)
        is_other = or_(*(name.startswith(other, autoescape=True) for other in others))
        return name.startswith(prefix, autoescape=True) & ~is_other

    session.execute(
        delete(Metric)
        .where(Metric.job_id == job.id, Metric.step > step, is_in_track(Metric.name))
        .execution_options(synchronize_session=False)
    )
    metric_rollups.delete_after(session, job, step, is_in_track(MetricRollupRow.name))


def read_series(
    session: Session, project_id: str, job_id: str, *, name: str | None = None, max_points: int | None = None
) -> list[Series]:
    """Read the series of a job, or the one called ``name``, each downsampled to at most ``max_points``.

    Returns no series for a job of another project. Unless ``max_points`` is larger, about ``MAX_POINTS_READ`` rows
    are read per series at most, however long it is.
    """
    if max_points is None:
        return _read_full(session, project_id, job_id, None if name is None else [name])
    max_read = max(max_points, MAX_POINTS_READ)
    all_rollups = metric_rollups.read_rollups(session, project_id, job_id, name)
    long = {key: rollups for key, rollups in all_rollups.items() if sum(r.num_points for r in rollups) > max_read}
    short = _read_full(session, project_id, job_id, [key for key in all_rollups if key not in long])
    result = [Series(full.name, downsample(full.points, max_points)) for full in short]
    for key, rollups in long.items():
        result.append(Series(key, downsample(_read_extremes(session, job_id, key, rollups), max_points)))
    return sorted(result, key=lambda series: series.name)


def read_after(session: Session, project_id: str, job_id: str, last_steps: Mapping[str, int]) -> list[Series]:
    """Read the points of each series after its step in ``last_steps``; all points of other series."""
    found = []
    for name in sorted(metric_rollups.read_rollups(session, project_id, job_id, None)):
        statement = select(Metric.step, Metric.value).where(
            Metric.project_id == project_id,
            Metric.job_id == job_id,
            Metric.name == name,
            Metric.step > last_steps.get(name, -1),
        )
        points: list[Point] = [(row[0], row[1]) for row in session.execute(statement.order_by(Metric.step))]
        if points:
            found.append(Series(name, points))
    return found


def downsample(points: Sequence[Point], max_points: int) -> Sequence[Point]:
    """Select at most ``max_points`` points: first, last, and the minimum and maximum of equal slices in between.

    Unlike an average or a stride, this preserves spikes.
    """
    if len(points) <= max_points:
        return points
    if max_points < 4:
        return [points[0], points[-1]][-max_points:]
    inner, slices = points[1:-1], (max_points - 2) // 2
    selected = [points[0]]
    for k in range(slices):
        part = inner[k * len(inner) // slices : (k + 1) * len(inner) // slices]
        low, high = min(part, key=sort_value), max(part, key=sort_value)
        selected += sorted({low, high}, key=lambda point: point[0])
    return [*selected, points[-1]]


def _read_full(session: Session, project_id: str, job_id: str, names: Collection[str] | None) -> list[Series]:
    """Read all points of the series with these names, or of all series."""
    statement = select(Metric.name, Metric.step, Metric.value).where(
        Metric.project_id == project_id, Metric.job_id == job_id
    )
    if names is not None:
        statement = statement.where(Metric.name.in_(names))
    points_by_name: dict[str, list[Point]] = {}
    for series_name, step, value in session.execute(statement.order_by(Metric.name, Metric.step)):
        points_by_name.setdefault(series_name, []).append((step, value))
    return [Series(key, points) for key, points in points_by_name.items()]


def _read_extremes(session: Session, job_id: str, name: str, rollups: Sequence[MetricRollup]) -> list[Point]:
    """Read the first and last point of a series, and the minimum and maximum of each rollup."""
    ends = (rollups[0].first_step, rollups[-1].last_step)
    statement = select(Metric.step, Metric.value).where(
        Metric.job_id == job_id, Metric.name == name, Metric.step.in_(ends)
    )
    points: dict[int, float | None] = {row[0]: row[1] for row in session.execute(statement)}
    for rollup in rollups:
        points.update(rollup.extremes())
    return sorted(points.items())

"""Min/max rollups of a metric series, one per 256 points.

A downsampled series consists of minima and maxima; those of a million points are those of 4,000 rollups. A full rollup
is closed, so a batch costs one small read and one write, however long the series is.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from sqlalchemy import ColumnElement, and_, delete, func, insert, select
from sqlalchemy.orm import Session

from core.store.tables import Job, Metric, MetricRollupRow

POINTS_PER_ROLLUP = 256

Point = tuple[int, float | None]


@dataclass(frozen=True, slots=True)
class MetricRollup:
    """Minimum and maximum of consecutive points of a series; of equal values, the first."""

    first_step: int
    last_step: int
    num_points: int
    low_step: int
    low: float | None
    high_step: int
    high: float | None

    @classmethod
    def from_point(cls, point: Point) -> MetricRollup:
        """Return the rollup of one point."""
        step, value = point
        return cls(step, step, 1, step, value, step, value)

    def with_point(self, point: Point) -> MetricRollup:
        """Return the rollup with one more point, at a later step."""
        step, value = point
        extended = replace(self, last_step=step, num_points=self.num_points + 1)
        if sort_value((step, value)) < sort_value((0, self.low)):
            extended = replace(extended, low_step=step, low=value)
        if sort_value((step, value)) > sort_value((0, self.high)):
            extended = replace(extended, high_step=step, high=value)
        return extended

    def extremes(self) -> tuple[Point, Point]:
        """Return the minimum and the maximum point."""
        return (self.low_step, self.low), (self.high_step, self.high)


def sort_value(point: Point) -> float:
    """Return the value for comparing points: infinity for a value that was not finite."""
    return math.inf if point[1] is None else point[1]


def add_points(session: Session, job: Job, batch: Mapping[tuple[str, int], float | None]) -> None:
    """Add a batch, (name, step) -> value, whose points are already written. The caller has locked the job."""
    points: dict[str, list[Point]] = defaultdict(list)
    for (name, step), value in sorted(batch.items()):
        points[name].append((step, value))
    last_rollups = _last_rollups(session, job.id, points)
    for name, new in points.items():
        last, first_step = last_rollups.get(name), new[0][0]
        if last is None or first_step > last.last_step:
            _append(session, job, name, last, new)
        else:  # the batch rewrites an earlier step
            _append(session, job, name, *_reopen(session, job.id, name, first_step))


def delete_after(session: Session, job: Job, step: int, names: ColumnElement[bool]) -> None:
    """Update the rollups after the points beyond ``step`` were deleted, in the series that ``names`` selects."""
    affected = (
        select(MetricRollupRow.name)
        .where(MetricRollupRow.job_id == job.id, MetricRollupRow.last_step > step, names)
        .distinct()
    )
    for name in session.scalars(affected).all():
        last, rest = _reopen(session, job.id, name, step + 1)
        _append(session, job, name, last, rest)


def read_rollups(session: Session, project_id: str, job_id: str, name: str | None) -> dict[str, list[MetricRollup]]:
    """Read the rollups of the job's series, or of the one called ``name``: by name, ascending by step."""
    statement = select(MetricRollupRow.name, *_COLUMNS).where(
        MetricRollupRow.project_id == project_id, MetricRollupRow.job_id == job_id
    )
    if name is not None:
        statement = statement.where(MetricRollupRow.name == name)
    rollups: dict[str, list[MetricRollup]] = {}
    for row in session.execute(statement.order_by(MetricRollupRow.name, MetricRollupRow.first_step)):
        rollups.setdefault(row.name, []).append(MetricRollup(*row[1:]))
    return rollups


# --- internal ---------------------------------------------------------------------------------------

_COLUMNS = (
    MetricRollupRow.first_step,
    MetricRollupRow.last_step,
    MetricRollupRow.num_points,
    MetricRollupRow.low_step,
    MetricRollupRow.low,
    MetricRollupRow.high_step,
    MetricRollupRow.high,
)


def _last_rollups(session: Session, job_id: str, names: Iterable[str]) -> dict[str, MetricRollup]:
    """Read the last rollup of each series that has one."""
    last = (
        select(MetricRollupRow.name, func.max(MetricRollupRow.first_step).label("first_step"))
        .where(MetricRollupRow.job_id == job_id, MetricRollupRow.name.in_(list(names)))
        .group_by(MetricRollupRow.name)
        .subquery("last")
    )
    statement = select(MetricRollupRow.name, *_COLUMNS).join(
        last, and_(MetricRollupRow.name == last.c.name, MetricRollupRow.first_step == last.c.first_step)
    )
    rows = session.execute(statement.where(MetricRollupRow.job_id == job_id))
    return {row.name: MetricRollup(*row[1:]) for row in rows}


def _append(session: Session, job: Job, name: str, last: MetricRollup | None, points: Sequence[Point]) -> None:
    """Append points: to the last rollup until it is full, then to new rollups."""
    if not points:
        return
    rollups = [] if last is None or last.num_points >= POINTS_PER_ROLLUP else [last]
    for point in points:
        if rollups and rollups[-1].num_points < POINTS_PER_ROLLUP:
            rollups[-1] = rollups[-1].with_point(point)
        else:
            rollups.append(MetricRollup.from_point(point))
    _delete(session, job.id, name, MetricRollupRow.first_step == rollups[0].first_step)
    keys = {"job_id": job.id, "project_id": job.project_id, "name": name}
    session.execute(insert(MetricRollupRow), [{**keys, **asdict(rollup)} for rollup in rollups])


def _reopen(session: Session, job_id: str, name: str, step: int) -> tuple[MetricRollup | None, list[Point]]:
    """Delete the rollups that reach ``step``; return the last remaining one, and all points after it."""
    _delete(session, job_id, name, MetricRollupRow.last_step >= step)
    last = _last_rollups(session, job_id, [name]).get(name)
    statement = select(Metric.step, Metric.value).where(Metric.job_id == job_id, Metric.name == name)
    if last is not None:
        statement = statement.where(Metric.step > last.last_step)
    return last, [(row[0], row[1]) for row in session.execute(statement.order_by(Metric.step))]


def _delete(session: Session, job_id: str, name: str, condition: ColumnElement[bool]) -> None:
    session.execute(
        delete(MetricRollupRow)
        .where(MetricRollupRow.job_id == job_id, MetricRollupRow.name == name, condition)
        .execution_options(synchronize_session=False)
    )

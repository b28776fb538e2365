"""What every 256 points of a series are at most and at least, kept beside them.

A thinned series is made of lows and highs, and those of a million points are those of four thousand spans. A
span is closed once it is full, so a batch costs one small read and one write, however long the series is.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from sqlalchemy import ColumnElement, and_, delete, func, insert, select
from sqlalchemy.orm import Session

from core.store.tables import Job, Metric, MetricRollupRow

SPAN_POINTS = 256

Point = tuple[int, float | None]


@dataclass(frozen=True, slots=True)
class MetricRollup:
    """Neighbouring points of a series, summed up; of equal values the first one stands."""

    first_step: int
    last_step: int
    num_points: int
    low_step: int
    low: float | None
    high_step: int
    high: float | None

    @classmethod
    def of(cls, point: Point) -> MetricRollup:
        """One point."""
        step, value = point
        return cls(step, step, 1, step, value, step, value)

    def with_point(self, point: Point) -> MetricRollup:
        """And one more, further on."""
        step, value = point
        grown = replace(self, last_step=step, num_points=self.num_points + 1)
        if height((step, value)) < height((0, self.low)):
            grown = replace(grown, low_step=step, low=value)
        if height((step, value)) > height((0, self.high)):
            grown = replace(grown, high_step=step, high=value)
        return grown

    def extremes(self) -> tuple[Point, Point]:
        """The lowest and the highest point."""
        return (self.low_step, self.low), (self.high_step, self.high)


def height(point: Point) -> float:
    """By what points are compared: a value that was not finite is the tallest spike."""
    return math.inf if point[1] is None else point[1]


def add(session: Session, job: Job, batch: Mapping[tuple[str, int], float | None]) -> None:
    """Sum up a batch, (name, step) -> value, that is written already. The job is locked by this transaction."""
    points: dict[str, list[Point]] = defaultdict(list)
    for (name, step), value in sorted(batch.items()):
        points[name].append((step, value))
    newest = _newest(session, job.id, points)
    for name, new in points.items():
        last, first_step = newest.get(name), new[0][0]
        if last is None or first_step > last.last_step:
            _append(session, job, name, last, new)
        else:  # an earlier step was written again
            _append(session, job, name, *_reopened(session, job.id, name, first_step))


def drop_after(session: Session, job: Job, step: int, names: ColumnElement[bool]) -> None:
    """Follow the deletion of all points beyond ``step`` of the series that ``names`` selects."""
    cut = (
        select(MetricRollupRow.name)
        .where(MetricRollupRow.job_id == job.id, MetricRollupRow.last_step > step, names)
        .distinct()
    )
    for name in session.scalars(cut).all():
        last, rest = _reopened(session, job.id, name, step + 1)
        _append(session, job, name, last, rest)


def of_job(session: Session, project_id: str, job_id: str, name: str | None) -> dict[str, list[MetricRollup]]:
    """The spans of the job's series, or of the one called ``name``: by name, ascending by step."""
    statement = select(MetricRollupRow.name, *_COLUMNS).where(
        MetricRollupRow.project_id == project_id, MetricRollupRow.job_id == job_id
    )
    if name is not None:
        statement = statement.where(MetricRollupRow.name == name)
    found: dict[str, list[MetricRollup]] = {}
    for row in session.execute(statement.order_by(MetricRollupRow.name, MetricRollupRow.first_step)):
        found.setdefault(row.name, []).append(MetricRollup(*row[1:]))
    return found


# --- inside ---------------------------------------------------------------------------------------

_COLUMNS = (
    MetricRollupRow.first_step,
    MetricRollupRow.last_step,
    MetricRollupRow.num_points,
    MetricRollupRow.low_step,
    MetricRollupRow.low,
    MetricRollupRow.high_step,
    MetricRollupRow.high,
)


def _newest(session: Session, job_id: str, names: Iterable[str]) -> dict[str, MetricRollup]:
    """The last span of each series that has one."""
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
    """Put points behind the last span: into it while there is room, then into new ones."""
    if not points:
        return
    spans = [] if last is None or last.num_points >= SPAN_POINTS else [last]
    for point in points:
        if spans and spans[-1].num_points < SPAN_POINTS:
            spans[-1] = spans[-1].with_point(point)
        else:
            spans.append(MetricRollup.of(point))
    _delete(session, job.id, name, MetricRollupRow.first_step == spans[0].first_step)
    keys = {"job_id": job.id, "project_id": job.project_id, "name": name}
    session.execute(insert(MetricRollupRow), [{**keys, **asdict(span)} for span in spans])


def _reopened(session: Session, job_id: str, name: str, step: int) -> tuple[MetricRollup | None, list[Point]]:
    """Drop the spans from ``step`` on; the last one before, and all points after that one, as they are now."""
    _delete(session, job_id, name, MetricRollupRow.last_step >= step)
    last = _newest(session, job_id, [name]).get(name)
    statement = select(Metric.step, Metric.value).where(Metric.job_id == job_id, Metric.name == name)
    if last is not None:
        statement = statement.where(Metric.step > last.last_step)
    return last, [(row[0], row[1]) for row in session.execute(statement.order_by(Metric.step))]


def _delete(session: Session, job_id: str, name: str, which: ColumnElement[bool]) -> None:
    session.execute(
        delete(MetricRollupRow)
        .where(MetricRollupRow.job_id == job_id, MetricRollupRow.name == name, which)
        .execution_options(synchronize_session=False)
    )

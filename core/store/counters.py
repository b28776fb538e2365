"""Counters and histograms for Prometheus that are stored in the database.

The transaction that changes a state also records its observations. So each change counts once, whatever is killed, and
a scrape reads neither jobs nor events. Rows are only added, so transactions do not wait for each other. A value is the
sum of the rows of its series; the scheduler merges the rows. Amounts are integers, whose sum does not depend on the
order: a counter that decreased by a rounding error would look like a restart to Prometheus.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from core.errors import OutOfMemory, RunError, WorkerLost, WorkStalled
from core.ids import new_id
from core.job_failure import INTERNAL_ERROR
from core.store.counter_tables import StoredCounter
from core.store.db import insert_or_conflict

MAX_UNMERGED_ROWS = 200
_SUM, _COUNT, _ABOVE_ALL = "sum", "count", "+Inf"
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_NO_LABELS = ((),)
_JOB_BUCKETS = (10, _MINUTE, 5 * _MINUTE, 15 * _MINUTE, _HOUR, 4 * _HOUR, 12 * _HOUR, _DAY, 3 * _DAY)


@dataclass(frozen=True, slots=True)
class Metric:
    """A stored metric. A histogram has upper bounds (``buckets``) in seconds; a summary has count and sum only.

    Series with ``initial_labels`` are 0 before their first observation, so that Prometheus sees it as an increase.
    """

    name: str
    description: str
    labels: tuple[str, ...] = ()
    kind: Literal["counter", "summary", "histogram"] = "counter"
    buckets: tuple[float, ...] = ()
    in_seconds: bool = False
    initial_labels: tuple[tuple[str, ...], ...] = ()

    def rows(self, labels: tuple[str, ...], amount: float) -> dict[str, int]:
        """Return the amounts that an observation adds, by series."""
        assert len(labels) == len(self.labels), self.name
        stored = round(amount * 1000) if self.in_seconds else round(amount)
        assert stored >= 0, f"{self.name} cannot decrease"
        match self.kind:
            case "counter":
                parts = {_SUM: stored}
            case "summary":
                parts = {_SUM: stored, _COUNT: 1}
            case "histogram":
                parts = {_SUM: stored, self._bucket(amount): 1}
        return {json.dumps([self.name, part, *labels]): number for part, number in parts.items()}

    def _bucket(self, amount: float) -> str:
        index = bisect_left(self.buckets, amount)
        return f"{self.buckets[index]:g}" if index < len(self.buckets) else _ABOVE_ALL


def _failures() -> Iterator[tuple[str, str]]:
    """Yield code and fault of each error that a job can fail with."""
    yield INTERNAL_ERROR, "service"
    kinds: list[type[RunError]] = [RunError]
    for kind in kinds:  # grows during iteration
        kinds.extend(kind.__subclasses__())
        if kind.__module__ == RunError.__module__:
            yield kind.code, kind.fault


JOBS_CREATED = Metric("potstill_jobs_created", "Jobs created.", ("method",))
JOB_ATTEMPTS = Metric("potstill_job_attempts", "Attempts of jobs started.", ("accelerator",))
JOB_QUEUE_SECONDS = Metric(
    "potstill_job_queue_seconds",
    "Time from the creation of a job to its first attempt.",
    ("accelerator",),
    kind="histogram",
    buckets=(1, *_JOB_BUCKETS),
    in_seconds=True,
)
JOB_SECONDS = Metric(
    "potstill_job_seconds",
    "Work time of a job, summed over its stages and attempts, when it ends.",
    ("method", "end"),
    kind="histogram",
    buckets=_JOB_BUCKETS,
    in_seconds=True,
)
STAGE_SECONDS = Metric(
    "potstill_job_stage_seconds",
    "Work time of an attempt in a stage, when it leaves the stage.",
    ("stage", "method", "end"),
    kind="summary",
    in_seconds=True,
)
JOB_FAILURES = Metric(
    "potstill_job_failures", "Failed jobs, by the error's code.", ("code", "fault"), initial_labels=tuple(_failures())
)
LEASE_LOSSES = Metric(
    "potstill_lease_losses",
    "Attempts whose worker ended without a record of the result.",
    ("object", "code"),
    initial_labels=(
        *(("job", error.code) for error in (WorkerLost, WorkStalled, OutOfMemory)),
        *((kind, WorkerLost.code) for kind in ("dataset", "model")),
    ),
)
CACHE_HITS = Metric(
    "potstill_teacher_cache_hits", "Views of a teacher loaded from the teacher cache.", initial_labels=_NO_LABELS
)
CACHE_MISSES = Metric("potstill_teacher_cache_misses", "Views of a teacher computed.", initial_labels=_NO_LABELS)
CACHE_BYTES = Metric(
    "potstill_teacher_cache_bytes", "Bytes of teacher outputs loaded or computed.", initial_labels=_NO_LABELS
)
CACHE_COMPUTED_SECONDS = Metric(
    "potstill_teacher_cache_computed_seconds",
    "Time in which teacher outputs were computed.",
    in_seconds=True,
    initial_labels=_NO_LABELS,
)
CACHE_SAVED_SECONDS = Metric(
    "potstill_teacher_cache_saved_seconds",
    "Time in which the loaded teacher outputs had been computed.",
    in_seconds=True,
    initial_labels=_NO_LABELS,
)

METRICS = (
    JOBS_CREATED,
    JOB_ATTEMPTS,
    JOB_QUEUE_SECONDS,
    JOB_SECONDS,
    STAGE_SECONDS,
    JOB_FAILURES,
    LEASE_LOSSES,
    CACHE_HITS,
    CACHE_MISSES,
    CACHE_BYTES,
    CACHE_COMPUTED_SECONDS,
    CACHE_SAVED_SECONDS,
)


class Observation(NamedTuple):
    """An amount to add to a metric: a number, or seconds."""

    metric: Metric
    labels: tuple[str, ...] = ()
    amount: float = 1


@dataclass(frozen=True, slots=True)
class Total:
    """Value of a counter, or sum and cumulative buckets (upper bound -> count) of a histogram or summary."""

    sum: float
    count: int = 0
    buckets: tuple[tuple[str, int], ...] = ()


Totals = Mapping[str, Mapping[tuple[str, ...], Total]]
"""Totals by name of the metric and labels; each metric is a key."""


def record(session: Session, observations: Iterable[Observation]) -> None:
    """Add observations in the transaction that changes the state."""
    amounts: Counter[str] = Counter()
    for metric, labels, amount in observations:
        amounts.update(metric.rows(labels, amount))
    rows = [{"id": new_id("cnt"), "series": series, "amount": n} for series, n in amounts.items() if n]
    if rows:
        session.execute(insert(StoredCounter), rows)


def read(session: Session) -> Totals:
    """Return all totals. Reads one row per series, and the unmerged ones."""
    statement = select(StoredCounter.series, func.sum(StoredCounter.amount)).group_by(StoredCounter.series)
    parts: dict[str, dict[tuple[str, ...], dict[str, int]]] = {}
    for series, amount in session.execute(statement):
        name, part, *labels = json.loads(series)
        parts.setdefault(name, {}).setdefault(tuple(labels), {})[part] = int(amount)
    return {
        metric.name: dict.fromkeys(metric.initial_labels, Total(0.0))
        | {labels: _total(metric, by_part) for labels, by_part in parts.get(metric.name, {}).items()}
        for metric in METRICS
    }


def merge(session: Session) -> int:
    """Merge the rows into one per series if many are unmerged; return the number of merged rows."""
    is_unmerged = StoredCounter.id != StoredCounter.series
    unmerged = select(func.count()).select_from(StoredCounter).where(is_unmerged)
    if session.scalars(unmerged).one() <= MAX_UNMERGED_ROWS:
        return 0
    statement = delete(StoredCounter).where(is_unmerged).returning(StoredCounter.series, StoredCounter.amount)
    deleted = session.execute(statement.execution_options(synchronize_session=False)).all()
    amounts: Counter[str] = Counter()
    for series, amount in deleted:
        amounts[series] += amount
    upsert = insert_or_conflict(session, StoredCounter)
    upsert = upsert.on_conflict_do_update(
        index_elements=["id"], set_={"amount": StoredCounter.amount + upsert.excluded.amount}
    )
    # Sorted, so that two schedulers lock the rows in the same order.
    rows = [{"id": series, "series": series, "amount": amount} for series, amount in sorted(amounts.items())]
    session.execute(upsert.execution_options(synchronize_session=False), rows)
    return len(deleted)


def _total(metric: Metric, parts: Mapping[str, int]) -> Total:
    total = parts.get(_SUM, 0) / 1000 if metric.in_seconds else float(parts.get(_SUM, 0))
    if metric.kind != "histogram":
        return Total(total, parts.get(_COUNT, 0))
    cumulative, buckets = 0, []
    for bound in (*(f"{bucket:g}" for bucket in metric.buckets), _ABOVE_ALL):
        cumulative += parts.get(bound, 0)
        buckets.append((bound, cumulative))
    return Total(total, cumulative, tuple(buckets))

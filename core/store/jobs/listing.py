"""Lists of jobs: filters, orders, and pages that continue after a job."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, Select, and_, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from core.errors import InvalidRequest
from core.ids import is_id
from core.store.db import is_postgresql
from core.store.pagination import Page, paginate_newest_first
from core.store.search import word_conditions
from core.store.tables import Job

SortKey = Literal["created_at", "name", "top1", "gain", "seconds", "parameters", "flops", "size_bytes", "latency_ms"]
SORT_KEYS: tuple[SortKey, ...] = get_args(SortKey)
FIGURES = frozenset(SORT_KEYS) - {"created_at", "name"}  # generated columns


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Conditions on the jobs of a list, all of which apply; empty ones do not.

    Args:
        statuses: Statuses, one of which the job has.
        methods: Methods, one of which the job has.
        dataset_id: The job's own dataset.
        student: timm name of the student, with or without its pretrained tag.
        teacher: The same of one of the teachers.
        metadata: Entries of the job's metadata.
        created_after: Start of the time range, inclusive.
        created_before: End of the time range, exclusive.
        sweep_id: The sweep that the job belongs to.
        search: Words, each of which the name, id, method, student or a teacher contains, in any case.
    """

    statuses: Sequence[str] = ()
    methods: Sequence[str] = ()
    dataset_id: str | None = None
    student: str | None = None
    teacher: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    created_after: datetime | None = None
    created_before: datetime | None = None
    sweep_id: str | None = None
    search: str = ""


@dataclass(frozen=True, slots=True)
class JobOrder:
    """Order of a list. Jobs without a value come last, whatever the direction; equal values by id."""

    key: SortKey = "created_at"
    descending: bool = True


ALL_JOBS = JobFilter()
NEWEST_FIRST = JobOrder()


def list_jobs(
    session: Session,
    project_id: str,
    filters: JobFilter = ALL_JOBS,
    *,
    order: JobOrder = NEWEST_FIRST,
    limit: int = 20,
    after: str | None = None,
) -> Page[Job]:
    """List the project's jobs that pass the filters.

    Raises ``InvalidRequest`` if ``after`` is not the id of a job, or of a deleted job where the order needs its value.
    """
    statement = _job_ids_query(project_id, filters, order, on_postgresql=is_postgresql(session))
    if order == NEWEST_FIRST:
        page = paginate_newest_first(session, statement, Job.id, limit=limit, after=after, prefix="job")
    else:
        page = _sorted_page(session, project_id, statement, order, limit=limit, after=after)
    rows = {job.id: job for job in session.scalars(select(Job).where(Job.id.in_(page.items)))}
    return Page([rows[job_id] for job_id in page.items], page.has_more)


def _job_ids_query(project_id: str, filters: JobFilter, order: JobOrder, *, on_postgresql: bool) -> Select[str]:
    """Select only the ids, which are all in an index, so that no plan scans the rows of other projects.

    SQLite's planner does not count generated columns of an index as covered. Without the hint it computes them from
    the JSON of each row, which takes ten times as long.
    """
    statement = select(Job.id).where(Job.project_id == project_id, *_conditions(filters, on_postgresql=on_postgresql))
    if filters.sweep_id is not None:
        return statement  # an index has the few jobs of a sweep
    reads_figures = filters.search or filters.student is not None or filters.teacher is not None
    if reads_figures or order.key in FIGURES:
        return statement.with_hint(Job, "INDEXED BY ix_jobs_figures", dialect_name="sqlite")
    return statement


def _conditions(filters: JobFilter, *, on_postgresql: bool) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    conditions += [_is_one_of(Job.status, filters.statuses)] if filters.statuses else []
    conditions += [_is_one_of(Job.method, filters.methods)] if filters.methods else []
    if filters.dataset_id is not None:
        conditions.append(Job.dataset_id == filters.dataset_id)
    if filters.student is not None:
        conditions.append(
            or_(Job.student == filters.student, Job.student.startswith(f"{filters.student}.", **_ESCAPED))
        )
    if filters.teacher is not None:
        conditions.append(or_(*(Job.teachers.contains(f"|{filters.teacher}{end}", **_ESCAPED) for end in ("|", "."))))
    conditions += [Job.metadata_[key].as_string() == value for key, value in filters.metadata.items()]
    if filters.created_after is not None:
        conditions.append(Job.created_at >= filters.created_after)
    if filters.created_before is not None:
        conditions.append(Job.created_at < filters.created_before)
    if filters.sweep_id is not None:
        conditions.append(Job.sweep_id == filters.sweep_id)
    searched = (Job.id, Job.method, Job.student, Job.teachers, Job.name)
    return conditions + word_conditions(filters.search, searched, on_postgresql=on_postgresql)


_ESCAPED: Any = {"autoescape": True}


def _is_one_of(column: InstrumentedAttribute[Any], values: Sequence[str]) -> ColumnElement[bool]:
    """One value is an equality, which uses an index in the order of ids."""
    return column == values[0] if len(values) == 1 else column.in_(values)


def _sorted_page(
    session: Session,
    project_id: str,
    statement: Select[str],
    order: JobOrder,
    *,
    limit: int,
    after: str | None,
) -> Page[str]:
    column: Any = Job.id if order.key == "created_at" else getattr(Job, order.key)  # ids sort by time
    if after is not None:
        if not is_id(after, "job"):
            raise InvalidRequest("after must be the id of the last object of the previous page (job_…)")
        last = session.execute(select(column).where(Job.id == after, Job.project_id == project_id)).one_or_none()
        if last is None:
            raise InvalidRequest(f"after: job {after} was deleted; load the list from its start")
        statement = statement.where(_is_after(column, last[0], after, descending=order.descending))
    keys = [column.desc(), Job.id.desc()] if order.descending else [column.asc(), Job.id.asc()]
    rows = session.scalars(statement.order_by(column.is_(None), *keys).limit(limit + 1)).all()
    return Page(rows[:limit], len(rows) > limit)


def _is_after(column: Any, value: Any, job_id: str, *, descending: bool) -> ColumnElement[bool]:
    """Condition: the job follows the one with this value and id. Jobs without a value come last."""
    follows: Callable[[Any, Any], Any] = operator.lt if descending else operator.gt
    same = and_(column.is_(None) if value is None else column == value, follows(Job.id, job_id))
    return same if value is None else or_(follows(column, value), same, column.is_(None))

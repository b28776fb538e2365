"""Numbers of jobs by status and accelerator, at a cost that does not grow with the number of jobs.

Each status change adds rows with its differences in the same transaction. Rows are only added, so transactions do not
wait for each other. The counts are the sums of all rows; the scheduler merges the rows. :func:`recount` corrects the
sums, because an older version, which runs during an upgrade, does not add rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import product
from typing import Any, NamedTuple

from sqlalchemy import delete, func, insert, select, text, union_all
from sqlalchemy.orm import Session

from core.ids import new_id
from core.store.db import is_postgresql
from core.store.tables import TERMINAL_STATUSES, Job, JobCount

MAX_UNMERGED_ROWS = 200
_ADVISORY_LOCK = 0x706F7463  # unique among the advisory locks of the PostgreSQL database


class Group(NamedTuple):
    """Jobs that are counted together."""

    project_id: str
    status: str
    accelerator: str

    @classmethod
    def of_job(cls, job: Any) -> Group:
        """Return the group of a job, or of a row with these columns."""
        return cls(job.project_id, job.status, job.accelerator)


_GROUP = (JobCount.project_id, JobCount.status, JobCount.accelerator)
_JOB_GROUP = (Job.project_id, Job.status, Job.accelerator)


def add(session: Session, differences: Mapping[Group, int]) -> None:
    """Add differences to the counts, in the transaction that changes the jobs."""
    rows = [
        {"id": new_id("cnt"), **group._asdict(), "num_jobs": number} for group, number in differences.items() if number
    ]
    if rows:
        session.execute(insert(JobCount), rows)


def move(session: Session, old: Group, new: Group) -> None:
    """Count a job that changes its group."""
    if old != new:
        add(session, {old: -1, new: 1})


def count_by_status(session: Session) -> dict[str, int]:
    """Return the number of jobs of all projects by status; every status is a key."""
    counts = dict.fromkeys(("queued", "running", "paused", *TERMINAL_STATUSES), 0)
    statement = select(JobCount.status, func.sum(JobCount.num_jobs)).group_by(JobCount.status)
    return counts | {row[0]: max(0, int(row[1])) for row in session.execute(statement)}


def count_queued(session: Session) -> dict[str, int]:
    """Return the number of queued jobs of all projects by accelerator: `auto`, `cpu`, `cuda`."""
    unfinished = count_unfinished(session).items()
    return {accelerator: number for (status, accelerator), number in unfinished if status == "queued"}


def count_unfinished(session: Session) -> dict[tuple[str, ...], int]:
    """Return the number of queued and running jobs of all projects by (status, accelerator)."""
    group = (JobCount.status, JobCount.accelerator)
    statement = select(*group, func.sum(JobCount.num_jobs)).where(JobCount.status.in_(("queued", "running")))
    counts: dict[tuple[str, ...], int] = dict.fromkeys(product(("queued", "running"), ("auto", "cpu", "cuda")), 0)
    return counts | {(row[0], row[1]): max(0, int(row[2])) for row in session.execute(statement.group_by(*group))}


def merge(session: Session) -> int:
    """Merge the rows into one per group if many are unmerged; return the number of merged rows."""
    num_rows = session.scalars(select(func.count()).select_from(JobCount)).one()
    groups = select(*_GROUP).distinct().subquery()
    if num_rows <= session.scalars(select(func.count()).select_from(groups)).one() + MAX_UNMERGED_ROWS:
        return 0
    statement = delete(JobCount).returning(*_GROUP, JobCount.num_jobs)
    merged = session.execute(statement.execution_options(synchronize_session=False)).all()
    sums: Counter[Group] = Counter()
    for row in merged:
        sums[Group.of_job(row)] += row.num_jobs
    add(session, sums)
    return len(merged)


def recount(session: Session) -> dict[Group, int]:
    """Count all jobs and correct the counts; return the corrections.

    One statement reads jobs and counts, so that it sees both or neither effect of each concurrent transaction.
    """
    if is_postgresql(session):  # two corrections at once would both count
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
    actual = select(*_JOB_GROUP, func.count().label("number")).group_by(*_JOB_GROUP)
    both = union_all(actual, select(*_GROUP, (-JobCount.num_jobs).label("number"))).subquery("both")
    group = (both.c.project_id, both.c.status, both.c.accelerator)
    difference = func.sum(both.c.number).label("difference")
    rows = session.execute(select(*group, difference).group_by(*group).having(difference != 0))
    corrections = {Group.of_job(row): int(row.difference) for row in rows}
    add(session, corrections)
    return corrections

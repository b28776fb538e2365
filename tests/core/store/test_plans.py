"""Query plans of frequent queries on filled databases: no full scan of a large table."""

import json
from contextlib import contextmanager, suppress

import pytest
from sqlalchemy import event, text

from benchmarks import growth_rows
from benchmarks.growth_rows import SMALL, job_id, project_id
from core.errors import NotFound
from core.settings import Settings
from core.store import audit, checkpoints, events, idempotency, job_counts, jobs, metrics, names, quotas, workers
from core.store.db import Database, make_engine, migrate
from core.store.jobs import LeaseToken, records
from tests.support.waiting import until

LARGE_TABLES = (
    "jobs",
    "metrics",
    "metric_rollups",
    "events",
    "job_references",
    "checkpoints",
    "idempotency",
    "audit_log",
    "artifacts",
)
PROJECT = project_id(1)
RUNNING = job_id(SMALL.jobs - SMALL.queued - 1)
# Queries on tables that are empty or small in this test, where a full scan is the right plan.
SMALL_TABLE_QUERIES = {
    "checkpoints",
    "expired checkpoints",
    "old idempotency keys",
    "workers",
    "count by status",
    "audit log",
    "audit log of an object",
    "audit log of a key",
    "old audit entries",
    "count stored bytes",
}


@pytest.fixture(scope="module")
def filled(pg_new):
    url = pg_new("growth")
    migrate(url, revision="0001")
    database = Database(make_engine(url))
    with database.engine.begin() as connection:
        growth_rows.fill(connection, SMALL)
    migrate(url)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        until(lambda: vacuum(connection), 60, "a snapshot kept rows from being visible to all")
    yield database
    database.dispose()


def vacuum(connection):
    """Vacuum the database. Return whether index-only scans are possible: most pages of jobs are visible to all.

    They are not while any backend has a snapshot from before the rows were written, even one that is only starting.
    """
    connection.execute(text("VACUUM ANALYZE"))
    pages = "SELECT relallvisible > 0.9 * relpages FROM pg_class WHERE oid = 'jobs'::regclass"
    return connection.execute(text(pages)).scalar_one()


@contextmanager
def record_statements(database):
    """Yield a list that collects the executed statements with their parameters."""
    statements = []

    def record(_connection, _cursor, statement, parameters, _context, many):
        if statement.lstrip().startswith(("SELECT", "WITH", "UPDATE", "DELETE")):
            statements.append((statement, parameters[0] if many else parameters))

    event.listen(database.engine, "before_cursor_execute", record)
    try:
        yield statements
    finally:
        event.remove(database.engine, "before_cursor_execute", record)


def nodes(plan):
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def lease_of(session):
    return LeaseToken.from_job(jobs.get(session, project_of(session), RUNNING))


def project_of(session):
    return session.execute(text("SELECT project_id FROM jobs WHERE id = :id"), {"id": RUNNING}).scalar_one()


def find_nothing(session, find, *arguments):
    """Look up a name that does not exist, which also reads the nearest names."""
    with suppress(NotFound):
        find(session, PROJECT, *arguments)


QUERIES = {
    "list": lambda s: jobs.list_jobs(s, PROJECT),
    "next page": lambda s: jobs.list_jobs(s, PROJECT, after=job_id(SMALL.jobs // 2)),
    "list by status": lambda s: jobs.list_jobs(s, PROJECT, jobs.JobFilter(statuses=["failed"])),
    "list by method": lambda s: jobs.list_jobs(s, PROJECT, jobs.JobFilter(methods=["kd"])),
    "list by dataset": lambda s: jobs.list_jobs(s, PROJECT, jobs.JobFilter(dataset_id="ds_x")),
    "search jobs": lambda s: jobs.list_jobs(s, PROJECT, jobs.JobFilter(search="no such job")),
    "list by teacher": lambda s: jobs.list_jobs(s, PROJECT, jobs.JobFilter(teacher="resnet14t")),
    "list by a figure": lambda s: jobs.list_jobs(s, PROJECT, order=jobs.JobOrder("top1")),
    "next page by a figure": lambda s: jobs.list_jobs(s, PROJECT, order=jobs.JobOrder("seconds"), after=job_id(2)),
    "claim": lambda s: jobs.claim(s, worker_id="w", accelerator="cpu", lease_seconds=60),
    "queued accelerators": jobs.queued_accelerators,
    "count queued": jobs.count_queued,
    "count unfinished": jobs.count_unfinished,
    "queue ages": jobs.queue_ages,
    "expire leases": lambda s: jobs.expire_leases(s, 3),
    "renew lease": lambda s: jobs.renew_lease(s, lease_of(s), 60),
    "events": lambda s: events.list_events(s, PROJECT, job_id(1), limit=20),
    "event seq": lambda s: events.find_seq(s, PROJECT, job_id(1), "evt_x"),
    "append event": lambda s: events.append(s, lease_of(s), "note", "n"),
    "insert metrics": lambda s: metrics.insert(s, lease_of(s), [("train/loss", k, 0.0) for k in range(300)]),
    "delete metrics": lambda s: metrics.delete_after(s, lease_of(s), 100),
    "ordinary series": lambda s: metrics.read_series(s, project_id(2), job_id(2), max_points=500),
    "long series": lambda s: metrics.read_series(s, PROJECT, job_id(1), max_points=500),
    "checkpoints": lambda s: checkpoints.list_checkpoints(s, PROJECT, job_id(1)),
    "old idempotency keys": lambda s: idempotency.expire(s, 24),
    "count by status": records.jobs_by_status,
    "job quota": lambda s: quotas.require_job_slot(s, PROJECT, Settings(quota_jobs=100_000, quota_stored_bytes=1)),
    "unfinished jobs": lambda s: quotas.count_unfinished(s, PROJECT),
    "count stored bytes": lambda s: quotas.recount(s, PROJECT),
    "audit log": lambda s: audit.list_entries(s, PROJECT),
    "audit log of an object": lambda s: audit.list_entries(s, PROJECT, object_id=job_id(1)),
    "audit log of a key": lambda s: audit.list_entries(s, PROJECT, key_id="key_x", action="job.create"),
    "old audit entries": lambda s: audit.expire(s, 365),
    "workers": lambda s: workers.list_workers(s, alive_seconds=15),
    "unknown name": lambda s: find_nothing(s, names.find_id, "job", "no such name"),
    "unknown id prefix": lambda s: find_nothing(s, names.find_id, "job", "job_zzzz"),
    "unknown weights": lambda s: find_nothing(s, names.find_weights, "no such name"),
    "expired checkpoints": lambda s: checkpoints.prune_expired(s, 7),
    "merge counts": job_counts.merge,
}


@pytest.mark.parametrize("name", QUERIES)
def test_no_full_scan_of_a_large_table(filled, name):
    with record_statements(filled) as statements, filled.write() as session:
        QUERIES[name](session)
        session.rollback()
    assert statements

    with filled.engine.connect() as connection:
        connection.exec_driver_sql(f"SET LOCAL enable_seqscan = {'off' if name in SMALL_TABLE_QUERIES else 'on'}")
        for statement, parameters in statements:
            (plan,) = connection.exec_driver_sql("EXPLAIN (FORMAT JSON) " + statement, parameters).one()
            full_scans = [
                node["Relation Name"]
                for node in nodes((plan if isinstance(plan, list) else json.loads(plan))[0]["Plan"])
                if node["Node Type"] == "Seq Scan" and node["Relation Name"] in LARGE_TABLES
            ]
            assert full_scans == [], f"{statement}\n{json.dumps(plan, indent=1)}"


def test_claim_reads_one_job_per_project(filled):
    with record_statements(filled) as statements, filled.write() as session:
        assert jobs.claim(session, worker_id="w", accelerator="cpu", lease_seconds=60) is not None
        session.rollback()

    with filled.engine.connect() as connection:
        for statement, parameters in statements:
            if not statement.lstrip().startswith(("SELECT", "WITH")):
                continue
            explain = "EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) "
            (plan,) = connection.exec_driver_sql(explain + statement, parameters).one()
            for node in nodes(plan[0]["Plan"]):
                if node.get("Relation Name") == "jobs":
                    assert node["Actual Rows"] <= 1 + SMALL.running, json.dumps(node, indent=1)
        connection.rollback()


def test_no_full_scan_of_a_large_table_on_sqlite(tmp_path):
    url = f"sqlite:///{tmp_path}/growth.db"
    migrate(url, revision="0001")  # the rows are written with this schema
    database = Database(make_engine(url))
    with database.engine.begin() as connection:
        growth_rows.fill(connection, SMALL)
    migrate(url)
    with database.engine.begin() as connection:
        connection.exec_driver_sql("ANALYZE")
    for name, work in QUERIES.items():
        with record_statements(database) as statements, database.write() as session:
            work(session)
            session.rollback()
        with database.engine.connect() as connection:
            for statement, parameters in statements:
                plan = connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, parameters).all()
                # SCAN without USING INDEX is a full scan
                scans = [row[3] for row in plan if row[3].startswith(tuple(f"SCAN {table}" for table in LARGE_TABLES))]
                full_scans = [scan for scan in scans if "USING" not in scan]
                assert full_scans == [], f"{name}: {statement}\n{plan}"
    database.dispose()


def test_counts_read_a_number_of_rows_that_does_not_grow_with_the_jobs(filled):
    """At most one row for each project, status and accelerator, and those that are not merged yet."""
    with filled.read() as session:
        num_rows = session.execute(text("SELECT count(*) FROM job_counts")).scalar_one()
        counts = records.jobs_by_status(session)

    assert num_rows <= growth_rows.PROJECTS * len(counts) * 3 + job_counts.MAX_UNMERGED_ROWS
    assert sum(counts.values()) == SMALL.jobs
    assert (counts["queued"], counts["running"]) == (SMALL.queued, SMALL.running)

"""What runs often reads by an index however much there is: the plans of a PostgreSQL that is filled."""

import json
from contextlib import contextmanager

import pytest
from sqlalchemy import event, text

from benchmarks import growth_rows
from benchmarks.growth_rows import SMALL, job_id, project_id
from core.settings import Settings
from core.store import audit, checkpoints, events, idempotency, jobs, metrics, quotas, workers
from core.store.db import Database, make_engine, migrate
from core.store.jobs import LeaseToken, records

BIG = (
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
MINE = project_id(1)
RUNNING = job_id(SMALL.jobs - SMALL.queued - 1)
# Where the table is empty here, or all of it is counted, a planner is right to read it whole as long as it is small.
SMALL_HERE = {
    "checkpoints",
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
        connection.execute(text("VACUUM ANALYZE"))
    yield database
    database.dispose()


@contextmanager
def noted(database):
    """Every statement that is executed, with its values."""
    found = []

    def note(_connection, _cursor, statement, parameters, _context, many):
        if statement.lstrip().startswith(("SELECT", "WITH", "UPDATE", "DELETE")):
            found.append((statement, parameters[0] if many else parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(database.engine, "before_cursor_execute", note)


def nodes(plan):
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


def attempt_of(session):
    return LeaseToken.from_job(jobs.get(session, project_of(session), RUNNING))


def project_of(session):
    return session.execute(text("SELECT project_id FROM jobs WHERE id = :id"), {"id": RUNNING}).scalar_one()


HOT = {
    "list": lambda s: jobs.list_jobs(s, MINE),
    "next page": lambda s: jobs.list_jobs(s, MINE, after=job_id(SMALL.jobs // 2)),
    "list by status": lambda s: jobs.list_jobs(s, MINE, status="failed"),
    "claim": lambda s: jobs.claim(s, worker_id="w", accelerator="cpu", lease_seconds=60),
    "waiting": jobs.queued_accelerators,
    "claimable": jobs.count_queued,
    "expire leases": lambda s: jobs.expire_leases(s, 3),
    "beat": lambda s: jobs.renew_lease(s, attempt_of(s), 60),
    "log": lambda s: events.list_events(s, MINE, job_id(1), limit=20),
    "place in the log": lambda s: events.find_seq(s, MINE, job_id(1), "evt_x"),
    "write to the log": lambda s: events.append(s, attempt_of(s), "note", "n"),
    "log metrics": lambda s: metrics.insert(s, attempt_of(s), [("train/loss", k, 0.0) for k in range(300)]),
    "forget metrics": lambda s: metrics.delete_after(s, attempt_of(s), 100),
    "ordinary series": lambda s: metrics.read_series(s, project_id(2), job_id(2), max_points=500),
    "long series": lambda s: metrics.read_series(s, MINE, job_id(1), max_points=500),
    "checkpoints": lambda s: checkpoints.list_checkpoints(s, MINE, job_id(1)),
    "old idempotency keys": lambda s: idempotency.expire(s, 24),
    "count by status": records.jobs_by_status,
    "room for a job": lambda s: quotas.require_job_slot(s, MINE, Settings(quota_jobs=100_000, quota_stored_bytes=1)),
    "unfinished jobs": lambda s: quotas.count_unfinished(s, MINE),
    "count stored bytes": lambda s: quotas.recount(s, MINE),
    "audit log": lambda s: audit.list_entries(s, MINE),
    "audit log of an object": lambda s: audit.list_entries(s, MINE, object_id=job_id(1)),
    "audit log of a key": lambda s: audit.list_entries(s, MINE, key_id="key_x", action="job.create"),
    "old audit entries": lambda s: audit.expire(s, 365),
    "workers": lambda s: workers.list_workers(s, alive_seconds=15),
}


@pytest.mark.parametrize("name", HOT)
def test_no_big_table_is_read_from_end_to_end(filled, name):
    with noted(filled) as statements, filled.write() as session:
        HOT[name](session)
        session.rollback()
    assert statements

    with filled.engine.connect() as connection:
        connection.exec_driver_sql(f"SET LOCAL enable_seqscan = {'off' if name in SMALL_HERE else 'on'}")
        for statement, parameters in statements:
            (plan,) = connection.exec_driver_sql("EXPLAIN (FORMAT JSON) " + statement, parameters).one()
            read_whole = [
                node["Relation Name"]
                for node in nodes((plan if isinstance(plan, list) else json.loads(plan))[0]["Plan"])
                if node["Node Type"] == "Seq Scan" and node["Relation Name"] in BIG
            ]
            assert read_whole == [], f"{statement}\n{json.dumps(plan, indent=1)}"


def test_a_claim_looks_at_one_job_of_each_project(filled):
    with noted(filled) as statements, filled.write() as session:
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


def test_the_plans_hold_for_sqlite_too(sqlite_template, tmp_path):
    path = tmp_path / "growth.db"
    path.write_bytes(sqlite_template.read_bytes())
    database = Database(make_engine(f"sqlite:///{path}"))
    with database.engine.begin() as connection:
        growth_rows.fill(connection, SMALL)
        connection.exec_driver_sql("ANALYZE")
    for name, work in HOT.items():
        with noted(database) as statements, database.write() as session:
            work(session)
            session.rollback()
        with database.engine.connect() as connection:
            for statement, parameters in statements:
                plan = connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, parameters).all()
                # SCAN is of a whole table, unless it says USING INDEX
                scans = [row[3] for row in plan if row[3].startswith(tuple(f"SCAN {table}" for table in BIG))]
                whole = [scan for scan in scans if "USING" not in scan]
                assert whole == [], f"{name}: {statement}\n{plan}"
    database.dispose()

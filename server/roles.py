"""Entry point of each role of ``potstill-server``; runs in this process until SIGTERM."""

from __future__ import annotations

import os
import resource
import sys

import structlog

from core import tracing
from core.settings import Settings, load_settings
from core.system.disk import write_atomic
from server.logs import configure_logging

GRACEFUL_SECONDS = 2  # open event streams would otherwise keep the API alive

MAX_OPEN_FILES = 65_536  # each event stream is an open file; the default soft limit is 1,024

# Interpreter switch interval. Database threads compete with the event loop several times per request; with Python's
# default of 5 ms, responses took three times as long.
SWITCH_SECONDS = 0.0005

log = structlog.get_logger(__name__)


def _start_role(role: str) -> Settings:
    """Read the settings and set up the logs of a process of this role."""
    settings = load_settings()
    configure_logging(role, settings.log_level, settings.log_format)
    # Job and ingest workers fork, so they may have no thread.
    tracing.configure(role, in_background=role not in {"worker", "ingest"})
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    return settings


def serve_api(host: str, port: int) -> None:
    """Serve HTTP until SIGTERM."""
    settings = _start_role("api")
    raise_open_file_limit()
    sys.setswitchinterval(SWITCH_SECONDS)
    import uvicorn  # only in the API image

    from api.app import make_app
    from server.header_limits import HeaderLimitsProtocol

    uvicorn.run(
        make_app(settings),
        host=host,
        port=port,
        log_config=None,
        access_log=False,  # the application logs requests with their ids
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
        server_header=False,
        http=HeaderLimitsProtocol,
        ws="none",  # no WebSockets
    )


def raise_open_file_limit() -> None:
    """Raise the soft limit on open files to ``MAX_OPEN_FILES`` or the hard limit; never lower it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(MAX_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def serve_queue(queue: str, concurrency: int) -> int:
    """Serve a queue until SIGTERM and return the exit status."""
    # libgomp's threads spin while waiting, which makes a training step ten times slower on a busy machine.
    # torch reads the variable once, at import.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Pool processes fork and must be single-threaded; numpy's BLAS starts threads at import.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    settings = _start_role({"inspect": "inspector", "ingest": "ingest"}.get(queue, "worker"))
    from worker.app import serve  # imports Celery, which not every role needs
    from worker.device import detect_accelerator

    if queue == "jobs":
        queue = f"jobs.{detect_accelerator(settings)}"
    return serve(settings, queue, concurrency=concurrency)


def serve_scheduler() -> None:
    """Run the scheduler until SIGTERM."""
    settings = _start_role("scheduler")
    from worker.scheduler.scheduler import run  # imports SQLAlchemy and Celery, which not every role needs

    run(settings)


def migrate_database() -> None:
    """Migrate the database to this version's schema."""
    settings = _start_role("migrate")
    from core.store.db import migrate  # imports Alembic, which no other role needs

    migrate(settings.resolved_database_url())
    log.info("database.migrated")


def prepare_home() -> None:
    """Prepare a home folder: database schema, first project, and its key in a file of mode 0600."""
    migrate_database()
    from server.keys import create, is_valid  # requires the migrated tables

    file = load_settings().home / "api-key"
    if file.exists() and is_valid(file.read_text().strip()):
        return
    token = create(name="first key", scopes=["read", "write", "admin"], project=None)
    write_atomic(file, f"{token}\n".encode(), mode=0o600)
    log.info("key.created", file=str(file))

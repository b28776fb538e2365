"""What each command of ``potstill-server`` runs, in this process, until it is told to stop."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import structlog

from core.settings import Settings, load_settings
from server.logs import configure

GRACEFUL_SECONDS = 2  # open event streams would keep the API alive for ever

MOST_FILES = 65_536  # each event stream is an open file; the usual soft limit is 1,024

# How long a thread that queries may keep the interpreter from the event loop. Each answer needs it several times,
# and with Python's own 5 ms polling was three times slower.
SWITCH_SECONDS = 0.0005

log = structlog.get_logger(__name__)


def _begin(role: str) -> Settings:
    """Read the settings and set up the logs of a process of this role."""
    settings = load_settings()
    configure(role, settings.log_level)
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    return settings


def serve_api(host: str, port: int) -> None:
    """Serve HTTP until SIGTERM."""
    settings = _begin("api")
    allow_many_files()
    sys.setswitchinterval(SWITCH_SECONDS)
    import uvicorn  # only this role's image has them

    from api.app import create_app
    from core.broker import Broker
    from core.store.db import open_database
    from core.store.storage_url import open_store
    from server.header_limits import BoundedHeads

    app = create_app(
        settings, open_database(settings), open_store(settings.resolved_storage_url()), Broker(settings.broker_url)
    )
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,  # the application writes its own, with request ids
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
        server_header=False,
        http=BoundedHeads,
        ws="none",  # nothing here speaks it
    )


def allow_many_files() -> None:
    """Raise this process's limit on open files as far as is allowed and of use; never lower it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(MOST_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def serve_queue(queue: str, concurrency: int) -> int:
    """Serve a queue until SIGTERM; the exit status."""
    # libgomp's threads spin while they wait for each other, which on a machine that does anything else besides
    # makes a training step ten times slower. It is read once, when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # A pool's process forks, so it must have one thread, and numpy's BLAS starts its own at the import.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    settings = _begin({"inspect": "inspector", "ingest": "ingest"}.get(queue, "worker"))
    from worker.app import serve  # Celery, which not every role needs
    from worker.device import accelerator_of

    if queue == "jobs":
        queue = f"jobs.{accelerator_of(settings)}"
    return serve(settings, queue, concurrency=concurrency)


def serve_scheduler() -> None:
    """Run the scheduler's rounds until SIGTERM."""
    settings = _begin("scheduler")
    from worker.scheduler.scheduler import run  # SQLAlchemy and Celery, which not every role needs

    run(settings)


def migrate_database() -> None:
    """Bring the database to this version's schema."""
    settings = _begin("migrate")
    from core.store.db import migrate  # Alembic, which no other role needs

    migrate(settings.resolved_database_url())
    log.info("database.migrated")


def prepare_home() -> None:
    """Make the folder of a stack ready: the schema, the first project and its key, in a file of mode 0600."""
    migrate_database()
    from server.keys import create, is_valid  # after the migration: they need its tables

    file = load_settings().home / "api-key"
    if file.exists() and is_valid(file.read_text().strip()):
        return
    _write_secret(file, create(name="first key", scopes=["read", "write", "admin"], project=None))
    log.info("key.created", file=str(file))


def _write_secret(file: Path, text: str) -> None:
    """Write a file that nobody else may read, whole or not at all."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(text + "\n")
    beside.replace(file)

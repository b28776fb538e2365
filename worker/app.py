"""The Celery app of every worker."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import socket
import warnings
from typing import Any

import structlog
from celery import Celery, signals
from celery.exceptions import SecurityWarning

from core.broker import INGEST_QUEUE, INSPECT_QUEUE, JOB_QUEUES, WAKE_EXPIRES_SECONDS
from core.settings import Settings
from worker.context import init_context
from worker.heartbeat import Heartbeat
from worker.process.shared_flags import DRAIN, READY

log = structlog.get_logger(__name__)

_MONTH = 30 * 24 * 3600

# The module that a pool's process imports before it takes work. The parent never imports it and stays small; a fork of
# a process that ran a tensor operation would inherit OpenMP's locks without its threads.
PRELOAD = {INSPECT_QUEUE: "worker.inspector", INGEST_QUEUE: "worker.ingest.child"} | dict.fromkeys(
    JOB_QUEUES.values(), "worker.jobs.child"
)


def make_app(settings: Settings) -> Celery:
    """Create the app, without a connection."""
    app = Celery("potstill", broker=settings.broker_url, backend=settings.broker_url, include=["worker.tasks"])
    app.conf.update(
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        result_accept_content=["json"],
        # A message only wakes a worker and the claim decides, so redelivery is harmless and useless.
        task_acks_late=True,
        task_reject_on_worker_lost=False,
        worker_prefetch_multiplier=1,
        worker_enable_prefetch_count_reduction=False,
        broker_transport_options={
            "visibility_timeout": _MONTH,
            "socket_connect_timeout": 2.0,
            "socket_timeout": 15.0,  # longer than the blocking pop of the transport
            "socket_keepalive": True,
        },
        # A job continues through a restart of the broker.
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        task_ignore_result=True,
        result_expires=int(WAKE_EXPIRES_SECONDS),
        redis_socket_connect_timeout=1.0,
        redis_socket_timeout=2.0,
        result_backend_transport_options={"retry_policy": {"max_retries": 1, "interval_start": 0.1}},
        # The pool's process imports torch before it reports that it is up; Celery's default is 4 seconds.
        worker_proc_alive_timeout=180.0,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        enable_utc=True,
    )
    app.steps["worker"].add(Heartbeat)
    return app


def serve(settings: Settings, queue: str, *, concurrency: int = 1) -> int:
    """Serve one queue in this process and its pool until a signal; return the exit status."""
    # Celery warns against pickle as root; this app accepts only JSON.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    app = make_app(settings)
    init_context(settings, queue)
    _connect_signals(queue)
    worker = app.Worker(
        queues=[queue],
        concurrency=concurrency,
        pool="prefork",
        hostname=f"{queue}@{socket.gethostname()}-{os.getpid()}",
        loglevel="WARNING",
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    # Exclude the imported modules from later collections, so that the pool's processes keep sharing their memory.
    gc.collect()
    gc.freeze()
    worker.start()
    return int(worker.exitcode or 0)


def _connect_signals(queue: str) -> None:
    def keep_logging(**_: Any) -> None:
        """Replace Celery's logging setup: the process has configured its logging."""

    def drain(**_: Any) -> None:
        DRAIN.set(1)

    def warm_up(**_: Any) -> None:
        # A SIGTERM to the process group must not kill a process that saves; billiard's reset keeps SIG_IGN.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        READY.set(0)
        importlib.import_module(PRELOAD[queue]).warm_up()
        gc.collect()
        gc.freeze()  # as in the parent: jobs are forked from this process
        READY.set(1)
        log.info("worker.ready", queue=queue, pid=os.getpid())

    signals.setup_logging.connect(keep_logging, weak=False)
    signals.worker_shutting_down.connect(drain, weak=False)
    signals.worker_process_init.connect(warm_up, weak=False)

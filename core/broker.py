"""Waking workers up and asking the inspector, over the broker; free of torch.

The database is the truth and the broker only wakes: every message here is a hint, so sending one is
best effort and never raises. A question to the inspector is the exception: somebody waits for its
answer, and is told by :class:`InspectorGone` or :class:`InspectorBusy` that none will come.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

import redis
import redis.asyncio
import structlog
from celery import Celery
from kombu.exceptions import OperationalError
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from core.errors import Unavailable, restore_error

if TYPE_CHECKING:
    from redis.asyncio.client import PubSub

Accelerator = Literal["auto", "cpu", "cuda"]
InspectorCall = Literal["ping", "resolve", "architectures"]

JOBS_WAKE = "jobs.wake"
DATASETS_WAKE = "datasets.wake"
MODELS_WAKE = "models.wake"
INSPECT_PREFIX = "inspect."

JOB_QUEUES = {"cpu": "jobs.cpu", "cuda": "jobs.cuda"}
INGEST_QUEUE = "ingest"
INSPECT_QUEUE = "inspect"
QUEUES = (*JOB_QUEUES.values(), INGEST_QUEUE, INSPECT_QUEUE)

CONNECT_SECONDS = 0.5  # a broker on the same network answers in milliseconds
SOCKET_SECONDS = 1.0
AWAY_SECONDS = 1.0  # after a failure, hints are dropped for so long instead of each one waiting
MAX_HINTS = 64  # in one queue; whoever takes one claims the best row, so more of them say nothing new
HINT_EXPIRES_SECONDS = 600.0
ALIVE_SECONDS = 4.0  # a queue without a sign of life for so long has no worker
_REPLY_SLICE_SECONDS = 1.0

log = structlog.get_logger(__name__)


class InspectorUnavailable(Unavailable):
    """No inspector is alive, or the broker cannot be reached: the question was not asked."""

    code = "inspector_gone"


class InspectorTimeout(Unavailable):
    """The inspector did not answer in time."""

    code = "inspector_busy"


def job_channel(job_id: str) -> str:
    """The pub/sub channel that says that something about a job has changed."""
    return f"potstill:job:{job_id}"


ALL_JOB_CHANNELS = job_channel("*")  # a pattern, for one subscription to all of them


def alive_key(queue: str) -> str:
    """The key that exists while a worker of this queue is alive (it expires after ``ALIVE_SECONDS``)."""
    return f"potstill:alive:{queue}"


class Broker:
    """The broker as the API, the scheduler and the workers use it. Thread-safe; makes no connection by itself."""

    def __init__(self, broker_url: str) -> None:
        self._url = broker_url
        self._app = _sender(broker_url)
        self._redis = redis.Redis.from_url(
            broker_url,
            socket_timeout=SOCKET_SECONDS,
            socket_connect_timeout=CONNECT_SECONDS,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )
        self._away_until = 0.0
        self._lock = threading.Lock()
        self._waiting: tuple[asyncio.AbstractEventLoop, redis.asyncio.Redis] | None = None

    # --- hints: best effort, never raise -------------------------------------------------------

    def wake_job_workers(self, accelerator: str = "auto") -> None:
        """Say that a job for this accelerator (``cpu``, ``cuda``, ``auto``) may be claimable."""
        self._best_effort(lambda: self._look_for_jobs(accelerator))

    def wake_dataset_workers(self) -> None:
        """Say that a dataset waits to be ingested."""
        self._best_effort(lambda: self._hint(DATASETS_WAKE, INGEST_QUEUE))

    def wake_model_workers(self) -> None:
        """Say that an uploaded model waits to be checked."""
        self._best_effort(lambda: self._hint(MODELS_WAKE, INGEST_QUEUE))

    def publish_job_change(self, job_id: str) -> None:
        """Wake whoever follows this job; what changed is in the database."""
        self._best_effort(lambda: self._redis.publish(job_channel(job_id), "changed"))

    def alive(self, queue: str) -> None:
        """Say that a worker of this queue lives (for the next ``ALIVE_SECONDS``)."""
        self._best_effort(lambda: self._redis.set(alive_key(queue), "1", px=int(ALIVE_SECONDS * 1000)))

    def not_alive(self, queue: str) -> None:
        """Say that a worker of this queue ends; another one that lives says otherwise within a second."""
        self._best_effort(lambda: self._redis.delete(alive_key(queue)))

    # --- looking -------------------------------------------------------------------------------

    def queue_lengths(self) -> dict[str, int] | None:
        """Messages that wait in each queue, or None where the broker cannot be reached."""
        try:
            with self._redis.pipeline(transaction=False) as pipe:
                for queue in QUEUES:
                    pipe.llen(queue)
                return dict(zip(QUEUES, pipe.execute(), strict=True))
        except RedisError:
            return None

    def is_alive(self, queue: str) -> bool:
        """Whether a worker of this queue gave a sign of life lately."""
        try:
            return bool(self._redis.exists(alive_key(queue)))
        except RedisError:
            return False

    def reachable(self) -> bool:
        """Whether the broker answers."""
        try:
            return bool(self._redis.ping())
        except RedisError:
            return False

    # --- questions -----------------------------------------------------------------------------

    async def ask_inspector(
        self,
        question: InspectorCall,
        payload: dict[str, Any] | None = None,
        timeout: float = 10.0,  # noqa: ASYNC109 - of the question, which outlives a cancelled wait
    ) -> dict[str, Any]:
        """Ask and wait for at most about ``timeout`` seconds; holds no thread while it waits.

        ========================  ==================================================  ===========================
        question                  payload                                             answer
        ========================  ==================================================  ===========================
        ``ping``                  ``{}``                                              ``torch``, ``timm`` (versions)
        ``resolve``               ``spec`` (JSON), ``dataset`` (DatasetFacts),        ``spec`` (resolved),
                                  ``datasets`` (id -> DatasetFacts, others),          ``estimate``
                                  ``models`` (id -> ModelFacts), ``threads``
        ``architectures``         ``search`` (text or null), ``limit``                ``data`` (list)
        ========================  ==================================================  ===========================

        Raises :class:`InspectorGone` (soon) where nobody is there to answer, :class:`InspectorBusy` where the
        answer did not come in time, and the very error that the inspector found, e.g. ``InvalidSpec``.
        """
        task_id = str(uuid4())
        client = self._async_redis()
        try:
            if not await client.exists(alive_key(INSPECT_QUEUE)):
                raise InspectorUnavailable(
                    "No inspector is alive; start one (`potstill-server inspector`) or try again soon."
                )
            async with client.pubsub() as replies:
                await _subscribe(replies, f"celery-task-meta-{task_id}")
                await asyncio.to_thread(self._ask, question, payload or {}, task_id, timeout)
                meta = await _reply(client, replies, timeout)
            await client.delete(f"celery-task-meta-{task_id}")
        except (RedisError, OperationalError, OSError) as error:
            raise InspectorUnavailable("The broker cannot be reached, so the inspector cannot be asked.") from error
        return _answer(meta)

    async def aclose(self) -> None:
        """Close what ``ask_inspector`` opened; call it in the loop that asked."""
        if self._waiting is not None:
            _, client = self._waiting
            self._waiting = None
            await client.aclose()

    def close(self) -> None:
        """Close the connections of the blocking part."""
        self._redis.close()
        self._app.close()

    # --- inside --------------------------------------------------------------------------------

    def _best_effort(self, action: Any) -> None:
        if time.monotonic() < self._away_until:
            return
        try:
            action()
        except (RedisError, OperationalError, OSError) as error:
            self._away_until = time.monotonic() + AWAY_SECONDS
            log.warning("broker.away", error=str(error))

    def _look_for_jobs(self, accelerator: str) -> None:
        if accelerator in JOB_QUEUES:
            self._hint(JOBS_WAKE, JOB_QUEUES[accelerator])
            return
        alive = [queue for queue in JOB_QUEUES.values() if self._redis.exists(alive_key(queue))]
        for queue in alive or [JOB_QUEUES["cpu"]]:
            self._hint(JOBS_WAKE, queue)

    def _hint(self, task: str, queue: str) -> None:
        if self._redis.llen(queue) >= MAX_HINTS:
            return
        with self._lock:  # one connection for all threads: hints are short and rare
            self._app.send_task(
                task, queue=queue, retry=False, expires=HINT_EXPIRES_SECONDS, ignore_result=True, serializer="json"
            )

    def _ask(self, question: InspectorCall, payload: dict[str, Any], task_id: str, timeout: float) -> None:
        # The limits are below the asker's patience, so that a mad question never blocks the queue for the next one.
        with self._lock:
            self._app.send_task(
                INSPECT_PREFIX + question,
                args=[payload],
                queue=INSPECT_QUEUE,
                task_id=task_id,
                retry=False,
                expires=timeout,
                soft_time_limit=timeout * 0.7,
                time_limit=timeout * 0.9,
                serializer="json",
            )

    def _async_redis(self) -> redis.asyncio.Redis:
        loop = asyncio.get_running_loop()
        if self._waiting is None or self._waiting[0] is not loop:
            client = redis.asyncio.Redis.from_url(
                self._url,
                socket_timeout=SOCKET_SECONDS,
                socket_connect_timeout=CONNECT_SECONDS,
                retry=AsyncRetry(NoBackoff(), 0),
                decode_responses=True,
            )
            self._waiting = (loop, client)
        return self._waiting[1]


def _sender(broker_url: str) -> Celery:
    """A Celery app that only sends; the workers' own is in ``worker.app``."""
    app = Celery("potstill-sender", broker=broker_url, backend=None, set_as_current=False)
    app.conf.update(
        broker_transport_options={
            "socket_timeout": SOCKET_SECONDS,
            "socket_connect_timeout": CONNECT_SECONDS,
            "retry_on_timeout": False,
            # kombu's own loop for a first connection has no end without this
            "max_retries": 0,
        },
        broker_connection_timeout=CONNECT_SECONDS,
        task_create_missing_queues=True,
        task_publish_retry=False,
        broker_pool_limit=1,
    )
    return app


async def _subscribe(replies: PubSub, channel: str) -> None:
    """Subscribe and wait until the server has said so: an answer may come at once."""
    await replies.subscribe(channel)
    while (message := await replies.get_message(timeout=SOCKET_SECONDS)) is not None:
        if message["type"] == "subscribe":
            return
    raise redis.exceptions.TimeoutError("no answer to SUBSCRIBE")


async def _reply(client: redis.asyncio.Redis, replies: PubSub, patience: float) -> dict[str, Any]:
    ends = time.monotonic() + patience
    while (left := ends - time.monotonic()) > 0:
        message = await replies.get_message(ignore_subscribe_messages=True, timeout=min(left, _REPLY_SLICE_SECONDS))
        if message is not None:
            return dict(json.loads(message["data"]))
        if not await client.exists(alive_key(INSPECT_QUEUE)):
            raise InspectorUnavailable("The inspector went away before it answered; try again soon.")
    raise InspectorTimeout(f"The inspector did not answer within {patience:g} s; try again soon.")


def _answer(meta: dict[str, Any]) -> dict[str, Any]:
    if meta["status"] != "SUCCESS":
        kind = (meta.get("result") or {}).get("exc_type", meta["status"])
        raise InspectorTimeout(f"The inspector could not answer ({kind}); simplify the request or try again soon.")
    answer: dict[str, Any] = meta["result"]
    if "error" in answer:
        raise restore_error(answer["error"])
    return dict(answer["ok"])

"""The broker: wakes workers and calls the inspector. It imports no torch.

The database holds the state, and messages only wake workers: they are best effort, and sending one never raises.
Inspector calls are the exception: their callers wait for a response, so they raise :class:`InspectorUnavailable` or
:class:`InspectorTimeout`.
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

from core import tracing
from core.errors import Unavailable, restore_error

if TYPE_CHECKING:
    from redis.asyncio.client import PubSub

Accelerator = Literal["auto", "cpu", "cuda"]
InspectorCall = Literal["ping", "resolve", "resolve_many", "architectures", "architecture", "predict"]

JOBS_WAKE = "jobs.wake"
DATASETS_WAKE = "datasets.wake"
MODELS_WAKE = "models.wake"
INSPECT_PREFIX = "inspect."

JOB_QUEUES = {"cpu": "jobs.cpu", "cuda": "jobs.cuda"}
INGEST_QUEUE = "ingest"
INSPECT_QUEUE = "inspect"
QUEUES = (*JOB_QUEUES.values(), INGEST_QUEUE, INSPECT_QUEUE)

CONNECT_SECONDS = 0.5  # a broker on the same network responds in milliseconds
SOCKET_SECONDS = 1.0
BACKOFF_SECONDS = 1.0  # after a failure, messages are dropped for this time instead of each waiting for a timeout
MAX_WAKE_MESSAGES = 64  # in one queue; each makes a worker claim the next row, so more have no effect
WAKE_EXPIRES_SECONDS = 600.0
ALIVE_SECONDS = 4.0  # a queue without a heartbeat for this time has no worker
_REPLY_POLL_SECONDS = 1.0

log = structlog.get_logger(__name__)


class InspectorUnavailable(Unavailable):
    """No inspector is alive, or the broker cannot be reached: the call was not sent."""

    code = "inspector_gone"


class InspectorTimeout(Unavailable):
    """The inspector did not respond in time."""

    code = "inspector_busy"


def job_channel(job_id: str) -> str:
    """Return the pub/sub channel for changes of a job."""
    return f"potstill:job:{job_id}"


ALL_JOB_CHANNELS = job_channel("*")  # a pattern that matches all of them


def alive_key(queue: str) -> str:
    """Return the key that exists while a worker of this queue is alive (it expires after ``ALIVE_SECONDS``)."""
    return f"potstill:alive:{queue}"


class Broker:
    """Client of the broker for the API, the scheduler and the workers. Thread-safe; connects on first use."""

    def __init__(self, broker_url: str) -> None:
        self._url = broker_url
        self._app = _make_sender(broker_url)
        self._redis = redis.Redis.from_url(
            broker_url,
            socket_timeout=SOCKET_SECONDS,
            socket_connect_timeout=CONNECT_SECONDS,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )
        self._retry_at = 0.0
        self._lock = threading.Lock()
        self._async_client: tuple[asyncio.AbstractEventLoop, redis.asyncio.Redis] | None = None

    # --- messages: best effort, never raise ----------------------------------------------------

    def wake_job_workers(self, accelerator: str = "auto") -> None:
        """Wake a worker for a claimable job of this accelerator (``cpu``, ``cuda``, ``auto``)."""
        self._best_effort(lambda: self._wake_jobs(accelerator))

    def wake_dataset_workers(self) -> None:
        """Wake a worker for a dataset that waits for its ingest."""
        self._best_effort(lambda: self._send_wake(DATASETS_WAKE, INGEST_QUEUE))

    def wake_model_workers(self) -> None:
        """Wake a worker for an uploaded model that waits for its check."""
        self._best_effort(lambda: self._send_wake(MODELS_WAKE, INGEST_QUEUE))

    def publish_job_change(self, job_id: str) -> None:
        """Notify the subscribers of this job; the change itself is in the database."""
        self._best_effort(lambda: self._redis.publish(job_channel(job_id), "changed"))

    def mark_alive(self, queue: str) -> None:
        """Record that a worker of this queue is alive for the next ``ALIVE_SECONDS``."""
        self._best_effort(lambda: self._redis.set(alive_key(queue), "1", px=int(ALIVE_SECONDS * 1000)))

    def mark_stopped(self, queue: str) -> None:
        """Record that a worker of this queue stops. Another worker of the queue marks it alive within a second."""
        self._best_effort(lambda: self._redis.delete(alive_key(queue)))

    # --- state ---------------------------------------------------------------------------------

    def queue_lengths(self) -> dict[str, int] | None:
        """Return the number of messages in each queue, or None if the broker cannot be reached."""
        try:
            with self._redis.pipeline(transaction=False) as pipe:
                for queue in QUEUES:
                    pipe.llen(queue)
                return dict(zip(QUEUES, pipe.execute(), strict=True))
        except RedisError:
            return None

    def is_alive(self, queue: str) -> bool:
        """Whether a worker of this queue is alive."""
        try:
            return bool(self._redis.exists(alive_key(queue)))
        except RedisError:
            return False

    def is_reachable(self) -> bool:
        """Whether the broker responds."""
        try:
            return bool(self._redis.ping())
        except RedisError:
            return False

    # --- inspector calls -----------------------------------------------------------------------

    async def call_inspector(
        self,
        call: InspectorCall,
        payload: dict[str, Any] | None = None,
        timeout: float = 10.0,  # noqa: ASYNC109 - of the call, which outlives a cancelled wait
    ) -> dict[str, Any]:
        """Call the inspector and wait up to about ``timeout`` seconds for the response, without blocking a thread.

        ========================  ==================================================  ===========================
        call                      payload                                             response
        ========================  ==================================================  ===========================
        ``ping``                  ``{}``                                              ``torch``, ``timm`` (versions)
        ``resolve``               ``spec`` (JSON), ``dataset`` (DatasetInfo),         ``spec`` (resolved),
                                  ``datasets`` (id -> DatasetInfo, others),          ``estimate``
                                  ``models`` (id -> ModelInfo), ``threads``
        ``resolve_many``          ``requests`` (payloads of ``resolve``)              ``responses`` (``ok`` or
                                                                                      ``error``), of the first
                                                                                      requests: at least one
        ``architectures``         ``search`` (text or null), ``limit``                ``data`` (list)
        ``architecture``          ``name``                                            ``name`` (timm's)
        ``predict``               ``image`` (base64), ``student`` and ``teachers``    ``width``, ``height``,
                                  (stored files)                                      ``student``, ``teachers``
        ========================  ==================================================  ===========================

        Raises :class:`InspectorUnavailable` at once if no inspector is alive, :class:`InspectorTimeout` if the response
        does not come in time, or the error that the inspector raised, e.g. ``InvalidSpec``.
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
                await asyncio.to_thread(self._send_call, call, payload or {}, task_id, timeout)
                meta = await _read_reply(client, replies, timeout)
            await client.delete(f"celery-task-meta-{task_id}")
        except (RedisError, OperationalError, OSError) as error:
            raise InspectorUnavailable("The broker cannot be reached, so the inspector cannot be called.") from error
        return _parse_reply(meta)

    async def aclose(self) -> None:
        """Close the connections of ``call_inspector``; await it in the same event loop."""
        if self._async_client is not None:
            _, client = self._async_client
            self._async_client = None
            await client.aclose()

    def close(self) -> None:
        """Close the connections of the blocking methods."""
        self._redis.close()
        self._app.close()

    def _best_effort(self, action: Any) -> None:
        if time.monotonic() < self._retry_at:
            return
        try:
            action()
        except (RedisError, OperationalError, OSError) as error:
            self._retry_at = time.monotonic() + BACKOFF_SECONDS
            log.warning("broker.unavailable", error=str(error))

    def _wake_jobs(self, accelerator: str) -> None:
        if accelerator in JOB_QUEUES:
            self._send_wake(JOBS_WAKE, JOB_QUEUES[accelerator])
            return
        alive = [queue for queue in JOB_QUEUES.values() if self._redis.exists(alive_key(queue))]
        for queue in alive or [JOB_QUEUES["cpu"]]:
            self._send_wake(JOBS_WAKE, queue)

    def _send_wake(self, task: str, queue: str) -> None:
        if self._redis.llen(queue) >= MAX_WAKE_MESSAGES:
            return
        with self._lock:  # one connection for all threads: messages are short and rare
            self._app.send_task(
                task, queue=queue, retry=False, expires=WAKE_EXPIRES_SECONDS, ignore_result=True, serializer="json"
            )

    def _send_call(self, call: InspectorCall, payload: dict[str, Any], task_id: str, timeout: float) -> None:
        # The limits are below the caller's timeout, so that a call that never ends does not block the next one.
        with self._lock:
            self._app.send_task(
                INSPECT_PREFIX + call,
                args=[payload],
                queue=INSPECT_QUEUE,
                task_id=task_id,
                retry=False,
                expires=timeout,
                soft_time_limit=timeout * 0.7,
                time_limit=timeout * 0.9,
                headers={tracing.TRACEPARENT: parent} if (parent := tracing.current_traceparent()) else None,
                serializer="json",
            )

    def _async_redis(self) -> redis.asyncio.Redis:
        loop = asyncio.get_running_loop()
        if self._async_client is None or self._async_client[0] is not loop:
            client = redis.asyncio.Redis.from_url(
                self._url,
                socket_timeout=SOCKET_SECONDS,
                socket_connect_timeout=CONNECT_SECONDS,
                retry=AsyncRetry(NoBackoff(), 0),
                decode_responses=True,
            )
            self._async_client = (loop, client)
        return self._async_client[1]


def _make_sender(broker_url: str) -> Celery:
    """Create a Celery app that only sends messages; ``worker.app`` has the app of the workers."""
    app = Celery("potstill-sender", broker=broker_url, backend=None, set_as_current=False)
    app.conf.update(
        broker_transport_options={
            "socket_timeout": SOCKET_SECONDS,
            "socket_connect_timeout": CONNECT_SECONDS,
            "retry_on_timeout": False,
            # without this kombu retries the first connection forever
            "max_retries": 0,
        },
        broker_connection_timeout=CONNECT_SECONDS,
        task_create_missing_queues=True,
        task_publish_retry=False,
        broker_pool_limit=1,
    )
    return app


async def _subscribe(replies: PubSub, channel: str) -> None:
    """Subscribe and wait for the server's confirmation: the response may come at once."""
    await replies.subscribe(channel)
    while (message := await replies.get_message(timeout=SOCKET_SECONDS)) is not None:
        if message["type"] == "subscribe":
            return
    raise redis.exceptions.TimeoutError("no response to SUBSCRIBE")


async def _read_reply(client: redis.asyncio.Redis, replies: PubSub, timeout_seconds: float) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_seconds
    while (remaining := deadline - time.monotonic()) > 0:
        message = await replies.get_message(ignore_subscribe_messages=True, timeout=min(remaining, _REPLY_POLL_SECONDS))
        if message is not None:
            return dict(json.loads(message["data"]))
        if not await client.exists(alive_key(INSPECT_QUEUE)):
            raise InspectorUnavailable("The inspector stopped before it responded; try again soon.")
    raise InspectorTimeout(f"The inspector did not respond within {timeout_seconds:g} s; try again soon.")


def _parse_reply(meta: dict[str, Any]) -> dict[str, Any]:
    if meta["status"] != "SUCCESS":
        kind = (meta.get("result") or {}).get("exc_type", meta["status"])
        raise InspectorTimeout(f"The inspector could not respond ({kind}); simplify the request or try again soon.")
    response: dict[str, Any] = meta["result"]
    if "error" in response:
        raise restore_error(response["error"])
    return dict(response["ok"])

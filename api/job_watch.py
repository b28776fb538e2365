"""Job change notifications for waiting requests: one pub/sub connection for all, and no thread per request.

A message only says that a job has changed; the change itself is in the database. So a lost message delays a request
by at most :data:`RECHECK_SECONDS` and never loses an event.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import redis.asyncio
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from core.broker import ALL_JOB_CHANNELS, job_channel

RECHECK_SECONDS = 5.0  # while the broker is connected
DISCONNECTED_RECHECK_SECONDS = 1.0
_RECONNECT_SECONDS = 1.0
_LISTEN_SECONDS = 10.0
_CONNECT_TIMEOUT_SECONDS = 1.0

Result = TypeVar("Result")

log = structlog.get_logger(__name__)


class JobWatcher:
    """Wakes requests that wait for a job. ``run`` is a task for the life of the app, in the same event loop."""

    def __init__(self, broker_url: str) -> None:
        self._url = broker_url
        self._events: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._reads: dict[Hashable, asyncio.Future[Any]] = {}
        self._is_connected = False

    async def run(self) -> None:
        """Listen forever, and reconnect after an error."""
        prefix = job_channel("")
        while True:
            client = redis.asyncio.Redis.from_url(
                self._url,
                socket_timeout=None,
                socket_connect_timeout=_CONNECT_TIMEOUT_SECONDS,
                health_check_interval=15,
                retry=Retry(NoBackoff(), 0),
                decode_responses=True,
            )
            try:
                async with client, client.pubsub() as channel:
                    await channel.psubscribe(ALL_JOB_CHANNELS)
                    self._is_connected = True
                    self._wake_all()  # messages may have been missed while disconnected
                    while True:
                        message = await channel.get_message(ignore_subscribe_messages=True, timeout=_LISTEN_SECONDS)
                        if message is not None:
                            self._wake(str(message["channel"]).removeprefix(prefix))
            except (RedisError, OSError) as error:
                if self._is_connected:
                    log.warning("broker.disconnected", error=str(error))
            finally:
                self._is_connected = False
            await asyncio.sleep(_RECONNECT_SECONDS)

    @property
    def recheck_seconds(self) -> float:
        """Interval at which waiting requests read the database without a message."""
        return RECHECK_SECONDS if self._is_connected else DISCONNECTED_RECHECK_SECONDS

    @contextmanager
    def watch(self, job_id: str) -> Iterator[asyncio.Event]:
        """Yield an event that is set whenever the job may have changed."""
        event = asyncio.Event()
        self._events[job_id].add(event)
        try:
            yield event
        finally:
            self._events[job_id].discard(event)
            if not self._events[job_id]:
                del self._events[job_id]

    async def wait_for_change(self, event: asyncio.Event, seconds: float) -> None:
        """Return when ``event`` is set, after ``seconds``, or when the database should be read again."""
        with suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), min(seconds, self.recheck_seconds))

    async def coalesce(self, key: Hashable, read: Callable[[], Result]) -> Result:
        """Run ``read`` in a thread; concurrent calls with the same key share one run and its result.

        A call never shares a run that started before the call: that run may have missed the change that woke it.
        """
        future = self._reads.get(key)
        if future is not None:
            await asyncio.wait([future])
            future = self._reads.get(key)
        if future is None:
            future = asyncio.ensure_future(asyncio.to_thread(read))
            self._reads[key] = future
            future.add_done_callback(lambda done: self._forget(key, done))
        result: Result = await asyncio.shield(future)
        return result

    def _forget(self, key: Hashable, future: asyncio.Future[Any]) -> None:
        if self._reads.get(key) is future:
            del self._reads[key]
        if not future.cancelled():
            future.exception()  # marks the exception as retrieved even if all callers have gone

    def _wake(self, job_id: str) -> None:
        for event in self._events.get(job_id, ()):
            event.set()

    def _wake_all(self) -> None:
        for job_id in list(self._events):
            self._wake(job_id)

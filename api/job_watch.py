"""News of jobs for whoever waits: one pub/sub connection for all of them, and no thread held while they wait.

A message says only that something about a job has changed; the database says what. So a lost message
costs a little time (:data:`RECHECK_SECONDS`) and never an event.
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

RECHECK_SECONDS = 5.0  # while the broker is there
BLIND_RECHECK_SECONDS = 1.0  # while it is away
_RECONNECT_SECONDS = 1.0
_LISTEN_SECONDS = 10.0
_CONNECT_SECONDS = 1.0

Found = TypeVar("Found")

log = structlog.get_logger(__name__)


class JobWatcher:
    """Wakes the waiting. ``run`` is a task for the life of the app; all else is called in the same loop."""

    def __init__(self, broker_url: str) -> None:
        self._url = broker_url
        self._watchers: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._flights: dict[Hashable, asyncio.Future[Any]] = {}
        self._listening = False

    async def run(self) -> None:
        """Listen for ever; a connection that breaks is made again."""
        prefix = job_channel("")
        while True:
            client = redis.asyncio.Redis.from_url(
                self._url,
                socket_timeout=None,
                socket_connect_timeout=_CONNECT_SECONDS,
                health_check_interval=15,
                retry=Retry(NoBackoff(), 0),
                decode_responses=True,
            )
            try:
                async with client, client.pubsub() as channel:
                    await channel.psubscribe(ALL_JOB_CHANNELS)
                    self._listening = True
                    self._wake_all()  # something may have happened while nobody listened
                    while True:
                        message = await channel.get_message(ignore_subscribe_messages=True, timeout=_LISTEN_SECONDS)
                        if message is not None:
                            self._wake(str(message["channel"]).removeprefix(prefix))
            except (RedisError, OSError) as error:
                if self._listening:
                    log.warning("broker.away", error=str(error))
            finally:
                self._listening = False
            await asyncio.sleep(_RECONNECT_SECONDS)

    @property
    def recheck_seconds(self) -> float:
        """After how long to look without news."""
        return RECHECK_SECONDS if self._listening else BLIND_RECHECK_SECONDS

    @contextmanager
    def watch(self, job_id: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever something about the job may have changed."""
        event = asyncio.Event()
        self._watchers[job_id].add(event)
        try:
            yield event
        finally:
            self._watchers[job_id].discard(event)
            if not self._watchers[job_id]:
                del self._watchers[job_id]

    async def news(self, event: asyncio.Event, seconds: float) -> None:
        """Return at news, or when it is time to look without."""
        with suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), min(seconds, self.recheck_seconds))

    async def coalesce(self, key: Hashable, look: Callable[[], Found]) -> Found:
        """What ``look`` finds, in a thread; those who ask the same at the same time share one look.

        Nobody shares a look that began before they asked: it may have missed the very news that woke them.
        """
        flight = self._flights.get(key)
        if flight is not None:
            await asyncio.wait([flight])
            flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.ensure_future(asyncio.to_thread(look))
            self._flights[key] = flight
            flight.add_done_callback(lambda done: self._landed(key, done))
        found: Found = await asyncio.shield(flight)
        return found

    def _landed(self, key: Hashable, flight: asyncio.Future[Any]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        if not flight.cancelled():
            flight.exception()  # whoever asked may have left; then nobody else takes note of it

    def _wake(self, job_id: str) -> None:
        for event in self._watchers.get(job_id, ()):
            event.set()

    def _wake_all(self) -> None:
        for job_id in list(self._watchers):
            self._wake(job_id)

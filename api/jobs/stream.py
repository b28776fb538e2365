"""Waiting for a job without holding a thread: the event stream and the long poll."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

from api.job_watch import JobWatcher
from api.jobs.schemas import EventOut
from api.jobs.service import event_out
from core.errors import NotAuthenticated, NotFound
from core.store import events, jobs
from core.store.db import Database, DatabaseUnavailable
from core.store.keys import Caller
from core.store.tables import Event, Job

PING_SECONDS = 15.0  # well below the patience of proxies
RETRY_MILLISECONDS = 2000
_BATCH = 200

HEADERS = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would hold events back
}


@dataclass(frozen=True, slots=True)
class EventBatch:
    """What there is after a place in a job's log, as it is sent, up to which `seq`, and whether it is the end of it."""

    messages: bytes
    last_seq: int
    ended: bool


def look(database: Database, who: Caller, job_id: str, after_seq: int) -> EventBatch:
    """Read the log from a place on.

    The messages are written here, once for all who follow the job from this place with this key. Raises
    ``NotFound`` where the job is gone, and ``NotAuthenticated`` where the key is not good any more.
    """
    with database.read() as session:
        job = jobs.get_for(session, who, job_id)
        page = events.list_events(session, who.project_id, job_id, after_seq=after_seq, limit=_BATCH)
        # The job was read first: what it says of its last event is true of this page or of a later one.
        last = page.items[-1].seq if page.items else after_seq
        messages = b"".join(map(_message, page.items))
        return EventBatch(messages, last, ended=job.terminal and last >= job.last_seq)


async def event_stream(
    live: JobWatcher, database: Database, who: Caller, job_id: str, *, after_seq: int
) -> AsyncIterator[bytes]:
    """The log as server-sent events, from a place on, live until the job has ended, or the key is not good any more.

    Then, as where the job was deleted, the stream ends: whoever comes back is told why. The database may be away
    meanwhile.
    """
    yield b"retry: %d\n\n" % RETRY_MILLISECONDS
    with live.watch(job_id) as changed:
        pinged_at = time.monotonic()
        while True:
            changed.clear()  # before looking: what happens meanwhile sets it again
            read = partial(look, database, who, job_id, after_seq)
            try:
                news = await live.coalesce(("events", who.key_id, job_id, after_seq), read)
            except DatabaseUnavailable:  # it comes back, and whoever connects anew meanwhile is only told to wait
                news = EventBatch(b"", after_seq, ended=False)
            except (NotAuthenticated, NotFound):
                return
            if news.messages:
                yield news.messages
                after_seq = news.last_seq
                pinged_at = time.monotonic()
            if news.ended:
                return
            if news.messages:
                continue
            if time.monotonic() - pinged_at >= PING_SECONDS:
                yield b": still here\n\n"
                pinged_at = time.monotonic()
            await live.news(changed, PING_SECONDS)


async def wait_until_terminal(live: JobWatcher, database: Database, who: Caller, job_id: str, *, seconds: float) -> Job:
    """The job once it is terminal, or as it is after so many seconds; the key is looked at each time.

    Raises ``NotFound``, and ``NotAuthenticated`` where the key is not good any more.
    """

    def find() -> Job:
        with database.read() as session:
            return jobs.get_for(session, who, job_id)

    ends = time.monotonic() + seconds
    with live.watch(job_id) as changed:
        while True:
            changed.clear()
            job = await live.coalesce(("job", who.key_id, job_id), find)
            left = ends - time.monotonic()
            if job.terminal or left <= 0:
                return job
            await live.news(changed, left)


def _message(event: Event) -> bytes:
    data = EventOut.model_dump_json(event_out(event))
    return f"id: {event.seq}\nevent: {event.type}\ndata: {data}\n\n".encode()

"""The event stream and the long poll of a job, without a thread per waiting request."""

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

PING_SECONDS = 15.0  # well below the idle timeout of proxies
RETRY_MILLISECONDS = 2000
_BATCH = 200

HEADERS = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # otherwise nginx buffers events
}


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Serialized events after a ``seq``: up to ``last_seq``, and whether the job's events have ended there."""

    messages: bytes
    last_seq: int
    has_ended: bool


def read_events(database: Database, caller: Caller, job_id: str, after_seq: int) -> EventBatch:
    """Read the events after ``after_seq``.

    The messages are serialized here, once for all streams with the same key and ``after_seq``. Raises ``NotFound``
    for a deleted job and ``NotAuthenticated`` for a key that is no longer valid.
    """
    with database.read() as session:
        job = jobs.get_as_caller(session, caller, job_id)
        page = events.list_events(session, caller.project_id, job_id, after_seq=after_seq, limit=_BATCH)
        # The job is read before the page, so its `last_seq` is never beyond a complete page.
        last = page.items[-1].seq if page.items else after_seq
        messages = b"".join(map(_message, page.items))
        return EventBatch(messages, last, has_ended=job.is_terminal and last >= job.last_seq)


async def event_stream(
    watcher: JobWatcher, database: Database, caller: Caller, job_id: str, *, after_seq: int
) -> AsyncIterator[bytes]:
    """Stream the events after ``after_seq`` as server-sent events until the job has ended.

    The stream also ends when the job is deleted or the key becomes invalid; a reconnecting client gets the error.
    It continues while the database is unavailable.
    """
    yield b"retry: %d\n\n" % RETRY_MILLISECONDS
    with watcher.watch(job_id) as changed:
        pinged_at = time.monotonic()
        while True:
            changed.clear()  # before the read, so a change during the read sets it again
            read = partial(read_events, database, caller, job_id, after_seq)
            try:
                batch = await watcher.coalesce(("events", caller.key_id, job_id, after_seq), read)
            except DatabaseUnavailable:  # temporary; a client that reconnects would only get a 503
                batch = EventBatch(b"", after_seq, has_ended=False)
            except (NotAuthenticated, NotFound):
                return
            if batch.messages:
                yield batch.messages
                after_seq = batch.last_seq
                pinged_at = time.monotonic()
            if batch.has_ended:
                return
            if batch.messages:
                continue
            if time.monotonic() - pinged_at >= PING_SECONDS:
                yield b": ping\n\n"
                pinged_at = time.monotonic()
            await watcher.wait_for_change(changed, PING_SECONDS)


async def wait_until_terminal(
    watcher: JobWatcher, database: Database, caller: Caller, job_id: str, *, seconds: float
) -> Job:
    """Return the job once it is terminal, or its current state after ``seconds``.

    Each read checks the key again. Raises ``NotFound``, and ``NotAuthenticated`` for a key that is no longer valid.
    """

    def read() -> Job:
        with database.read() as session:
            return jobs.get_as_caller(session, caller, job_id)

    deadline = time.monotonic() + seconds
    with watcher.watch(job_id) as changed:
        while True:
            changed.clear()
            job = await watcher.coalesce(("job", caller.key_id, job_id), read)
            remaining = deadline - time.monotonic()
            if job.is_terminal or remaining <= 0:
                return job
            await watcher.wait_for_change(changed, remaining)


def _message(event: Event) -> bytes:
    data = EventOut.model_dump_json(event_out(event))
    return f"id: {event.seq}\nevent: {event.type}\ndata: {data}\n\n".encode()

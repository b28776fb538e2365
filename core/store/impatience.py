"""Connections to PostgreSQL that wait for no answer for ever.

A server that is stopped, or that a broken network cut off, keeps its connections open and says nothing, so no error
would ever come from it. Who waits decides: a statement that is not answered in time breaks its connection. The server
is told the same limit, so one that works, but too long, breaks off first and the connection lives on.
"""

from __future__ import annotations

import math
from typing import Any

import psycopg
from psycopg.abc import RV, PQGen

GRACE_SECONDS = 2.0  # for the server, which breaks off by itself if it can


class ImpatientConnection(psycopg.Connection[Any]):
    """Gives up an answer that does not come: raises ``psycopg.OperationalError`` and is closed then."""

    answer_seconds = math.inf  # how long any answer may take

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Run one exchange with the server to its end, within ``answer_seconds``."""
        limit = self.answer_seconds if timeout is None else min(timeout, self.answer_seconds)
        try:
            return super().wait(gen, interval, limit)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
                self.close()  # its answer may still come, and would be taken for that to the next question
            raise


def limits(statement_seconds: float, options: str | tuple[str, ...]) -> str:
    """What to tell the server at the start of a connection; ``options`` are the user's own, which come last and win.

    A transaction that does nothing for as long is ended, too: its process was stopped, and others wait for its locks.
    """
    limit = round(statement_seconds * 1000)  # ms
    ours = [f"-c {name}={limit}" for name in ("statement_timeout", "idle_in_transaction_session_timeout")]
    own = [options] if isinstance(options, str) else options
    return " ".join([*ours, *own]).strip()

"""Sends webhook deliveries in threads of the scheduler.

Each thread claims one delivery at a time, sends it and records the result, until none is due. Several schedulers may
send at once: a lease in the database gives each delivery to one of them. An attempt whose result was not recorded is
repeated with the same ``webhook-id`` after its lease.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import structlog
from sqlalchemy.orm import Session
from standardwebhooks.webhooks import Webhook as Signer

from core.fetch.post import Poster, PostResult
from core.settings import Settings
from core.store import webhooks
from core.store.db import Database, utc_now
from core.store.webhooks import AttemptResult, ClaimedDelivery, SecretKeyChanged
from worker.scheduler.due_threads import DueThreads

MAX_THREADS = 16
_LEASE_MARGIN_SECONDS = 30.0  # beyond the timeout of a request, for the two transactions

log = structlog.get_logger(__name__)


class WebhookSender:
    """Sends the due deliveries of all projects. Tests replace ``poster`` and ``clock``."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        *,
        poster: Poster | None = None,
        clock: Callable[[Session], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._poster = poster or Poster(
            policy=settings.network_policy, timeout_seconds=settings.webhook_timeout_seconds
        )
        self._clock = clock
        self._load_secret_key = settings.resolved_secret_key
        self._lease_seconds = settings.webhook_timeout_seconds + _LEASE_MARGIN_SECONDS
        self._threads = DueThreads("webhooks", MAX_THREADS, self.deliver_next)

    def start_due(self) -> None:
        """Start a thread for each due delivery, up to ``MAX_THREADS`` in all. Raises ``DatabaseUnavailable``."""
        with self._database.read() as session:
            num_due = webhooks.count_due(session, self._clock(session), limit=MAX_THREADS)
        self._threads.start(num_due)

    def deliver_next(self) -> bool:
        """Claim, send and record one delivery; return whether there was one. Raises ``DatabaseUnavailable``."""
        claimed = self._claim()
        if claimed is None:
            return False
        self._deliver(claimed)
        return True

    def close(self, seconds: float) -> None:
        """Claim no more deliveries, and wait for those that are being sent, together for at most ``seconds``."""
        self._threads.close(seconds)

    def _claim(self) -> ClaimedDelivery | None:
        with self._database.write() as session:
            return webhooks.claim(session, self._clock(session), lease_seconds=self._lease_seconds)

    def _deliver(self, claimed: ClaimedDelivery) -> None:
        result = self._send(claimed)
        with self._database.write() as session:
            delivery = webhooks.record_attempt(session, claimed, result, self._clock(session))
        webhook = claimed.webhook
        write = log.info if result.error is None else log.warning
        write(
            "webhook.sent",
            webhook_id=webhook.id,
            delivery_id=claimed.id,
            type=claimed.type,
            attempt=claimed.attempt,
            status=result.status,
            error=result.error,
            seconds=round(result.seconds, 3),
            delivery_status=None if delivery is None else delivery.status,
        )

    def _send(self, claimed: ClaimedDelivery) -> AttemptResult:
        try:
            headers = self._headers(claimed)
        except SecretKeyChanged as error:
            return AttemptResult(status=None, error=error.detail, seconds=0.0)
        return _to_attempt(self._poster.send(claimed.webhook.url, claimed.body, headers))

    def _headers(self, claimed: ClaimedDelivery) -> dict[str, str]:
        """Return the headers of Standard Webhooks: id, time of this attempt, and a signature per valid secret."""
        now = claimed.claimed_at
        secrets = webhooks.signing_secrets(self._load_secret_key(), claimed.webhook, now)
        body = claimed.body.decode()
        return {
            "Content-Type": "application/json",
            "webhook-id": claimed.id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(Signer(secret).sign(claimed.id, now, body) for secret in secrets),
        }


def _to_attempt(result: PostResult) -> AttemptResult:
    return AttemptResult(
        status=result.status,
        error=result.error,
        seconds=result.seconds,
        retry_after_seconds=result.retry_after_seconds,
    )

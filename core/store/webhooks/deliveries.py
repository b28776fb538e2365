"""Deliveries: claimed under a lease, sent, and recorded under the same attempt. The log that clients read.

A sender that dies between sending and recording loses its lease. The delivery is then sent again with the same
``webhook-id``, by which a receiver recognizes a repetition.

Lock order: webhook, then delivery. A claim locks only the delivery.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, delete, func, literal_column, or_, select
from sqlalchemy.orm import Session

from core.store.db import format_time, utc_now
from core.store.pagination import Page, not_found, paginate_newest_first, require_id
from core.store.webhook_tables import Webhook, WebhookDelivery
from core.store.webhooks import records
from core.store.webhooks.payload import encode_payload

_HOUR = 3600.0  # seconds
# Seconds between the attempts: 11 attempts in 65.6 hours, with jitter in at most three days.
RETRY_SECONDS = (5.0, 60.0, 300.0, 1800.0, 2 * _HOUR, 5 * _HOUR, 10 * _HOUR, 14 * _HOUR, 17 * _HOUR, 17 * _HOUR)
MAX_JITTER = 0.1  # fraction of a delay
MAX_RETRY_AFTER_SECONDS = 24 * _HOUR
# A webhook without a success for this long, and after this many failed attempts, is disabled.
DISABLE_AFTER = timedelta(seconds=sum(RETRY_SECONDS))
DISABLE_MIN_FAILURES = 10
MAX_IN_FLIGHT = 4  # deliveries of one project that are sent at once, so that no project delays others
MAX_LOGGED_ATTEMPTS = 20
LOST_ATTEMPT = "The sender stopped before it recorded the response."


@dataclass(frozen=True, slots=True)
class ClaimedDelivery:
    """A delivery to send. ``attempt`` is its fencing token."""

    id: str
    attempt: int
    webhook: Webhook
    claimed_at: datetime
    type: str
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptResult:
    """Result of one attempt: the status of the response, or why there is none."""

    status: int | None
    error: str | None  # None: the receiver accepted the delivery
    seconds: float
    retry_after_seconds: float | None = None

    @property
    def is_gone(self) -> bool:
        """Whether the receiver wants no more deliveries (410)."""
        return self.status == 410


@dataclass(frozen=True, slots=True)
class Backlog:
    """Deliveries that are not finished: their number, and the age in seconds of the oldest one that is due."""

    num_pending: int
    oldest_due_seconds: float


def count_due(session: Session, now: datetime, *, limit: int) -> int:
    """Count the deliveries that are due and not being sent, up to ``limit``."""
    due = select(WebhookDelivery.id).where(*_due(now)).limit(limit)
    return session.scalars(select(func.count()).select_from(due.subquery())).one()


def claim(session: Session, now: datetime, *, lease_seconds: float) -> ClaimedDelivery | None:
    """Claim the delivery that is due for the longest time, of a project with free capacity; None if there is none."""
    in_flight = (
        select(WebhookDelivery.project_id)
        .where(_is_pending(), WebhookDelivery.lease_expires_at > now)
        .group_by(WebhookDelivery.project_id)
        .having(func.count() >= MAX_IN_FLIGHT)
    )
    statement = (
        select(WebhookDelivery)
        .where(*_due(now), WebhookDelivery.project_id.not_in(in_flight))
        .order_by(WebhookDelivery.next_attempt_at, WebhookDelivery.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    )
    delivery = session.scalars(statement).one_or_none()
    if delivery is None:
        return None
    if delivery.lease_expires_at is not None:
        lost = AttemptResult(status=None, error=LOST_ATTEMPT, seconds=lease_seconds)
        delivery.attempts = _with_attempt(delivery, lost, delivery.lease_expires_at)
    delivery.attempt += 1
    delivery.lease_expires_at = now + timedelta(seconds=lease_seconds)
    session.flush()
    webhook = session.get_one(Webhook, delivery.webhook_id)
    body = encode_payload(delivery.payload)
    return ClaimedDelivery(delivery.id, delivery.attempt, webhook, now, delivery.type, body)


def record_attempt(
    session: Session, claimed: ClaimedDelivery, result: AttemptResult, now: datetime
) -> WebhookDelivery | None:
    """Record the result of an attempt, and schedule the next one after a failure.

    Returns None and changes nothing if the attempt lost its lease, or the delivery ended meanwhile.
    """
    webhook = session.scalars(
        select(Webhook)
        .where(Webhook.id == claimed.webhook.id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    ).one_or_none()
    delivery = session.scalars(
        select(WebhookDelivery)
        .where(WebhookDelivery.id == claimed.id, WebhookDelivery.attempt == claimed.attempt, _is_pending())
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one_or_none()
    if webhook is None or delivery is None:
        return None
    delivery.attempts = _with_attempt(delivery, result, now)
    if result.error is None:
        _finish(delivery, "succeeded", now)
        webhook.failing_since, webhook.num_failures, webhook.last_success_at = None, 0, now
    else:
        is_enabled = _count_failure(session, webhook, result, now)
        _schedule_retry(delivery, result, now, is_enabled=is_enabled)
    delivery.lease_expires_at = None
    session.flush()
    return delivery


def list_deliveries(
    session: Session,
    project_id: str,
    webhook_id: str,
    *,
    status: str | None = None,
    limit: int = 20,
    after: str | None = None,
) -> Page[WebhookDelivery]:
    """List the deliveries of a webhook, newest first. Raises ``NotFound``, and ``InvalidRequest`` for ``after``."""
    records.get(session, project_id, webhook_id)
    statement = select(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook_id)
    if status is not None:
        statement = statement.where(WebhookDelivery.status == status)
    return paginate_newest_first(session, statement, WebhookDelivery.id, limit=limit, after=after, prefix="whd")


def get(session: Session, project_id: str, webhook_id: str, delivery_id: str) -> WebhookDelivery:
    """Load a delivery. Raises ``NotFound``."""
    return _find(session, _of_webhook(project_id, webhook_id, delivery_id), delivery_id)


def redeliver(session: Session, project_id: str, webhook_id: str, delivery_id: str) -> WebhookDelivery:
    """Send a delivery again, with the same id; the schedule of retries restarts if it has ended. Raises ``NotFound``.

    A pending delivery is due now; one that is being sent stays unchanged.
    """
    delivery = _find(session, _of_webhook(project_id, webhook_id, delivery_id).with_for_update(), delivery_id)
    now = utc_now(session)
    if delivery.status != "pending":
        delivery.status, delivery.num_retries, delivery.finished_at = "pending", 0, None
    if delivery.lease_expires_at is None:
        delivery.next_attempt_at = now
    session.flush()
    return delivery


def expire(session: Session, days: float) -> int:
    """Delete finished deliveries older than ``days``; return their number."""
    old = WebhookDelivery.finished_at < utc_now(session) - timedelta(days=days)
    statement = delete(WebhookDelivery).where(old).returning(WebhookDelivery.id)
    return len(session.execute(statement.execution_options(synchronize_session=False)).all())


def get_backlog(session: Session) -> Backlog:
    """Return the backlog of all projects, for metrics."""
    now = utc_now(session)
    num_pending = session.scalars(select(func.count()).select_from(WebhookDelivery).where(_is_pending())).one()
    oldest = session.scalars(
        select(WebhookDelivery.next_attempt_at).where(*_due(now)).order_by(WebhookDelivery.next_attempt_at).limit(1)
    ).first()
    return Backlog(num_pending, 0.0 if oldest is None else (now - oldest).total_seconds())


# --- internal ---------------------------------------------------------------------------------------


def _is_pending() -> ColumnElement[bool]:
    """Condition with a literal, so that the partial index applies."""
    return WebhookDelivery.status == literal_column("'pending'")


def _due(now: datetime) -> tuple[ColumnElement[bool], ...]:
    is_free = or_(WebhookDelivery.lease_expires_at.is_(None), WebhookDelivery.lease_expires_at <= now)
    return (_is_pending(), WebhookDelivery.next_attempt_at <= now, is_free)


def _schedule_retry(delivery: WebhookDelivery, result: AttemptResult, now: datetime, *, is_enabled: bool) -> None:
    if not is_enabled or delivery.num_retries >= len(RETRY_SECONDS):
        _finish(delivery, "failed", now)
        return
    # Jitter from the id, so that deliveries that failed together are not repeated together.
    jitter = zlib.crc32(f"{delivery.id}:{delivery.num_retries}".encode()) / 2**32
    seconds = RETRY_SECONDS[delivery.num_retries] * (1 + MAX_JITTER * jitter)
    seconds = max(seconds, min(result.retry_after_seconds or 0.0, MAX_RETRY_AFTER_SECONDS))
    delivery.num_retries += 1
    delivery.next_attempt_at = now + timedelta(seconds=seconds)


def _count_failure(session: Session, webhook: Webhook, result: AttemptResult, now: datetime) -> bool:
    """Count a failed attempt, and disable a webhook that keeps failing; return whether it is enabled."""
    webhook.failing_since = webhook.failing_since or now
    webhook.num_failures += 1
    is_failing = now - webhook.failing_since >= DISABLE_AFTER and webhook.num_failures >= DISABLE_MIN_FAILURES
    if webhook.status == "enabled" and (result.is_gone or is_failing):
        records.disable(session, webhook, "gone" if result.is_gone else "failing", now)
    return webhook.status == "enabled"


def _finish(delivery: WebhookDelivery, status: Literal["succeeded", "failed"], now: datetime) -> None:
    delivery.status, delivery.next_attempt_at, delivery.finished_at = status, None, now


def _with_attempt(delivery: WebhookDelivery, result: AttemptResult, now: datetime) -> list[Any]:
    entry = {
        "attempt": delivery.attempt,
        "at": format_time(now),
        "status": result.status,
        "error": result.error,
        "seconds": round(result.seconds, 3),
    }
    return [*delivery.attempts, entry][-MAX_LOGGED_ATTEMPTS:]


def _of_webhook(project_id: str, webhook_id: str, delivery_id: str) -> Select[WebhookDelivery]:
    require_id(webhook_id, "wh", "webhook")
    require_id(delivery_id, "whd", "delivery")
    return select(WebhookDelivery).where(
        WebhookDelivery.project_id == project_id,
        WebhookDelivery.webhook_id == webhook_id,
        WebhookDelivery.id == delivery_id,
    )


def _find(session: Session, statement: Select[WebhookDelivery], delivery_id: str) -> WebhookDelivery:
    delivery = session.scalars(statement.execution_options(populate_existing=True)).one_or_none()
    if delivery is None:
        raise not_found("delivery", delivery_id)
    return delivery

"""Create, find, change and delete webhooks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from core.ids import new_id
from core.store.db import utc_now
from core.store.pagination import Page, not_found, paginate_newest_first, require_id
from core.store.webhook_tables import Webhook, WebhookDelivery
from core.store.webhooks.secrets import derive_secret, hash_secret, new_salt

DisabledReason = Literal["request", "failing", "gone"]


@dataclass(frozen=True, slots=True)
class NewSecret:
    """Webhook with a new secret, which is shown once."""

    webhook: Webhook
    secret: str


def create(
    session: Session,
    project_id: str,
    *,
    url: str,
    events: Sequence[str],
    secret_key: str,
    name: str | None = None,
    job_id: str | None = None,
) -> NewSecret:
    """Create an enabled webhook with its own secret."""
    webhook = Webhook(
        id=new_id("wh"),
        project_id=project_id,
        name=name,
        url=url,
        events=list(events),
        job_id=job_id,
        status="enabled",
        num_failures=0,
        created_at=utc_now(session),
    )
    secret = _set_secret(webhook, secret_key)
    session.add(webhook)
    session.flush()
    return NewSecret(webhook, secret)


def get(session: Session, project_id: str, webhook_id: str) -> Webhook:
    """Load a webhook of the project. Raises ``NotFound``."""
    return _find(session, project_id, webhook_id, lock=False)


def list_webhooks(session: Session, project_id: str, *, limit: int = 20, after: str | None = None) -> Page[Webhook]:
    """List the project's webhooks, newest first. Raises ``InvalidRequest`` if ``after`` is not the id of a webhook."""
    statement = select(Webhook).where(Webhook.project_id == project_id)
    return paginate_newest_first(session, statement, Webhook.id, limit=limit, after=after, prefix="wh")


def count(session: Session, project_id: str) -> int:
    """Count the webhooks of the project."""
    statement = select(func.count()).select_from(Webhook).where(Webhook.project_id == project_id)
    return session.scalars(statement).one()


def change(session: Session, project_id: str, webhook_id: str, **values: Any) -> Webhook:
    """Change columns of a webhook. A new ``status`` enables it, or disables it by request. Raises ``NotFound``."""
    webhook = _find(session, project_id, webhook_id, lock=True)
    status = values.pop("status", webhook.status)
    for name, value in values.items():
        setattr(webhook, name, value)
    if status == "disabled" and webhook.status == "enabled":
        disable(session, webhook, "request", utc_now(session))
    elif status == "enabled" and webhook.status == "disabled":
        webhook.status, webhook.disabled_reason = "enabled", None
        webhook.failing_since, webhook.num_failures = None, 0
    session.flush()
    return webhook


def rotate(session: Session, project_id: str, webhook_id: str, *, secret_key: str, overlap: timedelta) -> NewSecret:
    """Give a webhook a new secret; deliveries are signed with the old one too for ``overlap``. Raises ``NotFound``."""
    webhook = _find(session, project_id, webhook_id, lock=True)
    old_salt, old_hash = webhook.secret_salt, webhook.secret_hash
    secret = _set_secret(webhook, secret_key)
    # A secret of another secret key cannot be derived, so there is nothing to overlap with.
    is_derivable = hash_secret(derive_secret(secret_key, webhook.id, old_salt)) == old_hash
    keeps_old = bool(overlap) and is_derivable
    webhook.previous_salt = old_salt if keeps_old else None
    webhook.previous_expires_at = utc_now(session) + overlap if keeps_old else None
    session.flush()
    return NewSecret(webhook, secret)


def delete(session: Session, project_id: str, webhook_id: str) -> None:
    """Delete a webhook with its deliveries. Raises ``NotFound``."""
    session.delete(_find(session, project_id, webhook_id, lock=True))
    session.flush()


def disable(session: Session, webhook: Webhook, reason: DisabledReason, now: datetime) -> None:
    """Disable a locked webhook. Its waiting deliveries end as failed; each can be redelivered.

    A delivery that is being sent ends with the result of this attempt.
    """
    webhook.status, webhook.disabled_reason = "disabled", reason
    session.flush()
    session.execute(
        update(WebhookDelivery)
        .where(
            WebhookDelivery.webhook_id == webhook.id,
            WebhookDelivery.status == "pending",
            WebhookDelivery.lease_expires_at.is_(None),
        )
        .values(status="failed", next_attempt_at=None, finished_at=now)
        .execution_options(synchronize_session=False)
    )


def _set_secret(webhook: Webhook, secret_key: str) -> str:
    webhook.secret_salt = new_salt()
    secret = derive_secret(secret_key, webhook.id, webhook.secret_salt)
    webhook.secret_hash = hash_secret(secret)
    return secret


def _find(session: Session, project_id: str, webhook_id: str, *, lock: bool) -> Webhook:
    require_id(webhook_id, "wh", "webhook")
    statement = select(Webhook).where(Webhook.id == webhook_id, Webhook.project_id == project_id)
    # Not a plain FOR UPDATE: new deliveries of running jobs refer to the row and must not wait.
    statement = statement.with_for_update(key_share=True) if lock else statement
    webhook = session.scalars(statement.execution_options(populate_existing=True)).one_or_none()
    if webhook is None:
        raise not_found("webhook", webhook_id)
    return webhook

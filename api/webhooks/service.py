"""Logic of the webhook endpoints, without HTTP."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from api.problems import invalid_field
from api.webhooks.schemas import DeliveryOut, NewWebhookOut, WebhookChange, WebhookCreate, WebhookOut, WebhookRotate
from core.errors import NotFound, QuotaExceeded
from core.fetch.targets import NetworkPolicy, parse_target
from core.ingest_errors import UrlNotAllowed
from core.redaction import hide_query
from core.settings import Settings
from core.store import jobs, names, webhooks
from core.store.db import Session, utc_now
from core.store.webhook_tables import Webhook, WebhookDelivery
from core.store.webhooks import NewSecret


def check_url(url: str, policy: NetworkPolicy) -> None:
    """Check a URL without any connection or DNS query. Raises :class:`UrlNotAllowed` for the field ``/url``."""
    try:
        parse_target(url, policy)
    except UrlNotAllowed as error:
        raise UrlNotAllowed.for_field("/url", error.detail) from None


def create(session: Session, project_id: str, request: WebhookCreate, settings: Settings) -> NewSecret:
    """Create a webhook.

    Raises :class:`QuotaExceeded`, :class:`InvalidRequest` for an unknown job, and :class:`AmbiguousReference`.
    """
    max_webhooks = settings.quota_webhooks
    if max_webhooks and (used := webhooks.count(session, project_id)) >= max_webhooks:
        raise QuotaExceeded(
            f"The project has {used:,} webhooks; its limit is {max_webhooks:,}. Delete some first.",
            extra={"quota": "webhooks", "limit": max_webhooks, "used": used},
        )
    return webhooks.create(
        session,
        project_id,
        url=request.url,
        events=request.events,
        secret_key=settings.resolved_secret_key(),
        name=request.name,
        job_id=_find_job(session, project_id, request.job),
    )


def change(session: Session, project_id: str, webhook_id: str, request: WebhookChange) -> Webhook:
    """Change the fields that the request sets. Raises :class:`NotFound`."""
    values: dict[str, Any] = {name: getattr(request, name) for name in request.model_fields_set}
    return webhooks.change(session, project_id, webhook_id, **values)


def rotate(session: Session, project_id: str, webhook_id: str, request: WebhookRotate, settings: Settings) -> NewSecret:
    """Give a webhook a new secret. Raises :class:`NotFound`."""
    overlap = timedelta(seconds=request.overlap_seconds)
    secret_key = settings.resolved_secret_key()
    return webhooks.rotate(session, project_id, webhook_id, secret_key=secret_key, overlap=overlap)


def add_test(session: Session, project_id: str, webhook_id: str) -> WebhookDelivery:
    """Add a test delivery. Raises :class:`NotFound`."""
    webhook = webhooks.get(session, project_id, webhook_id)
    return webhooks.add_test(session, webhook, utc_now(session))


def webhook_out(webhook: Webhook) -> WebhookOut:
    """Convert a webhook row to its response document."""
    return WebhookOut.model_validate(_document(webhook))


def new_webhook_out(new: NewSecret) -> NewWebhookOut:
    """Convert a webhook with a new secret to its response document, the only one with the secret."""
    return NewWebhookOut.model_validate({**_document(new.webhook), "secret": new.secret})


def delivery_out(delivery: WebhookDelivery) -> DeliveryOut:
    """Convert a delivery row to its response document."""
    return DeliveryOut.model_validate(
        {
            "id": delivery.id,
            "webhook": delivery.webhook_id,
            "type": delivery.type,
            "event": delivery.event_id,
            "object_id": delivery.object_id,
            "status": delivery.status,
            "attempts": delivery.attempts,
            "next_attempt_at": delivery.next_attempt_at,
            "payload": delivery.payload,
            "created_at": delivery.created_at,
            "finished_at": delivery.finished_at,
        }
    )


def _document(webhook: Webhook) -> dict[str, object]:
    return {
        "id": webhook.id,
        "name": webhook.name,
        "url": hide_query(webhook.url),
        "events": webhook.events,
        "job": webhook.job_id,
        "status": webhook.status,
        "disabled_reason": webhook.disabled_reason,
        "failing_since": webhook.failing_since,
        "last_success_at": webhook.last_success_at,
        "previous_secret_expires_at": webhook.previous_expires_at,
        "created_at": webhook.created_at,
    }


def _find_job(session: Session, project_id: str, text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return jobs.get(session, project_id, names.find_id(session, project_id, "job", text)).id
    except NotFound as error:
        raise invalid_field("/job", error.detail) from None

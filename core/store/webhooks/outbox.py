"""The outbox: deliveries are written in the transaction of their event, so both are committed or neither."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from core.ids import new_id
from core.spec.webhook_events import ALL_EVENTS, SWEEP_FINISHED, TEST_EVENT, WEBHOOK_EVENTS
from core.store.db import utc_now
from core.store.sweep_tables import Sweep
from core.store.tables import Dataset, Event, Job, Model
from core.store.webhook_tables import Webhook, WebhookDelivery
from core.store.webhooks.payload import event_payload, make_test_payload, object_payload, sweep_payload


def add_event(session: Session, event: Event, job: Job) -> None:
    """Add a delivery for each webhook that subscribes to an event of a job."""
    if event.type not in WEBHOOK_EVENTS:
        return
    _add(
        session,
        project_id=job.project_id,
        event_id=event.id,
        type_=event.type,
        object_id=job.id,
        job_id=job.id,
        make_payload=lambda: event_payload(event, job),
        now=event.created_at,
    )


def add_ingest_end(session: Session, row: Dataset | Model) -> None:
    """Add a delivery for each webhook that subscribes to the end of a dataset's ingestion or a model's check."""
    type_ = f"{'dataset' if isinstance(row, Dataset) else 'model'}.{row.status}"
    now = row.finished_at or utc_now(session)
    _add(
        session,
        project_id=row.project_id,
        event_id=new_id("evt"),
        type_=type_,
        object_id=row.id,
        job_id=None,
        make_payload=lambda: object_payload(type_, row, now),
        now=now,
    )


def add_sweep_end(session: Session, sweep: Sweep, counts: Mapping[str, int]) -> None:
    """Add a delivery for each webhook that subscribes to the end of a sweep. ``counts``: its jobs by status."""
    now = sweep.finished_at or utc_now(session)
    _add(
        session,
        project_id=sweep.project_id,
        event_id=new_id("evt"),
        type_=SWEEP_FINISHED,
        object_id=sweep.id,
        job_id=None,
        make_payload=lambda: sweep_payload(SWEEP_FINISHED, sweep, counts, now),
        now=now,
    )


def add_test(session: Session, webhook: Webhook, now: datetime) -> WebhookDelivery:
    """Add a test delivery for one webhook, whatever its filter and status."""
    payload = make_test_payload(TEST_EVENT, webhook.id, now)
    delivery = _new_delivery(
        project_id=webhook.project_id,
        webhook_id=webhook.id,
        event_id=new_id("evt"),
        type_=TEST_EVENT,
        object_id=None,
        payload=payload,
        now=now,
    )
    session.add(delivery)
    session.flush()
    return delivery


def _add(
    session: Session,
    *,
    project_id: str,
    event_id: str,
    type_: str,
    object_id: str,
    job_id: str | None,
    make_payload: Callable[[], dict[str, Any]],
    now: datetime,
) -> None:
    # A key-share lock, which the foreign key takes anyway: a webhook that is deleted concurrently is left out, and
    # cannot fail the transaction of the event.
    subscribed = select(Webhook.id, Webhook.events).where(
        Webhook.project_id == project_id,
        Webhook.status == "enabled",
        Webhook.job_id.is_(None) if job_id is None else or_(Webhook.job_id.is_(None), Webhook.job_id == job_id),
    )
    rows = session.execute(subscribed.order_by(Webhook.id).with_for_update(read=True, key_share=True)).all()
    receivers = [row.id for row in rows if ALL_EVENTS in row.events or type_ in row.events]
    if not receivers:
        return
    payload = make_payload()
    for webhook_id in receivers:
        delivery = _new_delivery(
            project_id=project_id,
            webhook_id=webhook_id,
            event_id=event_id,
            type_=type_,
            object_id=object_id,
            payload=payload,
            now=now,
        )
        session.add(delivery)
    session.flush()


def _new_delivery(
    *,
    project_id: str,
    webhook_id: str,
    event_id: str,
    type_: str,
    object_id: str | None,
    payload: dict[str, Any],
    now: datetime,
) -> WebhookDelivery:
    return WebhookDelivery(
        id=new_id("whd"),
        project_id=project_id,
        webhook_id=webhook_id,
        event_id=event_id,
        type=type_,
        object_id=object_id,
        payload=payload,
        status="pending",
        next_attempt_at=now,
        attempts=[],
        created_at=now,
    )

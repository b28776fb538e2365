"""``/v1/webhooks``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response

from api.deps import After, AppState, Caller, Limit, Reader, State, Writer
from api.idempotency import IdempotencyKey, create_responses, idempotent_create
from api.problems import problems
from api.rate_limit import rate_class
from api.request_body import json_body, no_body, read_json, validate_as
from api.schemas import Page
from api.webhooks import service
from api.webhooks.schemas import (
    DeliveryOut,
    DeliveryStatus,
    NewWebhookOut,
    WebhookChange,
    WebhookCreate,
    WebhookOut,
    WebhookRotate,
)
from core.errors import (
    AmbiguousReference,
    MalformedRequest,
    NotFound,
    PayloadTooLarge,
    QuotaExceeded,
    UnsupportedMedia,
)
from core.ingest_errors import UrlNotAllowed
from core.store import webhooks
from core.store.db import Session

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])

_SECRET = frozenset({"secret"})
_BODY_ERRORS = (MalformedRequest, PayloadTooLarge, UnsupportedMedia)
_EXAMPLE = {"url": "https://example.com/hooks/potstill", "events": ["job.succeeded", "job.failed"]}


@router.post(
    "",
    status_code=201,
    response_model=NewWebhookOut,
    responses=create_responses(*_BODY_ERRORS, UrlNotAllowed, QuotaExceeded, AmbiguousReference, status=201),
)
@rate_class("writes")
@json_body(WebhookCreate, example=_EXAMPLE)
async def create_webhook(caller: Writer, key: IdempotencyKey, request: Request, state: State) -> Response:
    """Create a webhook: events are sent to its URL as signed POST requests (Standard Webhooks).

    Only this response contains the `secret`, which verifies the signatures. Each event is delivered at least once; a
    repeated delivery has the same `webhook-id`. Failed deliveries are repeated for about three days, with growing
    intervals. A webhook without a success for that long is disabled.
    """
    return await create_from(state, caller, key, validate_as(WebhookCreate, await read_json(request)))


async def create_from(state: AppState, caller: Caller, key: str | None, body: WebhookCreate) -> Response:
    """Create a webhook; ``key`` is an ``Idempotency-Key``. Raises what :mod:`api.webhooks.service` raises."""
    service.check_url(body.url, state.settings.network_policy)

    async def prepare() -> Callable[[Session], NewWebhookOut]:
        return lambda session: service.new_webhook_out(service.create(session, caller.project_id, body, state.settings))

    identity = ["POST /v1/webhooks", body.model_dump(mode="json")]
    return await idempotent_create(
        state, caller, key, request=identity, prepare=prepare, status=201, redact_on_replay=_SECRET
    )


@router.get("", response_model=Page[WebhookOut], responses=problems())
@rate_class("reads")
def list_webhooks(caller: Reader, state: State, limit: Limit = 20, after: After = None) -> Page[WebhookOut]:
    """List webhooks, newest first."""
    with state.database.read() as session:
        page = webhooks.list_webhooks(session, caller.project_id, limit=limit, after=after)
        return Page(data=[service.webhook_out(webhook) for webhook in page.items], has_more=page.has_more)


@router.get("/{webhook_id}", response_model=WebhookOut, responses=problems(NotFound))
@rate_class("reads")
def get_webhook(webhook_id: str, caller: Reader, state: State) -> WebhookOut:
    """Get a webhook."""
    with state.database.read() as session:
        return service.webhook_out(webhooks.get(session, caller.project_id, webhook_id))


@router.patch("/{webhook_id}", response_model=WebhookOut, responses=problems(*_BODY_ERRORS, UrlNotAllowed, NotFound))
@rate_class("writes")
@json_body(WebhookChange, example={"status": "enabled"})
async def change_webhook(webhook_id: str, caller: Writer, request: Request, state: State) -> WebhookOut:
    """Change a webhook: its name, URL or events; enable or disable it. Omitted fields stay unchanged."""
    body = validate_as(WebhookChange, await read_json(request))
    return await to_thread.run_sync(change_from, state, caller, webhook_id, body)


def change_from(state: AppState, caller: Caller, webhook_id: str, body: WebhookChange) -> WebhookOut:
    """Change a webhook. Raises what :mod:`api.webhooks.service` raises."""
    if body.url is not None:
        service.check_url(body.url, state.settings.network_policy)
    with state.change(caller, "webhook.change", webhook_id) as session:
        return service.webhook_out(service.change(session, caller.project_id, webhook_id, body))


@router.delete("/{webhook_id}", status_code=204, responses=problems(NotFound))
@rate_class("writes")
def delete_webhook(webhook_id: str, caller: Writer, state: State) -> None:
    """Delete a webhook with its deliveries; pending ones are not sent."""
    with state.change(caller, "webhook.delete", webhook_id) as session:
        webhooks.delete(session, caller.project_id, webhook_id)


@router.post(
    "/{webhook_id}/rotate",
    status_code=201,
    response_model=NewWebhookOut,
    responses=create_responses(*_BODY_ERRORS, NotFound, status=201),
)
@rate_class("writes")
@json_body(WebhookRotate, example={"overlap_seconds": 3600}, required=False)
async def rotate_webhook(
    webhook_id: str, caller: Writer, key: IdempotencyKey, request: Request, state: State
) -> Response:
    """Give a webhook a new secret. For `overlap_seconds` (default: one day) deliveries carry both signatures.

    Only this response contains the `secret`. The body may be empty.
    """
    body = validate_as(WebhookRotate, await read_json(request) if await request.body() else {})
    return await rotate_from(state, caller, key, webhook_id, body)


async def rotate_from(
    state: AppState, caller: Caller, key: str | None, webhook_id: str, body: WebhookRotate
) -> Response:
    """Rotate a webhook's secret; ``key`` is an ``Idempotency-Key``. Raises :class:`NotFound`."""

    async def prepare() -> Callable[[Session], NewWebhookOut]:
        return lambda session: service.new_webhook_out(
            service.rotate(session, caller.project_id, webhook_id, body, state.settings)
        )

    identity = ["POST /v1/webhooks/rotate", webhook_id, body.model_dump(mode="json")]
    return await idempotent_create(
        state, caller, key, request=identity, prepare=prepare, status=201, action="rotate", redact_on_replay=_SECRET
    )


@router.post(
    "/{webhook_id}/test",
    status_code=202,
    response_model=DeliveryOut,
    responses=create_responses(NotFound, status=202),
)
@rate_class("writes")
@no_body
async def test_webhook(webhook_id: str, caller: Writer, key: IdempotencyKey, state: State) -> Response:
    """Send a delivery of the type `webhook.test`, also to a disabled webhook. The delivery shows the result."""

    async def prepare() -> Callable[[Session], DeliveryOut]:
        return lambda session: service.delivery_out(service.add_test(session, caller.project_id, webhook_id))

    identity = ["POST /v1/webhooks/test", webhook_id]
    return await idempotent_create(state, caller, key, request=identity, prepare=prepare, status=202)


@router.get("/{webhook_id}/deliveries", response_model=Page[DeliveryOut], responses=problems(NotFound))
@rate_class("reads")
def list_deliveries(
    webhook_id: str,
    caller: Reader,
    state: State,
    *,
    status: Annotated[DeliveryStatus | None, Query(description="Only deliveries with this status.")] = None,
    limit: Limit = 20,
    after: After = None,
) -> Page[DeliveryOut]:
    """List the deliveries of a webhook, newest first, with their attempts."""
    with state.database.read() as session:
        page = webhooks.list_deliveries(session, caller.project_id, webhook_id, status=status, limit=limit, after=after)
        return Page(data=[service.delivery_out(delivery) for delivery in page.items], has_more=page.has_more)


@router.get("/{webhook_id}/deliveries/{delivery_id}", response_model=DeliveryOut, responses=problems(NotFound))
@rate_class("reads")
def get_delivery(webhook_id: str, delivery_id: str, caller: Reader, state: State) -> DeliveryOut:
    """Get a delivery."""
    with state.database.read() as session:
        return service.delivery_out(webhooks.get_delivery(session, caller.project_id, webhook_id, delivery_id))


@router.post(
    "/{webhook_id}/deliveries/{delivery_id}/redeliver", response_model=DeliveryOut, responses=problems(NotFound)
)
@rate_class("writes")
@no_body
def redeliver(webhook_id: str, delivery_id: str, caller: Writer, state: State) -> DeliveryOut:
    """Send a delivery again now, with the same `webhook-id`; a delivery that has ended gets all its attempts again."""
    with state.change(caller, "webhook_delivery.redeliver", delivery_id) as session:
        return service.delivery_out(webhooks.redeliver(session, caller.project_id, webhook_id, delivery_id))

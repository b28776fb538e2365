"""The pages of webhooks: list and create; one webhook with its actions and deliveries; one delivery."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, Literal, get_args

from anyio import to_thread
from fastapi import APIRouter, Form, Query
from fastapi.responses import Response

from api.dashboard.endpoints import Operator, PageRoute, Viewer
from api.dashboard.forms import FormToken, idempotency_key, problem_texts
from api.dashboard.rendering import page, see_other
from api.deps import AppState, Caller, State
from api.rate_limit import rate_class
from api.request_body import validate_as
from api.webhooks import endpoints, service
from api.webhooks.schemas import OVERLAP_SECONDS, DeliveryStatus, WebhookChange, WebhookCreate, WebhookRotate
from core.errors import NotFound, PotstillError
from core.fetch.targets import MAX_URL_CHARACTERS
from core.spec.webhook_events import ALL_EVENTS, DEFAULT_EVENTS, WebhookEvent
from core.store import webhooks

WEBHOOKS_PER_PAGE = 25
DELIVERIES_PER_PAGE = 25
REFRESH_SECONDS = 2  # while a delivery is pending
# Offered overlaps of a rotation, in seconds.
OVERLAPS = ((86_400, "one day"), (3_600, "one hour"), (7 * 86_400, "seven days"), (0, "no overlap"))
STATUS_TABS = (("", "All"), *((status, status.capitalize()) for status in get_args(DeliveryStatus)))
EVENTS = get_args(WebhookEvent)

StatusFilter = Annotated[Literal["", "pending", "succeeded", "failed"], Query()]
_Text = Annotated[str, Form(max_length=500)]
_Url = Annotated[str, Form(max_length=2 * MAX_URL_CHARACTERS)]
_Events = Annotated[list[str] | None, Form(max_length=50)]

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@dataclass(frozen=True, slots=True)
class WebhookForm:
    """Values of the form of a new webhook."""

    url: str = ""
    name: str = ""
    job: str = ""
    events: tuple[str, ...] = DEFAULT_EVENTS


@router.get("/webhooks")
@rate_class("reads")
def webhooks_page(state: State, caller: Viewer, after: str | None = None) -> Response:
    """List the webhooks of the project, newest first."""
    return _list_page(state, caller, after=after or None)


@router.post("/webhooks")
@rate_class("writes")
async def create_webhook(
    state: State,
    caller: Operator,
    token: FormToken,
    *,
    url: _Url = "",
    name: _Text = "",
    job: _Text = "",
    events: _Events = None,
) -> Response:
    """Create a webhook as ``POST /v1/webhooks`` does, and show its secret."""
    form = WebhookForm(url.strip(), name.strip(), job.strip(), tuple(events or ()))
    document = {"url": form.url, "name": form.name or None, "job": form.job or None, "events": list(form.events)}
    try:
        request = validate_as(WebhookCreate, document)
        response = await endpoints.create_from(state, caller, idempotency_key(token), request)
    except PotstillError as error:
        return await to_thread.run_sync(partial(_list_page, state, caller, form=form, error=error))
    return _secret_page(response)


@router.get("/webhooks/{webhook_id}")
@rate_class("reads")
def webhook_page(
    state: State, caller: Viewer, webhook_id: str, status: StatusFilter = "", after: str | None = None
) -> Response:
    """Show a webhook and its deliveries."""
    return _webhook_page(state, caller, webhook_id, status=status, after=after or None)


@router.post("/webhooks/{webhook_id}/change")
@rate_class("writes")
def change_webhook(
    state: State,
    caller: Operator,
    webhook_id: str,
    *,
    url: _Url = "",
    name: _Text = "",
    events: _Events = None,
) -> Response:
    """Change name, URL and events as ``PATCH /v1/webhooks/{webhook_id}`` does; an empty URL stays unchanged."""
    document: dict[str, Any] = {"name": name.strip() or None, "events": events or []}
    if url.strip():
        document["url"] = url.strip()
    return _change(state, caller, webhook_id, document)


@router.post("/webhooks/{webhook_id}/enable")
@rate_class("writes")
def enable_webhook(state: State, caller: Operator, webhook_id: str) -> Response:
    """Enable a webhook; enabling it again changes nothing."""
    return _change(state, caller, webhook_id, {"status": "enabled"})


@router.post("/webhooks/{webhook_id}/disable")
@rate_class("writes")
def disable_webhook(state: State, caller: Operator, webhook_id: str) -> Response:
    """Disable a webhook; disabling it again changes nothing."""
    return _change(state, caller, webhook_id, {"status": "disabled"})


@router.post("/webhooks/{webhook_id}/test")
@rate_class("writes")
async def send_test(state: State, caller: Operator, webhook_id: str, token: FormToken) -> Response:
    """Send a test delivery as ``POST /v1/webhooks/{webhook_id}/test`` does, and show it."""
    response = await endpoints.test_webhook(webhook_id, caller, idempotency_key(token), state)
    delivery_id = json.loads(bytes(response.body))["id"]
    return see_other(f"/webhooks/{webhook_id}/deliveries/{delivery_id}")


@router.post("/webhooks/{webhook_id}/rotate")
@rate_class("writes")
async def rotate_webhook(
    state: State,
    caller: Operator,
    webhook_id: str,
    token: FormToken,
    overlap_seconds: Annotated[int, Form()] = OVERLAP_SECONDS,
) -> Response:
    """Replace the secret as ``POST /v1/webhooks/{webhook_id}/rotate`` does, and show the new one."""
    request = validate_as(WebhookRotate, {"overlap_seconds": overlap_seconds})
    return _secret_page(await endpoints.rotate_from(state, caller, idempotency_key(token), webhook_id, request))


@router.post("/webhooks/{webhook_id}/delete")
@rate_class("writes")
def delete_webhook(state: State, caller: Operator, webhook_id: str) -> Response:
    """Delete a webhook as ``DELETE /v1/webhooks/{webhook_id}`` does."""
    endpoints.delete_webhook(webhook_id, caller, state)
    return see_other("/webhooks")


@router.get("/webhooks/{webhook_id}/deliveries/{delivery_id}")
@rate_class("reads")
def delivery_page(state: State, caller: Viewer, webhook_id: str, delivery_id: str) -> Response:
    """Show a delivery with its attempts and its payload."""
    with state.database.read() as session:
        webhook = service.webhook_out(webhooks.get(session, caller.project_id, webhook_id))
        delivery = service.delivery_out(webhooks.get_delivery(session, caller.project_id, webhook_id, delivery_id))
    return page(
        "delivery.html",
        section="webhooks",
        webhook=webhook,
        delivery=delivery,
        payload=json.dumps(delivery.payload, indent=2, ensure_ascii=False),
        may_write=caller.has_scope("write"),
        refresh_seconds=REFRESH_SECONDS if delivery.status == "pending" else 0,
    )


@router.post("/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver")
@rate_class("writes")
def redeliver(state: State, caller: Operator, webhook_id: str, delivery_id: str) -> Response:
    """Send a delivery again, as the API's ``redeliver`` does; one that is pending is only sent once."""
    endpoints.redeliver(webhook_id, delivery_id, caller, state)
    return see_other(f"/webhooks/{webhook_id}/deliveries/{delivery_id}")


def _change(state: AppState, caller: Caller, webhook_id: str, document: dict[str, Any]) -> Response:
    try:
        endpoints.change_from(state, caller, webhook_id, validate_as(WebhookChange, document))
    except NotFound:
        raise
    except PotstillError as error:
        return _webhook_page(state, caller, webhook_id, error=error)
    return see_other(f"/webhooks/{webhook_id}")


def _list_page(
    state: AppState,
    caller: Caller,
    *,
    after: str | None = None,
    form: WebhookForm | None = None,
    error: PotstillError | None = None,
) -> Response:
    with state.database.read() as session:
        found = webhooks.list_webhooks(session, caller.project_id, limit=WEBHOOKS_PER_PAGE, after=after)
        shown = [service.webhook_out(webhook) for webhook in found.items]
    return page(
        "webhooks.html",
        status_code=HTTPStatus(error.status) if error else HTTPStatus.OK,
        section="webhooks",
        webhooks=shown,
        form=form or WebhookForm(),
        problems=problem_texts(error),
        events=EVENTS,
        all_events=ALL_EVENTS,
        may_write=caller.has_scope("write"),
        older=f"/webhooks?after={shown[-1].id}" if found.has_more else None,
        newest="/webhooks" if after else None,
    )


def _webhook_page(
    state: AppState,
    caller: Caller,
    webhook_id: str,
    *,
    status: str = "",
    after: str | None = None,
    error: PotstillError | None = None,
) -> Response:
    with state.database.read() as session:
        webhook = service.webhook_out(webhooks.get(session, caller.project_id, webhook_id))
        found = webhooks.list_deliveries(
            session, caller.project_id, webhook_id, status=status or None, limit=DELIVERIES_PER_PAGE, after=after
        )
        deliveries = [service.delivery_out(delivery) for delivery in found.items]
    address = f"/webhooks/{webhook_id}" + (f"?status={status}" if status else "")
    older = f"{address}{'&' if status else '?'}after={deliveries[-1].id}" if found.has_more else None
    is_pending = any(delivery.status == "pending" for delivery in deliveries)
    return page(
        "webhook.html",
        status_code=HTTPStatus(error.status) if error else HTTPStatus.OK,
        section="webhooks",
        webhook=webhook,
        deliveries=deliveries,
        status=status,
        tabs=STATUS_TABS,
        problems=problem_texts(error),
        events=EVENTS,
        all_events=ALL_EVENTS,
        overlaps=OVERLAPS,
        may_write=caller.has_scope("write"),
        refresh_seconds=REFRESH_SECONDS if is_pending and not error else 0,
        older=older,
        newest=address if after else None,
    )


def _secret_page(response: Response) -> Response:
    """Show the secret of a webhook. A repeated request gets none, because the service stores only its hash."""
    return page("webhook_secret.html", section="webhooks", webhook=json.loads(bytes(response.body)))

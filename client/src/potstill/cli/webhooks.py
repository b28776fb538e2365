"""``potstill webhooks``."""

from __future__ import annotations

import json
import re
from typing import Annotated, Literal

import typer

from potstill._sync.client import Potstill
from potstill.cli.console import out, print_json, print_removed
from potstill.cli.options import AsJson, Limit, connect, find_one
from potstill.cli.tables import Column, print_table, status_text
from potstill.documents import Delivery, NewWebhook, Webhook
from potstill.formats import escape_text, format_age

app = typer.Typer(no_args_is_help=True, help="Manage webhooks: requests of the service to your URL.")

WebhookId = Annotated[
    str, typer.Argument(metavar="WEBHOOK", help="Webhook: its id (wh_…), unique name or unique id prefix.")
]
DeliveryId = Annotated[str, typer.Argument(metavar="DELIVERY", help="Delivery: its id or unique id prefix.")]
Events = Annotated[
    str | None, typer.Option(help="Comma-separated event types, e.g. job.succeeded,job.failed; * is all.")
]

_FULL_ID = re.compile("wh_[0-9a-z]{26}")
_COLUMNS = (
    Column("webhook"),
    Column("name", wraps=True),
    Column("url", wraps=True),
    Column("status"),
    Column("last success", optional=1),
)
_DELIVERY_COLUMNS = (
    Column("delivery"),
    Column("type", wraps=True),
    Column("status"),
    Column("attempts", justify="right"),
    Column("last response", wraps=True, optional=1),
    Column("created", optional=2),
)


@app.command("add")
def add(
    url: Annotated[str, typer.Argument(metavar="URL", help="An https URL with a public address.")],
    *,
    events: Events = None,
    name: Annotated[str | None, typer.Option(help="Name of the webhook.")] = None,
    job: Annotated[str | None, typer.Option(help="Only events of this job.")] = None,
    as_json: AsJson = False,
) -> None:
    """Add a webhook and print its secret, which is shown only once."""
    with connect() as client:
        webhook = client.webhooks.create(url, events=_split(events), name=name, job=job)
    _show_new(webhook, as_json=as_json)


@app.command("list")
def list_webhooks(limit: Limit = 20, *, as_json: AsJson = False) -> None:
    """List the webhooks."""
    with connect() as client:
        webhooks = list(client.webhooks.list(limit=limit))
    if as_json:
        print_json(webhooks)
    else:
        _print_webhooks(webhooks)


@app.command("show")
def show(webhook_id: WebhookId, *, as_json: AsJson = False) -> None:
    """Show one webhook."""
    with connect() as client:
        webhook = client.webhooks.get(_find_id(client, webhook_id))
    _show(webhook, as_json=as_json)


@app.command("change")
def change(
    webhook_id: WebhookId,
    *,
    url: Annotated[str | None, typer.Option(help="New URL.")] = None,
    events: Events = None,
    name: Annotated[str | None, typer.Option(help="New name.")] = None,
    status: Annotated[Literal["enabled", "disabled"] | None, typer.Option(help="Enable or disable it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change, enable or disable a webhook."""
    with connect() as client:
        found = _find_id(client, webhook_id)
        webhook = client.webhooks.change(found, url=url, events=_split(events), name=name, status=status)
    _show(webhook, as_json=as_json)


@app.command("delete")
def delete(webhook_id: WebhookId, *, as_json: AsJson = False) -> None:
    """Delete a webhook with its deliveries."""
    with connect() as client:
        found = _find_id(client, webhook_id)
        client.webhooks.delete(found)
    print_removed(found, f"Deleted {found}", as_json=as_json)


@app.command("rotate")
def rotate(
    webhook_id: WebhookId,
    *,
    overlap_seconds: Annotated[
        int | None, typer.Option(min=0, help="Seconds with both signatures. Default: a day.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Replace the secret and print the new one, which is shown only once."""
    with connect() as client:
        webhook = client.webhooks.rotate(_find_id(client, webhook_id), overlap_seconds=overlap_seconds)
    _show_new(webhook, as_json=as_json)


@app.command("test")
def send_test(webhook_id: WebhookId, *, as_json: AsJson = False) -> None:
    """Send a delivery of the type webhook.test."""
    with connect() as client:
        delivery = client.webhooks.test(_find_id(client, webhook_id))
    _show_delivery(delivery, as_json=as_json)


@app.command("deliveries")
def deliveries(
    webhook_id: WebhookId,
    limit: Limit = 20,
    *,
    status: Annotated[
        Literal["pending", "succeeded", "failed"] | None, typer.Option(help="Only deliveries with this status.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the deliveries of a webhook, newest first."""
    with connect() as client:
        found = list(client.webhooks.deliveries(_find_id(client, webhook_id), status=status, limit=limit))
    if as_json:
        print_json(found)
    else:
        print_table(_DELIVERY_COLUMNS, [_delivery_row(each) for each in found])


@app.command("delivery")
def delivery(webhook_id: WebhookId, delivery_id: DeliveryId, *, as_json: AsJson = False) -> None:
    """Show one delivery with its attempts and its body."""
    with connect() as client:
        webhook = _find_id(client, webhook_id)
        found = client.webhooks.get_delivery(webhook, _find_delivery(client, webhook, delivery_id))
    _show_delivery(found, as_json=as_json)


@app.command("redeliver")
def redeliver(webhook_id: WebhookId, delivery_id: DeliveryId, *, as_json: AsJson = False) -> None:
    """Send a delivery again now, with the same id."""
    with connect() as client:
        webhook = _find_id(client, webhook_id)
        found = client.webhooks.redeliver(webhook, _find_delivery(client, webhook, delivery_id))
    _show_delivery(found, as_json=as_json)


def _split(events: str | None) -> list[str] | None:
    return None if events is None else [each.strip() for each in events.split(",")]


def _find_id(client: Potstill, text: str) -> str:
    if _FULL_ID.fullmatch(text):
        return text
    return find_one(text, "webhook", client.webhooks.list(), lambda each: (each.id, each.name)).id


def _find_delivery(client: Potstill, webhook_id: str, text: str) -> str:
    return find_one(text, "delivery", client.webhooks.deliveries(webhook_id), lambda each: (each.id, None)).id


def _show_new(webhook: NewWebhook, *, as_json: bool) -> None:
    _show(webhook, as_json=as_json)
    if not as_json:
        print(webhook.secret)  # on its own line, without wrapping or colors


def _show(webhook: Webhook | NewWebhook, *, as_json: bool) -> None:
    if as_json:
        print_json(webhook)
        return
    out.print(f"[bold]{webhook.id}[/]  {escape_text(webhook.name or '')}  ", status_text(webhook.status))
    out.print(f"  {escape_text(webhook.url)}", soft_wrap=True)
    out.print(f"  {escape_text(', '.join(webhook.events))} of {webhook.job or 'the project'}")
    if webhook.disabled_reason:
        out.print(f"  [yellow]reason: {webhook.disabled_reason}[/]")


def _print_webhooks(webhooks: list[Webhook]) -> None:
    rows = [
        (
            each.id,
            each.name or "—",
            each.url,
            status_text(each.status),
            format_age(each.last_success_at) if each.last_success_at else "never",
        )
        for each in webhooks
    ]
    print_table(_COLUMNS, rows)


def _delivery_row(each: Delivery) -> tuple[str, ...]:
    last = each.attempts[-1] if each.attempts else None
    response = "—" if last is None else str(last.error or last.status)
    return (each.id, each.type, each.status, str(len(each.attempts)), response, format_age(each.created_at))


def _show_delivery(found: Delivery, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    out.print(f"[bold]{found.id}[/]  {escape_text(found.type)}  ", status_text(found.status))
    for attempt in found.attempts:
        out.print(f"  attempt {attempt.attempt}  {escape_text(str(attempt.error or attempt.status))}")
    if found.next_attempt_at:
        out.print(f"  next attempt {found.next_attempt_at:%H:%M:%S} UTC")
    print(json.dumps(found.payload, indent=2, ensure_ascii=False))

"""``potstill status``, ``workers``, ``usage`` and ``audit-log``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from potstill.cli.console import out, print_json
from potstill.cli.keys import find_key_id
from potstill.cli.options import AsJson, Limit, connect
from potstill.cli.tables import Column, print_table
from potstill.documents import Use, Workers
from potstill.formats import escape_text, format_age, format_bytes, format_count, format_duration


def register(app: typer.Typer) -> None:
    """Add the commands to the top level."""
    for name, command in (("status", status), ("workers", workers), ("usage", usage), ("audit-log", audit_log)):
        app.command(name)(command)


def status(
    *,
    metrics: Annotated[bool, typer.Option("--metrics", help="Print the service's metrics for Prometheus.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check that the service is running and ready."""
    with connect() as client:
        if metrics:
            print(client.service.prometheus_metrics(), end="")
            return
        client.service.health()
        ready = client.service.ready()
    if as_json:
        print_json(ready)
    else:
        degraded = f", without {', '.join(ready.degraded)}" if ready.degraded else ""
        out.print(f"{escape_text(client.base_url)} is {ready.status}{escape_text(degraded)}")


def workers(*, as_json: AsJson = False) -> None:
    """List the processes of the service, their devices and jobs, and the queues."""
    with connect() as client:
        found = client.service.workers()
    if as_json:
        print_json(found)
    else:
        _describe_workers(found)


def usage(
    *,
    history: Annotated[bool, typer.Option("--history", help="Show the last 30 days instead, by day.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show usage and limits of the project, and the rate limits of the key."""
    if history:
        _show_history(as_json=as_json)
        return
    with connect() as client:
        found = client.service.usage()
    if as_json:
        print_json(found)
        return
    out.print(f"  jobs            {_format_use(found.jobs, format_count)}")
    out.print(f"  stored          {_format_use(found.stored_bytes, format_bytes)}")
    out.print(f"  largest upload  {format_bytes(found.max_upload_bytes)}")
    for kind, limit in found.requests_per_minute.items():
        out.print(f"  {kind:<15} {'no limit' if limit is None else f'{limit:,} requests a minute'}")


def audit_log(
    key: Annotated[str | None, typer.Option(help="Only entries of this key.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this action, e.g. job.create.")] = None,
    object_id: Annotated[str | None, typer.Option("--object", help="Only entries of this object.")] = None,
    limit: Limit = 20,
    *,
    as_json: AsJson = False,
) -> None:
    """List who did what, newest first. Requires a key with the scope admin."""
    with connect() as client:
        key_id = None if key is None else find_key_id(client, key)
        entries = list(client.service.audit_log(key=key_id, action=action, object_id=object_id, limit=limit))
    if as_json:
        print_json(entries)
        return
    columns = (
        Column("time (UTC)"),
        Column("action"),
        Column("outcome"),
        Column("object", optional=1),
        Column("key", optional=2),
        Column("address", optional=3),
    )
    rows = [
        (
            f"{entry.created_at:%Y-%m-%d %H:%M}",
            entry.action,
            entry.outcome,
            entry.object_id or "—",
            entry.key,
            entry.client_address,
        )
        for entry in entries
    ]
    print_table(columns, rows)


def _show_history(*, as_json: bool) -> None:
    with connect() as client:
        found = client.service.usage_history()
    if as_json:
        print_json(found)
        return
    columns = (
        Column("day (UTC)"),
        Column("jobs created"),
        Column("jobs ended"),
        Column("device time"),
        Column("stored"),
    )
    rows = [
        (
            str(each.date),
            format_count(each.jobs_created),
            format_count(each.jobs_ended),
            format_duration(each.device_seconds),
            format_bytes(each.stored_bytes),
        )
        for each in found.days
    ]
    print_table(columns, rows)


def _describe_workers(found: Workers) -> None:
    columns = (
        Column("role"),
        Column("host", wraps=True),
        Column("device", wraps=True),
        Column("job"),
        Column("last seen", optional=1),
    )
    rows = [
        (
            each.role,
            each.host,
            each.device or each.accelerator or "—",
            each.job or ("busy" if each.busy else "idle"),
            format_age(each.last_seen_at),
        )
        for each in found.data
    ]
    print_table(columns, rows)
    queued = ", ".join(f"{count} for {accelerator}" for accelerator, count in found.queued_jobs.items() if count)
    out.print(f"  queued jobs: {escape_text(queued) or 'none'}")


def _format_use(use: Use, format_number: Callable[[int | None], str]) -> str:
    limit = ", no limit" if use.limit is None else f" of {format_number(use.limit)}"
    return f"{format_number(use.used)}{limit}"

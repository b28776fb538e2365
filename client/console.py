"""How documents look in a terminal: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from client.documents import ApiKey, Dataset, Job, Measures
from client.errors import ApiError, ClientError

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

_STATUS_STYLE = {
    "queued": "yellow",
    "processing": "yellow",
    "running": "blue",
    "paused": "magenta",
    "succeeded": "green",
    "ready": "green",
    "failed": "red",
    "cancelled": "dim",
}


def print_json(document: Any) -> None:
    """One document on standard output, untouched by width and colour."""
    print(json.dumps(document, indent=2, ensure_ascii=False))


def print_json_line(document: Any) -> None:
    """One document on one line, for streams; written at once."""
    print(json.dumps(document, ensure_ascii=False), flush=True)


def shown(text: str) -> str:
    """Somebody else's words for a line to print: neither rich's markup nor what a terminal would obey is left."""
    plain = (
        character if character.isprintable() or character in "\n\t" else ascii(character)[1:-1] for character in text
    )
    return escape("".join(plain))


def print_error(error: ClientError, *, as_json: bool) -> None:
    """An error on standard error: what is wrong, where, and the id to quote."""
    if as_json:
        document: Mapping[str, Any] = {"detail": str(error), "code": "client_error"}
        err.out(json.dumps(error.problem if isinstance(error, ApiError) else document, ensure_ascii=False))
        return
    if not isinstance(error, ApiError):
        err.print(f"[bold red]error[/]  {shown(str(error))}")
        return
    err.print(f"[bold red]{error.code}[/]  {shown(error.title)}")
    if error.errors:
        for field in error.errors:
            err.print(f"  [bold]{shown(field.get('pointer') or '/')}[/]  {shown(field.get('detail', ''))}")
    else:
        err.print(f"  {shown(error.detail)}")
    if error.status >= 500 and error.request_id:
        err.print(f"  [dim]request {shown(str(error.request_id))}[/]")


def status_text(status: str) -> Text:
    """A status in its colour."""
    return Text(status, style=_STATUS_STYLE.get(status, ""))


def job_table(jobs: Iterable[Job]) -> Table:
    """Jobs, one a line."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in ("job", "name", "status", "stage"):
        table.add_column(heading, no_wrap=heading != "name", overflow="fold")
    table.add_column("done", justify="right")
    table.add_column("top-1", justify="right")
    table.add_column("created")
    for job in jobs:
        result = job.get("result")
        table.add_row(
            job["id"],
            shown(job["name"] or "—"),
            status_text(job["status"]),
            job["stage"] or "—",
            f"{job['progress']['fraction']:.0%}",
            _percent(result["student"]["top1"]) if result else "—",
            ago(job["created_at"]),
        )
    return table


def dataset_table(datasets: Iterable[Dataset]) -> Table:
    """Datasets, one a line."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in ("dataset", "name", "status"):
        table.add_column(heading, no_wrap=heading != "name", overflow="fold")
    for heading in ("classes", "train", "test"):
        table.add_column(heading, justify="right")
    table.add_column("created")
    for dataset in datasets:
        splits = dataset["splits"] or {}
        table.add_row(
            dataset["id"],
            shown(dataset["name"] or "—"),
            status_text(dataset["status"]),
            count(dataset["num_classes"]),
            count(splits.get("train", {}).get("num_samples")),
            count(splits.get("test", {}).get("num_samples")),
            ago(dataset["created_at"]),
        )
    return table


def key_table(keys: Iterable[ApiKey]) -> Table:
    """Keys, one a line."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in ("key", "name", "scopes", "last used", "state"):
        table.add_column(heading, no_wrap=heading == "key", overflow="fold")
    for key in keys:
        last_used = ago(key["last_used_at"]) if key["last_used_at"] else "never"
        table.add_row(key["id"], shown(key["name"]), ", ".join(key["scopes"]), last_used, _key_state(key))
    return table


def _key_state(key: ApiKey) -> str:
    if key["revoked_at"]:
        return f"revoked {ago(key['revoked_at'])}"
    if key["expires_at"] is None:
        return "good"
    over = datetime.fromisoformat(key["expires_at"]) <= datetime.now(UTC)
    return f"expired {ago(key['expires_at'])}" if over else f"good until {key['expires_at'][:10]}"


def measures_table(rows: Iterable[tuple[str, Measures]]) -> Table:
    """Models beside each other: accuracy against what they cost."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("model")
    for heading in ("top-1", "parameters", "FLOPs", "size", "latency"):
        table.add_column(heading, justify="right")
    for name, measures in rows:
        table.add_row(
            shown(name),
            _percent(measures["top1"]),
            short(measures["parameters"]),
            short(measures["flops"]),
            size(measures["size_bytes"]),
            f"{measures['latency_ms']:.2f} ms",
        )
    return table


def count(number: int | None) -> str:
    """A count, or a dash where it is not known."""
    return "—" if number is None else f"{number:,}"


def short(number: float) -> str:
    """Three digits and a unit: ``205 k``, ``1.20 M``."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit * 0.9995:  # 999,600 is 1 M, not 1e+03 k
            return f"{number / limit:.3g} {unit}"
    return f"{number:.3g}"


def size(num_bytes: float) -> str:
    """A size in decimal units, as disks and downloads count them."""
    return f"{short(num_bytes)}B" if num_bytes >= 999.5 else f"{num_bytes:.0f} B"


def duration(seconds: float) -> str:
    """``45 s``, ``3 min 05 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def ago(moment: str) -> str:
    """How long ago an RFC 3339 time was, in the largest unit that fits: ``45 s ago``, ``3 min ago``, ``2 days ago``."""
    seconds = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds())
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            whole = int(seconds // length)
            return f"{whole} {'day' if unit == 'days' and whole == 1 else unit} ago"
    return f"{int(seconds)} s ago"


def _percent(fraction: float | None) -> str:
    """A model that no labels judge has no accuracy."""
    return "—" if fraction is None else f"{fraction:.1%}"

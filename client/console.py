"""Terminal output: tables and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from client.documents import ApiKey, Dataset, Job, ModelMetrics
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
    """Print a document to standard output as indented JSON, without wrapping or colors."""
    print(json.dumps(document, indent=2, ensure_ascii=False))


def print_json_line(document: Any) -> None:
    """Print a document as one JSON line and flush, for streams."""
    print(json.dumps(document, ensure_ascii=False), flush=True)


def escape_text(text: str) -> str:
    """Escape untrusted text: rich markup and terminal control characters."""
    plain = (
        character if character.isprintable() or character in "\n\t" else ascii(character)[1:-1] for character in text
    )
    return escape("".join(plain))


def print_warnings(document: Mapping[str, Any]) -> None:
    """Print the warnings of a job or dataset, each with its code, field and fix. Earlier versions send none."""
    for warning in document.get("warnings") or ():
        at = f" {warning['field']}" if warning["field"] else ""
        text = " ".join(_sentence(part) for part in (warning["message"], warning["fix"]) if part)
        out.print(f"  [yellow]warning[/] {escape_text(warning['code'] + at)}: {escape_text(text)}", soft_wrap=True)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def print_error(error: ClientError, *, as_json: bool) -> None:
    """Print an error to standard error, with its fields and, for server errors, the request id."""
    if as_json:
        document: Mapping[str, Any] = {"detail": str(error), "code": "client_error"}
        err.out(json.dumps(error.problem if isinstance(error, ApiError) else document, ensure_ascii=False))
        return
    if not isinstance(error, ApiError):
        err.print(f"[bold red]error[/]  {escape_text(str(error))}")
        return
    err.print(f"[bold red]{error.code}[/]  {escape_text(error.title)}")
    if error.errors:
        for field in error.errors:
            err.print(f"  [bold]{escape_text(field.get('pointer') or '/')}[/]  {escape_text(field.get('detail', ''))}")
    else:
        err.print(f"  {escape_text(error.detail)}")
    if error.status >= 500 and error.request_id:
        err.print(f"  [dim]request {escape_text(str(error.request_id))}[/]")


def status_text(status: str) -> Text:
    """A status in its color."""
    return Text(status, style=_STATUS_STYLE.get(status, ""))


def job_table(jobs: Iterable[Job]) -> Table:
    """Table of jobs."""
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
            escape_text(job["name"] or "—"),
            status_text(job["status"]),
            job["stage"] or "—",
            f"{job['progress']['fraction']:.0%}",
            _percent(result["student"]["top1"]) if result else "—",
            format_age(job["created_at"]),
        )
    return table


def dataset_table(datasets: Iterable[Dataset]) -> Table:
    """Table of datasets."""
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
            escape_text(dataset["name"] or "—"),
            status_text(dataset["status"]),
            format_count(dataset["num_classes"]),
            format_count(splits.get("train", {}).get("num_samples")),
            format_count(splits.get("test", {}).get("num_samples")),
            format_age(dataset["created_at"]),
        )
    return table


def key_table(keys: Iterable[ApiKey]) -> Table:
    """Table of API keys."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in ("key", "name", "scopes", "last used", "state"):
        table.add_column(heading, no_wrap=heading == "key", overflow="fold")
    for key in keys:
        last_used = format_age(key["last_used_at"]) if key["last_used_at"] else "never"
        table.add_row(key["id"], escape_text(key["name"]), ", ".join(key["scopes"]), last_used, _key_state(key))
    return table


def _key_state(key: ApiKey) -> str:
    if key["revoked_at"]:
        return f"revoked {format_age(key['revoked_at'])}"
    if key["expires_at"] is None:
        return "active"
    is_expired = datetime.fromisoformat(key["expires_at"]) <= datetime.now(UTC)
    return f"expired {format_age(key['expires_at'])}" if is_expired else f"active until {key['expires_at'][:10]}"


def metrics_table(rows: Iterable[tuple[str, ModelMetrics]]) -> Table:
    """Table of models with accuracy and cost."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("model")
    for heading in ("top-1", "parameters", "FLOPs", "size", "latency"):
        table.add_column(heading, justify="right")
    for name, metrics in rows:
        table.add_row(
            escape_text(name),
            _percent(metrics["top1"]),
            format_quantity(metrics["parameters"]),
            format_quantity(metrics["flops"]),
            format_bytes(metrics["size_bytes"]),
            f"{metrics['latency_ms']:.2f} ms",
        )
    return table


def format_count(number: int | None) -> str:
    """Format a count, or a dash for None."""
    return "—" if number is None else f"{number:,}"


def format_ingest_progress(dataset: Dataset) -> str:
    """Format the progress of a dataset that is processed: ``Reading images: 1,200 of 60,000, 2,100 per second``."""
    progress = dataset.get("progress")
    if not progress or not progress["processed"]:
        return "Reading images"
    total = "" if progress["total"] is None else f" of {progress['total']:,}"
    rate = progress["images_per_second"]
    speed = "" if rate is None else f", {rate:,.0f} per second"
    return f"Reading images: {progress['processed']:,}{total}{speed}"


def format_quantity(number: float) -> str:
    """Format with three digits and a unit: ``205 k``, ``1.2 M``."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit * 0.9995:  # 999,600 is 1 M, not 1e+03 k
            return f"{number / limit:.3g} {unit}"
    return f"{number:.3g}"


def format_bytes(num_bytes: float) -> str:
    """Format a size in decimal units."""
    return f"{format_quantity(num_bytes)}B" if num_bytes >= 999.5 else f"{num_bytes:.0f} B"


def format_duration(seconds: float) -> str:
    """Format a duration: ``45 s``, ``3 min 05 s``, ``2 h 10 min``."""
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60:02d} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60:02d} min"


def format_age(timestamp: str) -> str:
    """Format the age of an RFC 3339 timestamp in its largest unit: ``45 s ago``, ``3 min ago``, ``2 days ago``."""
    seconds = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(timestamp)).total_seconds())
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            rounded = int(seconds // length)
            return f"{rounded} {'day' if unit == 'days' and rounded == 1 else unit} ago"
    return f"{int(seconds)} s ago"


def _percent(fraction: float | None) -> str:
    """Format an accuracy; a dash for None (unlabeled dataset)."""
    return "—" if fraction is None else f"{fraction:.1%}"

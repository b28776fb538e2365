"""``potstill jobs``."""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from client.configuration import connect
from client.console import (
    err,
    escape_text,
    format_duration,
    job_table,
    metrics_table,
    out,
    print_json,
    print_json_line,
    print_warnings,
    status_text,
)
from client.documents import Job, JobAction, JobError
from client.errors import ClientError
from client.sdk import Potstill
from client.spec_text import parse_document
from client.watch import follow, format_progress

app = typer.Typer(no_args_is_help=True, help="Manage distillation jobs.")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="Job: its id (job_…), unique name or unique id prefix.")]

_EXIT_UNSUCCESSFUL = 3
_SHOWN_LOG_LINES = 10


@app.command("submit")
def submit(
    spec: Annotated[str, typer.Argument(help="Job spec file (JSON or YAML); - reads standard input.")],
    dataset: Annotated[
        str | None, typer.Option(help="Override the spec's dataset: an id, unique name or unique id prefix.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Override the spec's name.")] = None,
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job until it ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Submit a job."""
    document = _read_spec(spec)
    document |= {key: value for key, value in (("dataset", dataset), ("name", name)) if value is not None}
    with connect() as potstill:
        job = potstill.jobs.submit(document)
        if watch:
            _watch(potstill, job["id"], as_json=as_json)
        elif as_json:
            print_json(job)
        else:
            print_warnings(job)
            out.print(f"[bold]{job['id']}[/] is {job['status']}. Follow it: potstill jobs watch {job['id']}")


@app.command("list")
def list_jobs(
    status: Annotated[str | None, typer.Option(help="List only jobs with this status.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of jobs.")] = 20,
    *,
    as_json: AsJson = False,
) -> None:
    """List the newest jobs."""
    with connect() as potstill:
        jobs = list(islice(potstill.jobs.list(status=status), limit))
    if as_json:
        print_json(jobs)
    elif jobs:
        out.print(job_table(jobs))
    else:
        out.print("No jobs yet. Submit one: [bold]potstill jobs submit spec.yaml[/]")


@app.command("show")
def show(job_id: JobId, *, as_json: AsJson = False) -> None:
    """Show one job: status, stages, result or error."""
    with connect() as potstill:
        job = potstill.jobs.get(job_id)
    if as_json:
        print_json(job)
    else:
        _describe(job)


@app.command("watch")
def watch(job_id: JobId, *, as_json: AsJson = False) -> None:
    """Follow a job until it ends; exit with status 3 if it did not succeed."""
    with connect() as potstill:
        _watch(potstill, job_id, as_json=as_json)


@app.command("cancel")
def cancel(job_id: JobId, *, as_json: AsJson = False) -> None:
    """Cancel a job; its last checkpoint is kept."""
    _post_action(job_id, "cancel", as_json=as_json)


@app.command("pause")
def pause(job_id: JobId, *, as_json: AsJson = False) -> None:
    """Pause a job; it can resume from the last step."""
    _post_action(job_id, "pause", as_json=as_json)


@app.command("resume")
def resume(job_id: JobId, *, as_json: AsJson = False) -> None:
    """Resume a paused job."""
    _post_action(job_id, "resume", as_json=as_json)


@app.command("stop")
def stop(job_id: JobId, *, as_json: AsJson = False) -> None:
    """Stop training early; the student is still evaluated and exported."""
    _post_action(job_id, "stop", as_json=as_json)


@app.command("retry")
def retry(
    job_id: JobId,
    *,
    apply_fix: Annotated[
        bool, typer.Option("--apply-fix", help="Apply the fix of the job's error to its spec.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Change a field of the spec, e.g. training.batch_size=64."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Retry a failed or cancelled job, from its last checkpoint if the changes allow it."""
    changes = _changes(set_ or [])
    with connect() as potstill:
        job = potstill.jobs.retry(job_id, apply_fix=apply_fix, changes=changes)
    _print_status(job, as_json=as_json)


@app.command("delete")
def delete(job_id: JobId) -> None:
    """Delete a finished job and its files."""
    with connect() as potstill:
        potstill.jobs.delete(job_id)
    out.print(f"Deleted {job_id}")


@app.command("download")
def download(
    job_id: JobId,
    folder: Annotated[Path | None, typer.Option("--out", "-o", help="Output folder. Default: the job's id.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Download only this file; repeatable.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Download a job's files and verify their SHA-256."""
    with connect() as potstill:
        if folder is None:
            folder = Path(potstill.jobs.get(job_id)["id"])  # not a name, which may contain slashes
        paths = potstill.jobs.download(job_id, folder, names=only)
    if as_json:
        print_json([str(path) for path in paths])
    else:
        for path in paths:
            out.print(str(path), soft_wrap=True)


def _read_spec(source: str) -> dict[str, Any]:
    text = sys.stdin.read() if source == "-" else _read_file(Path(source))
    try:
        document = parse_document(text)
    except ValueError as error:
        raise ClientError(f"{source} is neither JSON nor YAML: {error}") from error
    if not isinstance(document, dict):
        raise ClientError(f"{source} does not hold a job spec: an object with dataset, student and method is expected")
    return document


def _read_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ClientError(f"{path} cannot be read: {error}") from error


def _post_action(job_id: str, action: JobAction, *, as_json: bool) -> None:
    with connect() as potstill:
        job = potstill.jobs.post_action(job_id, action)
    _print_status(job, as_json=as_json)


def _changes(settings: list[str]) -> dict[str, Any]:
    """Build a merge patch from ``FIELD=VALUE`` settings; values are JSON or plain strings."""
    patch: dict[str, Any] = {}
    for setting in settings:
        path, equals, text = setting.partition("=")
        *folders, field = path.split(".")
        if not equals or not all([*folders, field]):
            raise ClientError(f"--set {setting}: expected FIELD=VALUE, for example training.batch_size=64")
        inner = patch
        for folder in folders:
            inner = inner.setdefault(folder, {})
            if not isinstance(inner, dict):
                raise ClientError(f"--set {setting}: another --set assigns a value to {folder}")
        inner[field] = _value(text)
    return patch


def _value(text: str) -> Any:
    """Parse JSON; return other text as a string."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _print_status(job: Job, *, as_json: bool) -> None:
    if as_json:
        print_json(job)
    elif job["pending_action"]:
        out.print(f"[bold]{job['id']}[/] is {job['status']}; {job['pending_action']} requested")
    else:
        out.print(f"[bold]{job['id']}[/] is {job['status']}")


def _watch(potstill: Potstill, job_id: str, *, as_json: bool) -> None:
    try:
        if as_json:
            for event in potstill.jobs.events(job_id):
                print_json_line(event)
            job = potstill.jobs.get(job_id)
            print_json_line(job)
        else:
            job = follow(potstill, job_id, console=out)
            _describe(job)
    except KeyboardInterrupt:
        err.print(f"\nThe job keeps running. Follow it again: potstill jobs watch {job_id}")
        raise typer.Exit(130) from None
    if job["status"] != "succeeded":
        raise typer.Exit(_EXIT_UNSUCCESSFUL)


def _describe_error(error: JobError) -> None:
    fault = f" ({error['fault']})" if error.get("fault") else ""
    out.print(f"  [red]{escape_text(error['code'])}[/]{fault}  {escape_text(error['message'])}")
    if advice := error.get("advice"):
        out.print(f"  {escape_text(advice)}")
    if error.get("fix"):
        out.print(f"  [dim]potstill jobs retry --apply-fix changes: {escape_text(json.dumps(error['fix']))}[/]")
    for line in error.get("log", [])[-_SHOWN_LOG_LINES:]:
        out.print(f"  [dim]{escape_text(line)}[/]", soft_wrap=True)


def _describe(job: Job) -> None:
    out.print(f"[bold]{job['id']}[/]  {escape_text(job['name'] or '')}  ", status_text(job["status"]))
    progress_text = format_progress(job)
    if progress_text:
        out.print(f"  {progress_text}")
    for stage in job["stages"]:
        seconds = stage["seconds"]
        out.print(f"  [dim]{stage['name']:<9}[/] {'…' if seconds is None else format_duration(seconds)}")
    print_warnings(job)
    if job["error"]:
        _describe_error(job["error"])
    result = job.get("result")
    if result:
        rows = [("student", result["student"])]
        rows += [(f"teacher {index}", teacher) for index, teacher in enumerate(result["teachers"])]
        out.print(metrics_table(rows))
        if result["agreement"] is not None:
            out.print(f"  agreement with the teacher {result['agreement']:.1%}")
    if job["next_actions"]:
        out.print(f"  [dim]available actions: {', '.join(job['next_actions'])}[/]")
    if job["status"] == "succeeded":
        out.print(f"  [dim]download: potstill jobs download {job['id']}[/]")

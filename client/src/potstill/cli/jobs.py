"""``potstill jobs``: submit, list, follow and change jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from potstill._sync.client import Potstill
from potstill._sync.job import Job
from potstill._sync.jobs import JobAction
from potstill.cli import job_outputs
from potstill.cli.console import err, out, print_json, print_json_line, print_removed, print_warnings
from potstill.cli.job_text import describe_job, print_jobs
from potstill.cli.options import AsJson, JobId, Limit, Settings, SpecFile, connect
from potstill.cli.spec_files import apply_settings, read_changes, read_metadata, read_spec
from potstill.cli.sweeps import find_sweep_id

app = typer.Typer(no_args_is_help=True, help="Manage distillation jobs.")
job_outputs.register(app)

_EXIT_UNSUCCESSFUL = 3


@app.command("submit")
def submit(
    spec: SpecFile,
    dataset: Annotated[
        str | None, typer.Option(help="Override the spec's dataset: an id, unique name or unique id prefix.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Override the spec's name.")] = None,
    set_: Settings = None,
    *,
    idempotency_key: Annotated[
        str | None, typer.Option(help="A repeated call with this key creates no second job, e.g. the commit.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", "--watch", help="Follow the job until it ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Submit a job. With --wait, the exit status is 3 if it does not succeed."""
    document = read_spec(spec, set_ or (), dataset=dataset, name=name)
    with connect() as client:
        _submit(client, document, key=idempotency_key, wait=wait, as_json=as_json)


@app.command("fork")
def fork(
    job_id: JobId,
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="Checkpoint of the job: its id, unique id prefix or step.")
    ],
    name: Annotated[str | None, typer.Option(help="Name of the new job.")] = None,
    set_: Settings = None,
    *,
    wait: Annotated[bool, typer.Option("--wait", "--watch", help="Follow the job until it ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Submit a job with the spec of another one, whose student starts from a checkpoint of that job."""
    with connect() as client:
        found = job_outputs.find_checkpoint(client, job_id, checkpoint)
        document = client.jobs.spec_from_checkpoint(job_id, found.id)
        document |= {} if name is None else {"name": name}
        apply_settings(document, set_ or ())
        _submit(client, document, wait=wait, as_json=as_json)


@app.command("list")
def list_jobs(
    *,
    status: Annotated[
        list[str] | None, typer.Option(metavar="STATUS", help="Only jobs with this status; repeatable.")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(metavar="METHOD", help="Only jobs with this method; repeatable.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Only jobs on this dataset.")] = None,
    student: Annotated[str | None, typer.Option(help="Only jobs with this student architecture.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Only jobs with this teacher architecture.")] = None,
    sweep: Annotated[str | None, typer.Option(help="Only jobs of this sweep.")] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Only jobs with this entry of their metadata; repeatable."),
    ] = None,
    search: Annotated[str | None, typer.Option(help="Words of the name, id, method, student or a teacher.")] = None,
    sort: Annotated[
        str | None, typer.Option(help="Value to sort by, e.g. top1 or seconds. Default: created_at.")
    ] = None,
    ascending: Annotated[bool, typer.Option("--ascending", help="Smallest or oldest first.")] = False,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    with connect() as client:
        found = client.jobs.list(
            status=status,
            method=method,
            dataset=dataset,
            student=student,
            teacher=teacher,
            sweep=None if sweep is None else find_sweep_id(client, sweep),
            metadata=read_metadata(metadata or ()) or None,
            search=search,
            sort=sort,
            order="asc" if ascending else None,
            limit=limit,
        )
        jobs = list(found)
    if as_json:
        print_json(jobs)
    elif jobs:
        print_jobs(jobs)
    elif any((status, method, dataset, student, teacher, sweep, metadata, search)):
        out.print("No job matches.")
    else:
        out.print("No jobs yet. Submit one: [bold]potstill jobs submit spec.yaml[/]")


@app.command("show")
def show(job_id: JobId, *, as_json: AsJson = False) -> None:
    """Show one job: status, stages, result or error."""
    with connect() as client:
        job = client.jobs.get(job_id)
    if as_json:
        print_json(job)
    else:
        describe_job(job)


@app.command("watch")
def watch(job_id: JobId, *, as_json: AsJson = False) -> None:
    """Follow a job until it ends, also through an outage; exit with status 3 if it does not succeed."""
    with connect() as client:
        _watch(client, job_id, as_json=as_json)


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
    set_: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Retry a failed or cancelled job, from its last checkpoint if the changes allow it."""
    changes = read_changes(set_ or [])
    with connect() as client:
        job = client.jobs.retry(job_id, apply_fix=apply_fix, changes=changes)
    _print_status(job, as_json=as_json)


@app.command("delete")
def delete(job_id: JobId, *, as_json: AsJson = False) -> None:
    """Delete a finished job and its files."""
    with connect() as client:
        client.jobs.delete(job_id)
    print_removed(job_id, f"Deleted {job_id}", as_json=as_json)


def _submit(
    client: Potstill, document: Mapping[str, Any], *, key: str | None = None, wait: bool, as_json: bool
) -> None:
    job = client.jobs.create(document, idempotency_key=key)
    if not as_json and not wait:  # else they are the first events
        print_warnings(job.warnings)
    if wait:
        _watch(client, job.id, as_json=as_json)
    elif as_json:
        print_json(job)
    else:
        out.print(f"[bold]{job.id}[/] is {job.status}. Follow it: potstill jobs watch {job.id}", soft_wrap=True)


def _post_action(job_id: str, action: JobAction, *, as_json: bool) -> None:
    with connect() as client:
        job = client.jobs.post_action(job_id, action)
    _print_status(job, as_json=as_json)


def _print_status(job: Job, *, as_json: bool) -> None:
    if as_json:
        print_json(job)
    elif job.pending_action:
        out.print(f"[bold]{job.id}[/] is {job.status}; {job.pending_action} requested")
    else:
        out.print(f"[bold]{job.id}[/] is {job.status}")


def _watch(client: Potstill, job_id: str, *, as_json: bool) -> None:
    try:
        if as_json:
            for event in client.jobs.events(job_id):
                print_json_line(event)
            job = client.jobs.get(job_id)
            print_json_line(job)
        else:
            job = client.jobs.wait(job_id, progress=True, console=out)
            describe_job(job)
    except KeyboardInterrupt:
        err.print(f"\nThe job goes on. Follow it again: potstill jobs watch {job_id}", markup=False)
        raise typer.Exit(130) from None
    if job.status != "succeeded":
        raise typer.Exit(_EXIT_UNSUCCESSFUL)

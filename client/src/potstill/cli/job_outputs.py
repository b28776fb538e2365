"""``potstill jobs``: events, logs, metrics and files of a job."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from potstill._sync.client import Potstill
from potstill.cli import pushes
from potstill.cli.console import out, print_json, print_json_line
from potstill.cli.job_text import print_log_lines
from potstill.cli.options import AsJson, JobId, Limit, OutFolder, connect, find_one
from potstill.cli.tables import Column, print_table
from potstill.documents import Checkpoint, Event
from potstill.errors import InvalidArgument
from potstill.formats import format_age, format_bytes, format_percent, format_teacher
from potstill.job_progress import event_printer
from potstill.metrics import Metrics


def register(app: typer.Typer) -> None:
    """Add the commands to the group ``jobs``."""
    for command in (events, logs, metrics, artifacts, url, checkpoints, download, predict):
        app.command(command.__name__)(command)
    pushes.register(app)


def events(
    job_id: JobId,
    after: Annotated[int, typer.Option(min=0, help="List only events after this number.")] = 0,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for new events until the job ends.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document per line.")] = False,
) -> None:
    """List the events of a job."""
    columns = (Column("number", justify="right"), Column("time (UTC)"), Column("type"), Column("message", wraps=True))
    with connect() as client:
        if follow or as_json:
            show = print_json_line if as_json else event_printer(out)
            for event in _events(client, job_id, after, follow=follow):
                show(event)
            return
        rows = [
            (str(event.seq), f"{event.created_at:%H:%M:%S}", event.type, event.message)
            for event in _events(client, job_id, after, follow=False)
        ]
    print_table(columns, rows)


def logs(
    job_id: JobId,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for new lines until the job ends.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print only the lines of the process.")] = False,
) -> None:
    """Print the events of a job as log lines, then the last lines of its process, also of one that runs."""
    show = event_printer(out)
    with connect() as client:
        for event in () if as_json else _events(client, job_id, 0, follow=follow):
            show(event)
        found = client.jobs.logs(job_id)
    if as_json:
        print_json(found)
    else:
        print_log_lines(found.lines)


def metrics(
    job_id: JobId,
    name: Annotated[
        list[str] | None, typer.Option(metavar="SERIES", help="Only this series, e.g. train/loss; repeatable.")
    ] = None,
    max_points: Annotated[int | None, typer.Option(min=1, help="Reduce each series to this many points.")] = None,
    *,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print all points: series, step, value.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the last value of each metric series, or all points with --csv or --json."""
    with connect() as client:
        only_name = name[0] if name and len(name) == 1 else None
        found = client.jobs.metrics(job_id, name=only_name, max_points=max_points)
    if name:
        unknown = sorted(set(name) - set(found.names))
        if unknown:
            raise InvalidArgument(f"there is no series {', '.join(unknown)}; see potstill jobs metrics {job_id}")
        found = found.model_copy(update={"series": [each for each in found.series if each.name in name]})
    if as_json:
        print_json(found)
    elif as_csv:
        _print_csv(found)
    else:
        rows = [
            (each.name, str(each.points[-1][0]), _format_value(each.points[-1][1]), str(len(each.points)))
            for each in found.series
            if each.points
        ]
        print_table(
            (Column("series"), *(Column(heading, justify="right") for heading in ("step", "value", "points"))), rows
        )


def artifacts(job_id: JobId, *, as_json: AsJson = False) -> None:
    """List the output files of a job."""
    with connect() as client:
        files = client.jobs.artifacts(job_id)
    if as_json:
        print_json(list(files))
        return
    columns = (Column("file"), Column("size", justify="right"), Column("SHA-256", optional=1))
    print_table(columns, [(file.name, format_bytes(file.size_bytes), file.sha256) for file in files])


def url(
    job_id: JobId,
    name: Annotated[str, typer.Argument(metavar="FILE", help="Name of the file, e.g. model.onnx.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Print a URL of the service's bucket for one file, which needs no key until it expires."""
    with connect() as client:
        found = client.jobs.artifact_url(job_id, name)
    if as_json:
        print_json(found)
    else:
        print(found.url)


def checkpoints(job_id: JobId, limit: Limit = 20, *, as_json: AsJson = False) -> None:
    """List the stored checkpoints of a job, newest first."""
    with connect() as client:
        found = list(client.jobs.checkpoints(job_id, limit=limit))
    if as_json:
        print_json(found)
        return
    columns = (
        Column("checkpoint"),
        Column("step", justify="right"),
        Column("epoch", justify="right"),
        Column("top-1", justify="right"),
        Column("size", justify="right"),
        Column("created", optional=1),
    )
    print_table(
        columns,
        [
            (
                each.id,
                str(each.step),
                str(each.epoch),
                format_percent(each.metrics.get("eval/top1")),
                format_bytes(each.size_bytes),
                format_age(each.created_at),
            )
            for each in found
        ],
    )


def download(
    job_id: JobId,
    folder: OutFolder = None,
    only: Annotated[list[str] | None, typer.Option(metavar="FILE", help="Download only this file; repeatable.")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="Download the weights of this checkpoint: its id, unique id prefix or step.")
    ] = None,
    *,
    as_zip: Annotated[bool, typer.Option("--zip", help="Download one zip.")] = False,
    as_json: AsJson = False,
) -> None:
    """Download a job's files and verify their SHA-256. A broken download resumes when it is repeated."""
    if sum([bool(only), checkpoint is not None, as_zip]) > 1:
        raise InvalidArgument("--only, --checkpoint and --zip exclude each other")
    with connect() as client:
        if folder is None:
            folder = Path(client.jobs.get(job_id).id)  # not a name, which may contain slashes
        if as_zip:
            paths = [client.jobs.download_zip(job_id, folder.with_name(f"{folder.name}.zip"), progress=True)]
        elif checkpoint is not None:
            found = find_checkpoint(client, job_id, checkpoint)
            paths = [client.jobs.download_checkpoint(job_id, found.id, folder, progress=True)]
        else:
            paths = list(client.jobs.download(job_id, folder, names=only, progress=True))
    if as_json:
        print_json([str(path) for path in paths])
    else:
        for path in paths:
            out.print(str(path), soft_wrap=True, markup=False)


def predict(
    job_id: JobId,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="An image file: JPEG, PNG, WebP, …")],
    *,
    as_json: AsJson = False,
) -> None:
    """Classify an image with the student of a finished job, and with its teachers where they are small."""
    with connect() as client:
        found = client.jobs.predict(job_id, image)
    if as_json:
        print_json(found)
        return
    rows = [("student", each.name, format_percent(each.probability)) for each in found.student]
    for teacher in found.teachers:
        name = format_teacher(teacher.teacher, len(found.teachers))
        rows += [(name, each.name, format_percent(each.probability)) for each in teacher.classes or ()]
        if teacher.classes is None:
            rows.append((name, f"not run: {teacher.reason}", "—"))
    print_table((Column("network"), Column("class", wraps=True), Column("probability", justify="right")), rows)


def _events(client: Potstill, job_id: str, after: int, *, follow: bool) -> Iterator[Event]:
    if follow:
        return client.jobs.events(job_id, after_seq=after)
    return (event for event in client.jobs.past_events(job_id) if event.seq > after)


def find_checkpoint(client: Potstill, job_id: str, text: str) -> Checkpoint:
    """Return the checkpoint of a job with this id, unique id prefix or step."""
    return find_one(text, "checkpoint", client.jobs.checkpoints(job_id), lambda each: (each.id, str(each.step)))


def _format_value(value: float | None) -> str:
    return "—" if value is None else f"{value:.4g}"


def _print_csv(metrics: Metrics) -> None:
    writer = csv.writer(sys.stdout)
    writer.writerow(("series", "step", "value"))
    for each in metrics.series:
        writer.writerows((each.name, step, value) for step, value in each.points)

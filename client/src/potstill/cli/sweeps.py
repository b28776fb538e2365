"""``potstill sweeps``: jobs for each combination of some values."""

from __future__ import annotations

import json
import re
import time
from typing import Annotated, Any

import typer

from potstill._sync.client import Potstill
from potstill._sync.sweeps import CostName, Sweep
from potstill.cli.console import err, out, print_json, print_removed, print_warnings
from potstill.cli.options import AsJson, Limit, Settings, SpecFile, connect, find_one
from potstill.cli.spec_files import read_grid, read_points, read_spec
from potstill.cli.tables import Cell, Column, print_table, status_text
from potstill.documents import Measured, SweepCompressed, SweepJob
from potstill.formats import (
    escape_text,
    format_age,
    format_bytes,
    format_duration,
    format_milliseconds,
    format_percent,
    format_quantity,
)

app = typer.Typer(no_args_is_help=True, help="Manage sweeps: a job for each combination of some values.")

SweepId = Annotated[
    str, typer.Argument(metavar="SWEEP", help="Sweep: its id (swp_…), unique name or unique id prefix.")
]
Grid = Annotated[
    list[str] | None,
    typer.Option(
        "--grid",
        metavar="FIELD=VALUES",
        help="Values of a field, e.g. training.epochs=20,40 or a JSON list; repeatable. There is a job for each "
        "combination.",
    ),
]
Points = Annotated[
    str | None,
    typer.Option(help="File (JSON or YAML) with a list of merge patches of the spec, for fields that vary together."),
]
Cost = Annotated[CostName, typer.Option(help="Cost of the Pareto front that the column `front` marks.")]

_FULL_ID = re.compile("swp_[0-9a-z]{26}")
_EXIT_UNSUCCESSFUL = 3
_LINE_SECONDS = 60.0  # between two lines of an unchanged sweep without a terminal


@app.command("create")
def create(
    spec: SpecFile,
    grid: Grid = None,
    points: Points = None,
    *,
    name: Annotated[str | None, typer.Option(help="Start of the names of the jobs. Default: the spec's name.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Override the spec's dataset.")] = None,
    set_: Settings = None,
    wait: Annotated[bool, typer.Option("--wait", "--watch", help="Follow the jobs until they end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Submit a job for each combination of the grid. With --wait, the exit status is 3 if one does not succeed."""
    document = read_spec(spec, set_ or (), dataset=dataset)
    with connect() as client:
        sweep = client.sweeps.create(document, read_grid(grid or ()), points=read_points(points), name=name)
        if not as_json:
            jobs = client.jobs.list(sweep=sweep.id, order="asc")
            print_warnings({(each.code, each.field): each for job in jobs for each in job.warnings}.values())
        if wait:
            _watch(client, sweep.id, as_json=as_json)
        elif as_json:
            print_json(sweep)
        else:
            following = f"potstill sweeps watch {sweep.id}"
            out.print(f"[bold]{sweep.id}[/] has {sweep.num_jobs} jobs. Follow it: {following}", soft_wrap=True)


@app.command("estimate")
def estimate(
    spec: SpecFile, grid: Grid = None, points: Points = None, *, set_: Settings = None, as_json: AsJson = False
) -> None:
    """Estimate the duration of a sweep without submitting it."""
    with connect() as client:
        found = client.sweeps.estimate(read_spec(spec, set_ or ()), read_grid(grid or ()), points=read_points(points))
    if as_json:
        print_json(found)
        return
    columns = (*(Column(field) for field in _headings(found.fields)), *map(_number, ("parameters", "memory", "time")))
    rows = [
        (
            *(_text(job.values.get(field)) for field in found.fields),
            format_quantity(job.student.get("parameters")),
            format_bytes(job.memory_bytes),
            format_duration(job.seconds),
        )
        for job in found.jobs
    ]
    print_table(columns, rows)
    saved = f", {format_duration(found.shared_seconds)} saved by shared teachers" if found.shared_seconds else ""
    out.print(f"  {found.num_jobs} jobs one after another: {format_duration(found.seconds)}{saved}")
    print_warnings(found.warnings)


@app.command("list")
def list_sweeps(limit: Limit = 20, *, as_json: AsJson = False) -> None:
    """List sweeps, newest first."""
    with connect() as client:
        found = list(client.sweeps.list(limit=limit))
    if as_json:
        print_json(found)
        return
    columns = (Column("sweep"), Column("name", wraps=True), Column("status"), *map(_number, ("jobs", "done")))
    rows = [
        (
            each.id,
            each.name or "—",
            each.status,
            str(each.num_jobs),
            format_percent(each.progress.fraction, 0),
            format_age(each.created_at),
        )
        for each in found
    ]
    print_table((*columns, Column("created", optional=1)), rows)


@app.command("show")
def show(sweep_id: SweepId, *, cost: Cost = "size_bytes", as_json: AsJson = False) -> None:
    """Show one sweep: its jobs by their values, their figures, and which are on the Pareto front."""
    with connect() as client:
        sweep = client.sweeps.get(find_sweep_id(client, sweep_id))
    _show(sweep, cost, as_json=as_json)


@app.command("watch")
def watch(sweep_id: SweepId, *, as_json: AsJson = False) -> None:
    """Follow a sweep until all jobs have ended; exit with status 3 if one did not succeed."""
    with connect() as client:
        _watch(client, find_sweep_id(client, sweep_id), as_json=as_json)


@app.command("cancel")
def cancel(sweep_id: SweepId, *, as_json: AsJson = False) -> None:
    """Cancel all jobs of a sweep that have not ended."""
    with connect() as client:
        sweep = client.sweeps.cancel(find_sweep_id(client, sweep_id))
    if as_json:
        print_json(sweep)
    else:
        out.print(f"[bold]{sweep.id}[/] {_describe_counts(sweep)}")


@app.command("delete")
def delete(sweep_id: SweepId, *, as_json: AsJson = False) -> None:
    """Delete a sweep; its jobs stay."""
    with connect() as client:
        found = find_sweep_id(client, sweep_id)
        client.sweeps.delete(found)
    print_removed(found, f"Deleted {found}; its jobs stay", as_json=as_json)


def find_sweep_id(client: Potstill, text: str) -> str:
    """Return the id of the sweep with this id, unique name or unique id prefix."""
    if _FULL_ID.fullmatch(text):
        return text
    return find_one(text, "sweep", client.sweeps.list(), lambda each: (each.id, each.name)).id


def _watch(client: Potstill, sweep_id: str, *, as_json: bool) -> None:
    last = ("", 0.0)

    def show_change(sweep: Sweep) -> None:
        nonlocal last
        text = _describe_counts(sweep)
        if text != last[0] or time.monotonic() - last[1] >= _LINE_SECONDS:
            last = (text, time.monotonic())
            done = format_percent(sweep.progress.fraction, 0)
            out.print(f"{time.strftime('%H:%M:%S', time.gmtime())} {done}: {text}")

    try:
        sweep = client.sweeps.wait(sweep_id, on_change=None if as_json else show_change)
    except KeyboardInterrupt:
        err.print(f"\nThe jobs go on. Follow them again: potstill sweeps watch {sweep_id}", markup=False)
        raise typer.Exit(130) from None
    _show(sweep, "size_bytes", as_json=as_json)
    if sweep.counts.failed or sweep.counts.cancelled:
        raise typer.Exit(_EXIT_UNSUCCESSFUL)


def _show(sweep: Sweep, cost: CostName, *, as_json: bool) -> None:
    if as_json:
        print_json(sweep)
        return
    out.print(f"[bold]{sweep.id}[/]  {escape_text(sweep.name or '')}  {_describe_counts(sweep)}")
    front = {(point.job, point.artifact) for point in sweep.front(cost)}
    columns = (
        Column("#", justify="right"),
        *(Column(field) for field in _headings(sweep.fields)),
        Column("status"),
        *map(_number, ("top-1", "parameters", "size", "latency")),
        Column("front"),
        Column("job", optional=1),
    )
    rows = [row for job in sweep.jobs for row in _rows(job, sweep.fields, front)]
    print_table(columns, rows)
    out.print(f"  [dim]front: no other one has a higher top-1 at the same or a lower {_COST_TEXTS[cost]}[/]")


_COST_TEXTS = {"size_bytes": "size", "parameters": "number of parameters", "flops": "FLOPs", "latency_ms": "latency"}


def _rows(job: SweepJob, fields: list[str], front: set[tuple[str, str | None]]) -> list[tuple[Cell, ...]]:
    """Return the line of a job, and one for each of its compressed files."""
    values = [_text(job.values.get(field)) for field in fields]
    own: list[Cell] = [str(job.number), *values, status_text(job.status), *_figures(job.student)]
    rows: list[tuple[Cell, ...]] = [(*own, "*" if (job.id, None) in front else "", job.id)]
    for entry in job.compressed:
        mark = "*" if (job.id, entry.artifact) in front else ""
        rows.append(("", *([""] * len(fields)), entry.artifact, *_figures(entry), mark, ""))
    return rows


def _figures(figures: Measured | SweepCompressed | None) -> tuple[str, ...]:
    if figures is None:
        return ("—",) * 4
    return (
        format_percent(figures.top1),
        format_quantity(figures.parameters),
        format_bytes(figures.size_bytes),
        format_milliseconds(figures.latency_ms),
    )


def _describe_counts(sweep: Sweep) -> str:
    counts = sweep.counts.to_dict()
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count) or "no jobs"


def _headings(fields: list[str]) -> list[str]:
    """Return the last parts of the fields; the whole field where two have the same last part."""
    last = [field.removesuffix(".name").rpartition(".")[2] for field in fields]
    return [name if last.count(name) == 1 else field for field, name in zip(fields, last, strict=True)]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "—" if value is None else json.dumps(value, ensure_ascii=False)


def _number(heading: str) -> Column:
    return Column(heading, justify="right")

"""Jobs as text: tables and descriptions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from potstill.cli.console import out, print_warnings
from potstill.cli.tables import Column, print_table, status_text
from potstill.documents import Baseline, Compressed, JobDocument, JobFailure, Measured, Result
from potstill.formats import (
    escape_text,
    format_age,
    format_bytes,
    format_duration,
    format_gain,
    format_milliseconds,
    format_percent,
    format_quantity,
    format_teacher,
)
from potstill.job_progress import format_progress

_SHOWN_LOG_LINES = 10

JOB_COLUMNS = (
    Column("job"),
    Column("name", wraps=True),
    Column("status"),
    Column("stage", optional=1),
    Column("done", justify="right"),
    Column("top-1", justify="right"),
    Column("created", optional=2),
)
_MODEL_COLUMNS = (
    Column("model"),
    *(Column(heading, justify="right") for heading in ("top-1", "parameters", "FLOPs", "size", "latency")),
)


def print_jobs(jobs: Iterable[JobDocument]) -> None:
    """Print a table of jobs."""
    rows = [
        (
            job.id,
            job.name or "—",
            status_text(job.status),
            job.stage or "—",
            format_percent(job.progress.fraction, 0),
            format_percent(job.result.student.top1) if job.result else "—",
            format_age(job.created_at),
        )
        for job in jobs
    ]
    print_table(JOB_COLUMNS, rows)


def describe_job(job: JobDocument) -> None:
    """Print status, stages, warnings, error and result of a job."""
    out.print(f"[bold]{job.id}[/]  {escape_text(job.name or '')}  ", status_text(job.status))
    progress_text = format_progress(job)
    if progress_text:
        out.print(f"  {escape_text(progress_text)}")
    for stage in job.stages:
        out.print(f"  [dim]{stage.name:<9}[/] {'…' if stage.seconds is None else format_duration(stage.seconds)}")
    print_warnings(job.warnings)
    if job.error:
        _describe_error(job.error)
    if job.result:
        _describe_result(job.result)
    if job.next_actions:
        out.print(f"  [dim]available actions: {', '.join(job.next_actions)}[/]")
    if job.status == "succeeded":
        out.print(f"  [dim]download: potstill jobs download {job.id}[/]")


def _describe_result(result: Result) -> None:
    rows: list[tuple[str, Measured | Baseline | Compressed]] = [("student", result.student)]
    rows += [(each.artifact, each) for each in result.compressed if each.artifact is not None]
    rows += [(format_teacher(i, len(result.teachers)), teacher) for i, teacher in enumerate(result.teachers)]
    if result.baseline is not None:
        rows.append(("baseline, labels only", result.baseline))
    print_models(rows)
    for step in result.compressed:
        if step.status != "applied":
            text = f"compression step {step.step} ({step.name}) {step.status}: {step.reason or 'no reason is given'}"
            out.print(f"  [yellow]{escape_text(text)}[/]", soft_wrap=not out.is_terminal)
    if result.baseline is not None:
        gain = format_gain(result.baseline.gain, result.baseline.gain_interval)
        out.print(f"  gain over the baseline {gain}")
    if result.agreement is not None:
        teachers = "teacher" if len(result.teachers) == 1 else "teachers, on average,"
        out.print(f"  agreement with the {teachers} {format_percent(result.agreement)}")


def print_models(rows: Iterable[tuple[str, Measured | Baseline | Compressed]]) -> None:
    """Print a table of models with accuracy and cost."""
    cells = [
        (
            name,
            format_percent(metrics.top1),
            format_quantity(metrics.parameters),
            format_quantity(metrics.flops),
            format_bytes(metrics.size_bytes),
            format_milliseconds(metrics.latency_ms),
        )
        for name, metrics in rows
    ]
    print_table(_MODEL_COLUMNS, cells)


def print_log_lines(lines: Sequence[str]) -> None:
    """Print log lines of a job's process."""
    for line in lines:
        out.print(f"  [dim]{escape_text(line)}[/]", soft_wrap=True)


def _describe_error(error: JobFailure) -> None:
    fault = f" ({error.fault})" if error.fault else ""
    out.print(f"  [red]{escape_text(error.code)}[/]{fault}  {escape_text(error.message)}")
    if error.advice:
        out.print(f"  {escape_text(error.advice)}")
    if error.fix:
        out.print(f"  [dim]potstill jobs retry --apply-fix changes: {escape_text(json.dumps(error.fix))}[/]")
    print_log_lines(error.log[-_SHOWN_LOG_LINES:])

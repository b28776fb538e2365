"""Follow a job in a terminal until it ends."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from client.console import escape_text, format_duration
from client.documents import Event, Job
from client.sdk import Potstill

_POLL_SECONDS = 1


class _Detail(ProgressColumn):
    """Step, speed and remaining time, if available."""

    def render(self, task: Task) -> Text:
        """Render the text after the progress bar."""
        return Text(str(task.fields["detail"]), style="dim")


def follow(
    potstill: Potstill,
    job_id: str,
    *,
    console: Console,
    label: str | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Job:
    """Show a job's progress until it is terminal, and return the job.

    ``on_event`` receives each event; by default it is printed above the bar.
    """
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        TimeElapsedColumn(),
        _Detail(),
    )
    last_event_id: str | None = None
    # Without a terminal, a bar would print a line per change; print only the events.
    is_terminal = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not is_terminal, refresh_per_second=4) as progress:
        task = progress.add_task(escape_text(label or job_id), total=1.0, detail="")
        handle_event = on_event or _printer(progress.console)
        while True:
            job = potstill.jobs.get(job_id, wait_seconds=_POLL_SECONDS)
            progress.update(
                task,
                completed=job["progress"]["fraction"],
                description=f"{escape_text(label or job['name'] or job_id)} [blue]{job['stage'] or job['status']}[/]",
                detail=format_progress(job),
            )
            for event in potstill.jobs.past_events(job_id, after_id=last_event_id):
                last_event_id = event["id"]
                handle_event(event)
            if job["terminal"]:
                return job


def format_progress(job: Job) -> str:
    """Format progress as ``step 120/480 · 310 img/s · 12 s left``."""
    progress = job["progress"]
    parts = []
    if job["pending_action"]:
        parts.append(f"{job['pending_action']} requested")
    if progress["step"] is not None and progress["total_steps"] and job["stage"] == "distill":
        parts.append(f"step {progress['step']}/{progress['total_steps']}")
    if progress["images_per_second"]:
        parts.append(f"{progress['images_per_second']:.0f} img/s")
    if progress["eta_seconds"] is not None and not job["terminal"]:
        parts.append(f"{format_duration(progress['eta_seconds'])} left")
    return " · ".join(parts)


def _printer(console: Console) -> Callable[[Event], None]:
    styles = {"warning": "yellow", "error": "red"}

    def handle_event(event: Event) -> None:
        time = event["created_at"][11:19]
        style = styles.get(event["level"], "default")
        console.print(f"[dim]{time}[/] [{style}]{escape_text(event['message'])}[/]", highlight=False)

    return handle_event

"""Following a job in a terminal until it ends."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from client.console import duration, shown
from client.documents import Event, Job
from client.sdk import Potstill

_LOOK_SECONDS = 1


class _Detail(ProgressColumn):
    """Step, speed and time left, as far as they are known."""

    def render(self, task: Task) -> Text:
        """The words behind the bar."""
        return Text(str(task.fields["detail"]), style="dim")


def follow(
    potstill: Potstill,
    job_id: str,
    *,
    console: Console,
    label: str | None = None,
    on_event: Callable[[Event], None] | None = None,
    on_look: Callable[[Job], None] | None = None,
) -> Job:
    """Show a job's progress until it is terminal, and return it.

    Each event goes to ``on_event`` (by default it is printed above the bar); ``on_look`` sees every job
    document that is read, about one a second.
    """
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        TimeElapsedColumn(),
        _Detail(),
    )
    seen: str | None = None
    # Without a terminal a bar would leave one line for every change: the events alone are told.
    live = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not live, refresh_per_second=4) as progress:
        task = progress.add_task(shown(label or job_id), total=1.0, detail="")
        tell = on_event or _printer(progress.console)
        while True:
            job = potstill.jobs.get(job_id, wait_seconds=_LOOK_SECONDS)
            progress.update(
                task,
                completed=job["progress"]["fraction"],
                description=f"{shown(label or job['name'] or job_id)} [blue]{job['stage'] or job['status']}[/]",
                detail=progress_words(job),
            )
            if on_look is not None:
                on_look(job)
            for event in potstill.jobs.past_events(job_id, after_id=seen):
                seen = event["id"]
                tell(event)
            if job["terminal"]:
                return job


def progress_words(job: Job) -> str:
    """``step 120/480 · 310 img/s · 12 s left``."""
    at = job["progress"]
    words = []
    if job["pending_action"]:
        words.append(f"{job['pending_action']} is on its way")
    if at["step"] is not None and at["total_steps"] and job["stage"] == "distill":
        words.append(f"step {at['step']}/{at['total_steps']}")
    if at["images_per_second"]:
        words.append(f"{at['images_per_second']:.0f} img/s")
    if at["eta_seconds"] is not None and not job["terminal"]:
        words.append(f"{duration(at['eta_seconds'])} left")
    return " · ".join(words)


def _printer(console: Console) -> Callable[[Event], None]:
    styles = {"warning": "yellow", "error": "red"}

    def tell(event: Event) -> None:
        time = event["created_at"][11:19]
        style = styles.get(event["level"], "default")
        console.print(f"[dim]{time}[/] [{style}]{shown(event['message'])}[/]", highlight=False)

    return tell

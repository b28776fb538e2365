"""Follow a job until it ends: a progress bar in a terminal, lines of text elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from client.console import escape_text, format_duration
from client.documents import Event, Job, Series
from client.errors import ApiError, ServiceUnreachable
from client.sdk import Potstill
from client.transport import TEMPORARY_STATUS, retry_delay_seconds

_POLL_SECONDS = 1
_CURVE_SECONDS = 2.0  # between two requests for loss and accuracy
_LINE_SECONDS = 60.0  # between two lines of progress without a terminal
_MAX_OUTAGE_SECONDS = 600.0
# Events without a line of their own: lines of progress report them.
_QUIET_EVENTS = ("checkpoint.", "stage.")

HandleEvent = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Curves:
    """Newest loss and accuracy of the current training: the student's, or that of a teacher."""

    loss: float | None = None
    top1: float | None = None

    @classmethod
    def from_series(cls, series: Sequence[Series], stage: str | None) -> Self:
        """Take the last points of the series that belong to a stage."""
        last: Mapping[str, float | None] = {each["name"]: each["points"][-1][1] for each in series if each["points"]}
        if stage != "teacher":
            return cls(last.get("train/loss"), last.get("eval/top1"))
        teachers = sorted(name.rpartition("/")[0] for name in last if name.startswith("teacher/"))
        newest = teachers[-1] if teachers else ""
        return cls(last.get(f"{newest}/loss"), last.get(f"{newest}/top1"))


def follow(
    potstill: Potstill,
    job_id: str,
    *,
    console: Console,
    label: str | None = None,
    on_event: HandleEvent | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Job:
    """Show a job's progress until it is terminal, and return the job. Continue after an outage of the service.

    ``on_event`` receives each event; by default it is printed. Raises :class:`ServiceUnreachable` if the service does
    not respond at the start, or for ten minutes.
    """
    view: _View = _Bar(console, label or job_id, on_event) if console.is_terminal else _Lines(console, on_event, clock)
    job: Job | None = None
    curves, curves_at = Curves(), 0.0
    last_event_id: str | None = None
    outage = _Outage(console, clock)
    with view:
        while job is None or not job["terminal"]:
            try:
                job = potstill.jobs.get(job_id, wait_seconds=_POLL_SECONDS)
                if view.needs_curves(job) and clock() - curves_at >= _CURVE_SECONDS:
                    curves = Curves.from_series(potstill.jobs.metrics(job["id"], max_points=1), job["stage"])
                    curves_at = clock()
                events = list(potstill.jobs.past_events(job["id"], after_id=last_event_id))
            except (ServiceUnreachable, ApiError, httpx.TransportError) as error:
                if job is None or not outage.accepts(error):
                    raise
                continue
            outage.end()
            last_event_id = events[-1]["id"] if events else last_event_id
            view.show(job, curves, events)
    return job


def format_progress(job: Job, curves: Curves | None = None) -> str:
    """Format progress as ``step 120/480 · loss 0.812 · top-1 64.0% · 310 img/s · 12 s left``."""
    progress, curves = job["progress"], curves or Curves()
    parts = []
    if job.get("waiting_reason"):
        parts.append(str(job.get("waiting_reason")))
    if job["pending_action"]:
        parts.append(f"{job['pending_action']} requested")
    if progress["step"] is not None and progress["total_steps"] and job["stage"] == "distill":
        parts.append(f"step {progress['step']}/{progress['total_steps']}")
    if curves.loss is not None:
        parts.append(f"loss {curves.loss:.3g}")
    if curves.top1 is not None:
        parts.append(f"top-1 {curves.top1:.1%}")
    if progress["images_per_second"]:
        parts.append(f"{progress['images_per_second']:.0f} img/s")
    if progress["eta_seconds"] is not None and not job["terminal"]:
        parts.append(f"{format_duration(progress['eta_seconds'])} left")
    return " · ".join(parts)


# --- views ------------------------------------------------------------------------------------------


class _View(Protocol):
    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the view."""

    def needs_curves(self, job: Job) -> bool:
        """Whether the next :meth:`show` shows loss and accuracy."""

    def show(self, job: Job, curves: Curves, events: Sequence[Event]) -> None:
        """Show the job's state and its new events."""


class _Detail(ProgressColumn):
    """Step, loss, accuracy, speed and remaining time, if available."""

    def render(self, task: Task) -> Text:
        """Render the text after the progress bar."""
        return Text(str(task.fields["detail"]), style="dim")


class _Bar:
    """A progress bar, with the events above it."""

    def __init__(self, console: Console, label: str, on_event: HandleEvent | None) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            TimeElapsedColumn(),
            _Detail(),
        )
        self._label = label
        self._progress = Progress(*columns, console=console, transient=True, refresh_per_second=4)
        self._task = self._progress.add_task(escape_text(label), total=1.0, detail="")
        self._on_event = on_event or _printer(self._progress.console)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def needs_curves(self, job: Job) -> bool:
        return job["status"] == "running"

    def show(self, job: Job, curves: Curves, events: Sequence[Event]) -> None:
        label = self._label if self._label != job["id"] else job["name"] or job["id"]
        self._progress.update(
            self._task,
            completed=job["progress"]["fraction"],
            description=f"{escape_text(label)} [blue]{job['stage'] or job['status']}[/]",
            detail=format_progress(job, curves),
        )
        for event in events:
            self._on_event(event)


class _Lines:
    """Lines of text: one for each stage and each minute, and the events between them."""

    def __init__(self, console: Console, on_event: HandleEvent | None, clock: Callable[[], float]) -> None:
        self._console = console
        self._on_event = on_event
        self._print_event = _printer(console)
        self._clock = clock
        self._state: tuple[str, str | None] | None = None  # status and stage of the last line
        self._printed_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Nothing to end."""

    def needs_curves(self, job: Job) -> bool:
        return job["status"] == "running" and self._is_due(job)

    def show(self, job: Job, curves: Curves, events: Sequence[Event]) -> None:
        for event in events:
            if self._on_event is not None:
                self._on_event(event)
            elif event["level"] != "info" or not event["type"].startswith(_QUIET_EVENTS):
                self._print_event(event)
        if job["terminal"] or not self._is_due(job):
            return
        facts = [f"{job['progress']['fraction']:.0%}", format_progress(job, curves)]
        line = " · ".join(fact for fact in facts if fact)
        self._console.print(f"{_time_now()} {job['stage'] or job['status']}: {line}", highlight=False, soft_wrap=True)
        self._state, self._printed_at = (job["status"], job["stage"]), self._clock()

    def _is_due(self, job: Job) -> bool:
        is_new = self._state != (job["status"], job["stage"])
        return is_new or self._clock() - self._printed_at >= _LINE_SECONDS


class _Outage:
    """An outage of the service: reported once, tolerated for ten minutes."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console = console
        self._clock = clock
        self._started_at: float | None = None
        self._attempt = 0

    def accepts(self, error: Exception) -> bool:
        """Report the start of an outage, and wait before the next request; False if it lasts too long."""
        if isinstance(error, ApiError) and error.status not in TEMPORARY_STATUS:
            return False
        if self._started_at is None:
            self._started_at, self._attempt = self._clock(), 0
            self._console.print("[yellow]The service does not respond; the job continues. Reconnecting…[/]")
        if self._clock() - self._started_at > _MAX_OUTAGE_SECONDS:
            return False
        time.sleep(retry_delay_seconds(self._attempt))
        self._attempt += 1
        return True

    def end(self) -> None:
        """Report the end of an outage, if there was one."""
        if self._started_at is not None:
            self._started_at = None
            self._console.print("Connected again.")


def _time_now() -> str:
    """The time of day in UTC, as in events."""
    return time.strftime("%H:%M:%S", time.gmtime())


def _printer(console: Console) -> HandleEvent:
    styles = {"warning": "yellow", "error": "red"}

    def handle_event(event: Event) -> None:
        at = event["created_at"][11:19]
        style = styles.get(event["level"], "default")
        console.print(f"[dim]{at}[/] [{style}]{escape_text(event['message'])}[/]", highlight=False, soft_wrap=True)

    return handle_event

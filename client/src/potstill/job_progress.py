"""Show a job's progress: a bar in a terminal, lines of text elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from potstill.documents import Event, JobDocument, Series
from potstill.formats import escape_text, format_duration, format_percent

LINE_SECONDS = 60.0  # between two lines of progress without a terminal
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
        last = {each.name: each.points[-1][1] for each in series if each.points}
        if stage != "teacher":
            return cls(last.get("train/loss"), last.get("eval/top1"))
        teachers = sorted(name.rpartition("/")[0] for name in last if name.startswith("teacher/"))
        newest = teachers[-1] if teachers else ""
        return cls(last.get(f"{newest}/loss"), last.get(f"{newest}/top1"))


_STAGE_TRAININGS = {"teacher": "teacher", "baseline": "baseline", "compress": "fine-tuning"}
"""Names of the trainings other than the student's, by stage."""


def format_progress(job: JobDocument, curves: Curves | None = None) -> str:
    """Format progress as ``step 120/480 · loss 0.812 · top-1 64.0 % · 310 img/s · 12 s left``."""
    progress, curves = job.progress, curves or Curves()
    parts = []
    if job.waiting_reason:
        parts.append(job.waiting_reason)
    if job.pending_action:
        parts.append(f"{job.pending_action} requested")
    if progress.total_steps and job.stage == "distill":
        parts.append(f"step {progress.step}/{progress.total_steps}")
    elif job.stage in _STAGE_TRAININGS and progress.stage_step is not None and not job.terminal:
        parts.append(f"{_STAGE_TRAININGS[job.stage]} step {progress.stage_step}/{progress.stage_total_steps}")
    if curves.loss is not None:
        parts.append(f"loss {curves.loss:.3g}")
    if curves.top1 is not None:
        parts.append(f"top-1 {format_percent(curves.top1)}")
    if progress.images_per_second:
        parts.append(f"{progress.images_per_second:.0f} img/s")
    if progress.eta_seconds is not None and not job.terminal:
        parts.append(f"{format_duration(progress.eta_seconds)} left")
    return " · ".join(parts)


class JobView(Protocol):
    """Shows a job while it is followed."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None:
        """End the view."""

    @property
    def poll_seconds(self) -> int:
        """Longest wait for a change of the job."""

    @property
    def shows_events(self) -> bool:
        """Whether :meth:`show` needs the job's events."""

    def needs_curves(self, job: JobDocument) -> bool:
        """Whether the next :meth:`show` shows loss and accuracy."""

    def show(self, job: JobDocument, curves: Curves, events: Sequence[Event]) -> None:
        """Show the job's state and its new events."""

    def say(self, text: str) -> None:
        """Show a sentence about the connection."""


def open_view(
    console: Console,
    *,
    label: str | None = None,
    on_event: HandleEvent | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> JobView:
    """Return a progress bar in a terminal, else lines. ``on_event`` receives events instead of the console."""
    return _Bar(console, label, on_event) if console.is_terminal else _Lines(console, on_event, clock)


class HiddenView:
    """Shows nothing."""

    poll_seconds = 30
    shows_events = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    def needs_curves(self, job: JobDocument) -> bool:  # noqa: ARG002 - of the protocol
        """Return False."""
        return False

    def show(self, job: JobDocument, curves: Curves, events: Sequence[Event]) -> None:
        """Show nothing."""

    def say(self, text: str) -> None:
        """Show nothing."""


class _TwoLines(Progress):
    """A bar, and below it step, loss, accuracy, speed and remaining time, which fit into 80 columns."""

    def get_renderables(self) -> Iterator[RenderableType]:
        """Render the bar and the line of details."""
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            yield Text(f"  {task.fields['detail']}", style="dim", overflow="ellipsis", no_wrap=True)


class _Bar:
    """A progress bar, with the events above it."""

    poll_seconds = 1
    shows_events = True

    def __init__(self, console: Console, label: str | None, on_event: HandleEvent | None) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20 if console.width < 100 else 40),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
        )
        self._label = label
        self._progress = _TwoLines(*columns, console=console, transient=True, refresh_per_second=4)
        self._task = self._progress.add_task(escape_text(label or ""), total=1.0, detail="")
        self._on_event = on_event or event_printer(self._progress.console)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def needs_curves(self, job: JobDocument) -> bool:
        return job.status == "running"

    def show(self, job: JobDocument, curves: Curves, events: Sequence[Event]) -> None:
        self._progress.update(
            self._task,
            completed=job.progress.fraction,
            description=f"{escape_text(self._label or job.name or job.id)} [blue]{job.stage or job.status}[/]",
            detail=format_progress(job, curves),
        )
        for event in events:
            self._on_event(event)

    def say(self, text: str) -> None:
        self._progress.console.print(f"[yellow]{text}[/]", soft_wrap=True)


class _Lines:
    """Lines of text: one for each stage and each minute, and the events between them."""

    poll_seconds = 1
    shows_events = True

    def __init__(self, console: Console, on_event: HandleEvent | None, clock: Callable[[], float]) -> None:
        self._console = console
        self._on_event = on_event
        self._print_event = event_printer(console)
        self._clock = clock
        self._state: tuple[str, str | None] | None = None  # status and stage of the last line
        self._printed_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    def needs_curves(self, job: JobDocument) -> bool:
        return job.status == "running" and self._is_due(job)

    def show(self, job: JobDocument, curves: Curves, events: Sequence[Event]) -> None:
        for event in events:
            if self._on_event is not None:
                self._on_event(event)
            elif event.level != "info" or not event.type.startswith(_QUIET_EVENTS):
                self._print_event(event)
        if job.terminal or not self._is_due(job):
            return
        facts = [format_percent(job.progress.fraction, 0), format_progress(job, curves)]
        line = " · ".join(fact for fact in facts if fact)
        text = f"{_time_now()} {job.stage or job.status}: {line}"
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)
        self._state, self._printed_at = (job.status, job.stage), self._clock()

    def say(self, text: str) -> None:
        self._console.print(f"{_time_now()} {text}", highlight=False, soft_wrap=True, markup=False)

    def _is_due(self, job: JobDocument) -> bool:
        is_new = self._state != (job.status, job.stage)
        return is_new or self._clock() - self._printed_at >= LINE_SECONDS


def event_printer(console: Console) -> HandleEvent:
    """Return a function that prints an event with its time in UTC."""
    styles = {"warning": "yellow", "error": "red"}

    def handle_event(event: Event) -> None:
        style = styles.get(event.level, "default")
        text = f"[dim]{event.created_at:%H:%M:%S}[/] [{style}]{escape_text(event.message)}[/]"
        console.print(text, highlight=False, soft_wrap=True)

    return handle_event


def _time_now() -> str:
    """The time of day in UTC, as in events."""
    return time.strftime("%H:%M:%S", time.gmtime())

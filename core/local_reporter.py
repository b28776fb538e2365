"""Reporters of a run without the service: one writes to folders, one also draws a progress bar."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from core.job_warnings import JobWarning, merge_warnings
from core.reporting import (
    Control,
    NullReporter,
    Progress,
    SavedCheckpoint,
    Stage,
    TrainedKind,
    track_series,
)
from core.system.disk import atomic_path, write_atomic

_NUM_CHECKPOINTS = 2  # per track, to resume from
METRICS_FILE = "metrics.jsonl"
WARNINGS_FILE = "warnings.json"
WEIGHTS_DIR = "weights"  # of checkpoints that the spec requests to keep


class FolderReporter(NullReporter):
    """Write checkpoints, metrics and trained teachers to folders; request ``control_override``.

    ``root`` belongs to one run, ``teachers`` may be shared by many. A run that restarts with the same ``root`` resumes
    from its checkpoints.
    """

    def __init__(self, root: Path, *, teachers: Path) -> None:
        self.root = root
        self.control_override = Control.GO
        self.stage: Stage | None = None
        self.latest: Progress | None = None
        self._teachers = teachers
        self._checkpoints = root / "checkpoints"
        self._checkpoints.mkdir(parents=True, exist_ok=True)
        self._metrics = (root / METRICS_FILE).open("a", encoding="utf-8")

    def stage_started(self, stage: Stage) -> None:
        """Remember the stage."""
        self.stage = stage

    def progress(self, progress: Progress) -> None:
        """Remember the newest progress."""
        self.latest = progress

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Append to ``metrics.jsonl``."""
        self._metrics.write(json.dumps({"step": step, **values}) + "\n")

    def warning(self, warning: JobWarning) -> None:
        """Add the warning to ``warnings.json``, and report an event unless the file has it."""
        existing = [entry.model_dump(mode="json") for entry in self.warnings()]
        merged = merge_warnings(existing, [warning])
        if merged != existing:
            write_atomic(self.root / WARNINGS_FILE, json.dumps(merged).encode(), durable=False)
            self.event("job.warning", warning.text, level="warning", data=warning.model_dump(mode="json"))

    def warnings(self) -> list[JobWarning]:
        """Read ``warnings.json``."""
        path = self.root / WARNINGS_FILE
        entries = json.loads(path.read_bytes()) if path.exists() else []
        return [JobWarning.model_validate(entry) for entry in entries]

    def control(self) -> Control:
        """Return ``control_override``."""
        return self.control_override

    def save_checkpoint(self, checkpoint: SavedCheckpoint) -> None:
        """Move the checkpoint into its track and delete older ones; copy weights to keep."""
        self._metrics.flush()
        if checkpoint.keep:
            weights = self.root / WEIGHTS_DIR / f"{checkpoint.track}-epoch-{checkpoint.epoch:05d}.safetensors"
            weights.parent.mkdir(exist_ok=True)
            shutil.copyfile(checkpoint.folder / "model.safetensors", weights)
        folder = self._track(checkpoint.track)
        folder.mkdir(exist_ok=True)
        target = folder / f"{checkpoint.step:09d}"
        shutil.rmtree(target, ignore_errors=True)
        _move_folder(checkpoint.folder, target)
        for old in self._steps(checkpoint.track)[:-_NUM_CHECKPOINTS]:
            shutil.rmtree(old)

    def newest_checkpoint(self, track: str) -> Path | None:
        """Return the newest checkpoint folder. Delete the metrics of later steps, which will be logged again."""
        steps = self._steps(track)
        self._delete_metrics(track, after=int(steps[-1].name) if steps else 0)
        return steps[-1] if steps else None

    def find_teacher(self, fingerprint: str) -> Path | None:
        """Return the folder of a teacher that a run saved, or None."""
        folder = self._teachers / fingerprint
        return folder if folder.is_dir() else None

    def save_teacher(self, fingerprint: str, folder: Path, *, kind: TrainedKind = "teacher") -> None:  # noqa: ARG002
        """Copy the teacher into the shared folder."""
        target = self._teachers / fingerprint
        if not target.is_dir():
            self._teachers.mkdir(parents=True, exist_ok=True)
            with atomic_path(target, durable=False, unique=False) as temporary:
                shutil.copytree(folder, temporary)

    def close(self) -> None:
        """Close ``metrics.jsonl``."""
        self._metrics.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _track(self, track: str) -> Path:
        return self._checkpoints / track

    def _steps(self, track: str) -> list[Path]:
        folder = self._track(track)
        if not folder.is_dir():
            return []
        return sorted(path for path in folder.iterdir() if path.name.isdigit())

    def _delete_metrics(self, track: str, *, after: int) -> None:
        self._metrics.close()
        path = self.root / METRICS_FILE
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if _is_retained(line, track, after)]
        write_atomic(path, "".join(f"{line}\n" for line in lines).encode(), durable=False)
        self._metrics = path.open("a", encoding="utf-8")


class ConsoleReporter(FolderReporter):
    """Folder reporter that also prints events and draws a progress bar.

    It requests a pause once ``is_pause_requested`` returns True.
    """

    def __init__(
        self,
        root: Path,
        *,
        teachers: Path,
        console: Console,
        is_pause_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(root, teachers=teachers)
        self._console = console
        self._is_pause_requested = is_pause_requested
        self._bar = Bar(
            TextColumn("{task.description:>8}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
        )
        self._task = self._bar.add_task("", total=1.0, note="")
        self._loss = ""
        self._bar.start()

    def control(self) -> Control:
        """Return ``control_override``, or a pause that another process requests."""
        if self.control_override is Control.GO and self._is_pause_requested():
            self.control_override = Control.PAUSE
        return super().control()

    def stage_started(self, stage: Stage) -> None:
        """Show the stage's name."""
        super().stage_started(stage)
        self._loss = ""
        self._bar.update(self._task, description=stage.value, note="")

    def progress(self, progress: Progress) -> None:
        """Update the bar."""
        super().progress(progress)
        step, total = progress.stage_step, progress.stage_total_steps
        parts = [f"step {step}/{total}" if step is not None else ""]
        if progress.images_per_second is not None:
            parts.append(f"{progress.images_per_second:,.0f} img/s")
        if progress.eta_seconds is not None:
            parts.append(f"{_format_minutes(progress.eta_seconds)} left")
        note = "  ".join([*filter(None, parts), self._loss])
        self._bar.update(self._task, completed=progress.fraction, note=note)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Remember the loss for the bar."""
        super().metrics(step, values)
        loss = next((value for name, value in values.items() if name.endswith("/loss")), None)
        if loss is not None:
            self._loss = f"loss {loss:.3f}"

    def event(
        self,
        type: str,  # noqa: A002 - the name in the API
        message: str,
        *,
        level: Literal["info", "warning", "error"] = "info",
        data: Mapping[str, Any] | None = None,  # noqa: ARG002 - the message contains it
    ) -> None:
        """Print a line above the bar."""
        style = {"info": "dim", "warning": "yellow", "error": "red"}[level]
        self._console.print(f"{type:<22} {message}", style=style, markup=False, highlight=False)

    def close(self) -> None:
        """Stop the bar, leaving it on screen."""
        self._bar.stop()
        super().close()


def _is_retained(line: str, track: str, after: int) -> bool:
    try:
        entry = json.loads(line)
    except ValueError:  # incomplete last line of a killed run
        return False
    series = next((name for name in entry if name != "step"), "")
    prefix, others = track_series(track)
    return int(entry["step"]) <= after or not series.startswith(prefix) or series.startswith(others)


def _move_folder(source: Path, target: Path) -> None:
    """Move a folder atomically; copy it where ``target`` is on another file system."""
    try:
        source.rename(target)
    except OSError:
        with atomic_path(target, durable=False, unique=False) as temporary:
            shutil.copytree(source, temporary)


def _format_minutes(seconds: float) -> str:
    minutes, remainder = divmod(round(seconds), 60)
    return f"{minutes}:{remainder:02d}"

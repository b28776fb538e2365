"""A run without a service: a reporter that keeps everything in a folder, and one that shows it as well."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from core.reporting import Control, Progress, SavedCheckpoint, Stage

_NEWEST = 2  # checkpoints a track that are kept to resume from
METRICS_FILE = "metrics.jsonl"
_KEPT = "weights"


class FolderReporter:
    """Keeps checkpoints, metrics and trained teachers in folders, and asks for whatever ``wish`` says.

    ``root`` is this run's own. ``teachers`` may be shared by many runs. A run that starts again on the
    same ``root`` finds what an earlier one left.
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
        """Note the stage."""
        self.stage = stage

    def stage_finished(self, stage: Stage) -> None:
        """Nothing is kept of a stage but its product."""

    def progress(self, progress: Progress) -> None:
        """Keep the newest."""
        self.latest = progress

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Append to ``metrics.jsonl``."""
        self._metrics.write(json.dumps({"step": step, **values}) + "\n")

    def event(
        self,
        type: str,  # noqa: A002 - the wire's word
        message: str,
        *,
        level: Literal["info", "warning", "error"] = "info",
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Nobody listens here."""

    def control(self) -> Control:
        """Whatever was wished for."""
        return self.control_override

    def save_checkpoint(self, checkpoint: SavedCheckpoint) -> None:
        """Move the checkpoint into place and drop older ones; weights to keep are copied out."""
        self._metrics.flush()
        if checkpoint.keep:
            kept = self.root / _KEPT / f"{checkpoint.track}-epoch-{checkpoint.epoch:05d}.safetensors"
            kept.parent.mkdir(exist_ok=True)
            shutil.copyfile(checkpoint.folder / "model.safetensors", kept)
        folder = self._track(checkpoint.track)
        folder.mkdir(exist_ok=True)
        target = folder / f"{checkpoint.step:09d}"
        shutil.rmtree(target, ignore_errors=True)
        _move_whole(checkpoint.folder, target)
        for old in self._steps(checkpoint.track)[:-_NEWEST]:
            shutil.rmtree(old)

    def newest_checkpoint(self, track: str) -> Path | None:
        """The newest one in the folder. Metrics of later steps are dropped: they will come again."""
        steps = self._steps(track)
        self._drop_metrics(track, after=int(steps[-1].name) if steps else 0)
        return steps[-1] if steps else None

    def find_teacher(self, recipe: str) -> Path | None:
        """A teacher that some run kept under this recipe."""
        folder = self._teachers / recipe
        return folder if folder.is_dir() else None

    def keep_teacher(self, recipe: str, folder: Path) -> None:
        """Copy the teacher to where later runs look."""
        target = self._teachers / recipe
        if not target.is_dir():
            self._teachers.mkdir(parents=True, exist_ok=True)
            copy = self._teachers / f".{recipe}.part"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(folder, copy)
            copy.rename(target)

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

    def _drop_metrics(self, track: str, *, after: int) -> None:
        self._metrics.close()
        path = self.root / METRICS_FILE
        kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _stays(line, track, after)]
        beside = path.with_suffix(".part")
        beside.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        beside.replace(path)
        self._metrics = path.open("a", encoding="utf-8")


class ConsoleReporter(FolderReporter):
    """Shows stages, events and a progress bar as well."""

    def __init__(self, root: Path, *, teachers: Path, console: Console) -> None:
        super().__init__(root, teachers=teachers)
        self._console = console
        self._bar = Bar(
            TextColumn("{task.description:>8}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
        )
        self._task = self._bar.add_task("", total=1.0, note="")
        self._loss = ""
        self._bar.start()

    def stage_started(self, stage: Stage) -> None:
        """Name the stage beside the bar."""
        super().stage_started(stage)
        self._loss = ""
        self._bar.update(self._task, description=stage.value, note="")

    def progress(self, progress: Progress) -> None:
        """Move the bar."""
        super().progress(progress)
        step, total = progress.stage_step, progress.stage_total_steps
        parts = [f"step {step}/{total}" if step is not None else ""]
        if progress.images_per_second is not None:
            parts.append(f"{progress.images_per_second:,.0f} img/s")
        if progress.eta_seconds is not None:
            parts.append(f"{_minutes(progress.eta_seconds)} left")
        note = "  ".join([*filter(None, parts), self._loss])
        self._bar.update(self._task, completed=progress.fraction, note=note)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Keep the loss for the bar."""
        super().metrics(step, values)
        loss = next((value for name, value in values.items() if name.endswith("/loss")), None)
        if loss is not None:
            self._loss = f"loss {loss:.3f}"

    def event(
        self,
        type: str,  # noqa: A002 - the wire's word
        message: str,
        *,
        level: Literal["info", "warning", "error"] = "info",
        data: Mapping[str, Any] | None = None,  # noqa: ARG002 - the message says it in words
    ) -> None:
        """Print a line above the bar."""
        style = {"info": "dim", "warning": "yellow", "error": "red"}[level]
        self._console.print(f"{type:<18} {message}", style=style, markup=False, highlight=False)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.stop()
        super().close()


def _stays(line: str, track: str, after: int) -> bool:
    try:
        entry = json.loads(line)
    except ValueError:  # the last line of a run that was killed
        return False
    series = next((name for name in entry if name != "step"), "")
    return int(entry["step"]) <= after or _track_of(series) != track


def _track_of(series: str) -> str:
    """``teacher/0/loss`` belongs to track ``teacher-0``; every other series to the student's."""
    parts = series.split("/")
    return f"teacher-{parts[1]}" if parts[0] == "teacher" else "distill"


def _move_whole(source: Path, target: Path) -> None:
    """Move a folder, also to another file system, so that ``target`` is whole or absent."""
    try:
        source.rename(target)
    except OSError:
        beside = target.with_name(f".{target.name}.part")
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(source, beside)
        beside.rename(target)


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"

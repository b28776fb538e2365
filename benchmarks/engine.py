"""Jobs in this process with ``core.pipeline.run``, without a service."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core import pipeline
from core.data.stored import read_dataset_info
from core.local_reporter import FolderReporter
from core.models.safetensors_header import read_model_info
from core.reporting import PIXEL_CACHE_BYTES, Control, RunResult, Stage, Workspace
from core.resolve import resolver
from core.spec import JobSpec, parse_job_spec


@dataclass(frozen=True, slots=True)
class JobInputs:
    """Inputs that jobs of a benchmark share: datasets and models by id, and a work folder."""

    work: Path
    datasets: Mapping[str, Path]
    models: Mapping[str, Path] = field(default_factory=dict)
    pixel_cache_bytes: int = PIXEL_CACHE_BYTES

    def resolve(self, document: Mapping[str, Any], *, threads: int) -> JobSpec:
        """Return the resolved spec. Raises ``InvalidSpec``."""
        spec = parse_job_spec(dict(document))
        infos = {name: read_dataset_info(folder) for name, folder in self.datasets.items()}
        models = {name: read_model_info(folder) for name, folder in self.models.items() if name in spec.references()}
        return resolver.resolve(spec, infos[spec.dataset], models, datasets=infos, threads=threads).spec

    def workspace(self, spec: JobSpec, root: Path) -> Workspace:
        """Return the workspace of a run in ``root``."""
        others = {name: self.datasets[name] for name in spec.further_datasets().values()}
        cache = self.work / "cache"
        return Workspace(
            root=root,
            cache=cache,
            dataset=self.datasets[spec.dataset],
            models=self.models,
            datasets=others,
            pixel_cache_bytes=self.pixel_cache_bytes,
        )


class BenchmarkReporter(FolderReporter):
    """Records the preflight's step time and the names of the loss terms; can pause the run at a deadline or step."""

    def __init__(
        self, root: Path, *, teachers: Path, deadline: float | None = None, pause_after: int | None = None
    ) -> None:
        super().__init__(root, teachers=teachers)
        self.step_seconds: float | None = None
        self.series: set[str] = set()
        self._deadline = deadline
        self._steps_left = pause_after

    def event(self, type: str, message: str, **more: Any) -> None:  # noqa: A002, ARG002 - the interface's name
        """Record the seconds of a step."""
        if type == "preflight.passed":
            self.step_seconds = more["data"]["step_seconds"]

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record the names of the series."""
        super().metrics(step, values)
        self.series.update(values)

    def control(self) -> Control:
        """Pause at the deadline or after the given steps, so that a later run resumes. Called before each step."""
        if self._deadline is not None and time.monotonic() > self._deadline:
            return Control.PAUSE
        if self._steps_left is not None and self.stage is Stage.DISTILL:
            self._steps_left -= 1
            return Control.PAUSE if self._steps_left < 0 else Control.GO
        return Control.GO

    @property
    def terms(self) -> list[str]:
        """Names of the terms of the student's loss."""
        return loss_terms(self.series)


def run(inputs: JobInputs, spec: JobSpec, root: Path, reporter: FolderReporter) -> RunResult:
    """Run a resolved spec in ``root``, resuming from an earlier attempt in that folder."""
    root.mkdir(parents=True, exist_ok=True)
    with reporter:
        return pipeline.run(spec, inputs.workspace(spec, root), reporter)


def run_new(
    inputs: JobInputs, document: Mapping[str, Any], name: str, *, threads: int
) -> tuple[RunResult, BenchmarkReporter]:
    """Run a job from its start in a new folder."""
    root = inputs.work / "runs" / name
    shutil.rmtree(root, ignore_errors=True)
    spec = inputs.resolve(document, threads=threads)
    reporter = BenchmarkReporter(root, teachers=inputs.work / "teachers")
    return run(inputs, spec, root, reporter), reporter


def loss_terms(series: Iterable[str]) -> list[str]:
    """Return the names of the student's loss terms among all series names."""
    found = {name.removeprefix("train/") for name in series if name.startswith("train/")}
    return sorted(found - {"loss", "learning_rate", "gradient_norm"})

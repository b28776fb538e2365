"""A job in this process, through the engine's one entry, without a service."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core import pipeline
from core.data.stored import StoredDataset
from core.local_reporter import FolderReporter
from core.models.safetensors_header import read_model_info
from core.reporting import PIXEL_CACHE_BYTES, Control, RunResult, Stage, Workspace
from core.resolve import resolver
from core.spec import JobSpec, parse_job_spec
from core.spec.facts import DatasetInfo


@dataclass(frozen=True, slots=True)
class Shelf:
    """What jobs of a benchmark share: datasets and models by their ids, and a folder to work in."""

    work: Path
    datasets: Mapping[str, Path]
    models: Mapping[str, Path] = field(default_factory=dict)
    pixel_cache_bytes: int = PIXEL_CACHE_BYTES

    def resolve(self, document: Mapping[str, Any], *, threads: int) -> JobSpec:
        """The spec with nothing left open. Raises ``InvalidSpec``."""
        spec = parse_job_spec(dict(document))
        facts = {name: dataset_facts(folder) for name, folder in self.datasets.items()}
        models = {name: read_model_info(folder) for name, folder in self.models.items() if name in spec.references()}
        return resolver.resolve(spec, facts[spec.dataset], models, datasets=facts, threads=threads).spec

    def workspace(self, spec: JobSpec, root: Path) -> Workspace:
        """Where a run reads and writes."""
        others = {name: self.datasets[name] for name in spec.method.datasets().values()}
        cache = self.work / "cache"
        return Workspace(
            root=root,
            cache=cache,
            dataset=self.datasets[spec.dataset],
            models=self.models,
            datasets=others,
            pixel_cache_bytes=self.pixel_cache_bytes,
        )


class Watching(FolderReporter):
    """Notes the probe and the names of the loss terms; asks the run to pause at a deadline, or after some steps."""

    def __init__(
        self, root: Path, *, teachers: Path, deadline: float | None = None, pause_after: int | None = None
    ) -> None:
        super().__init__(root, teachers=teachers)
        self.step_seconds: float | None = None
        self.series: set[str] = set()
        self._deadline = deadline
        self._steps_left = pause_after

    def event(self, type: str, message: str, **more: Any) -> None:  # noqa: A002, ARG002 - the wire's word
        """Note how long a step takes."""
        if type == "preflight.passed":
            self.step_seconds = more["data"]["step_seconds"]

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Note the names."""
        super().metrics(step, values)
        self.series.update(values)

    def control(self) -> Control:
        """Pause, so that the run goes on from there another time; asked before every step."""
        if self._deadline is not None and time.monotonic() > self._deadline:
            return Control.PAUSE
        if self._steps_left is not None and self.stage is Stage.DISTILL:
            self._steps_left -= 1
            return Control.PAUSE if self._steps_left < 0 else Control.GO
        return Control.GO

    @property
    def terms(self) -> list[str]:
        """The terms of the student's loss."""
        return loss_terms(self.series)


def run(shelf: Shelf, spec: JobSpec, root: Path, reporter: FolderReporter) -> RunResult:
    """Run a resolved spec in ``root``; what an earlier attempt left there is gone on from."""
    root.mkdir(parents=True, exist_ok=True)
    with reporter:
        return pipeline.run(spec, shelf.workspace(spec, root), reporter)


def run_afresh(shelf: Shelf, document: Mapping[str, Any], name: str, *, threads: int) -> tuple[RunResult, Watching]:
    """Run a job from the beginning, in a folder of its own."""
    root = shelf.work / "runs" / name
    shutil.rmtree(root, ignore_errors=True)
    spec = shelf.resolve(document, threads=threads)
    reporter = Watching(root, teachers=shelf.work / "teachers")
    return run(shelf, spec, root, reporter), reporter


def loss_terms(series: Iterable[str]) -> list[str]:
    """The names of the terms of the student's loss among those of all series."""
    found = {name.removeprefix("train/") for name in series if name.startswith("train/")}
    return sorted(found - {"loss", "learning_rate", "gradient_norm"})


def dataset_facts(folder: Path) -> DatasetInfo:
    """What a spec is resolved with."""
    with StoredDataset.open(folder) as stored:
        return DatasetInfo(
            num_classes=stored.num_classes,
            classes=stored.classes,
            channels=stored.channels,
            image_size=stored.image_size,
            num_train=len(stored.split("train")),
            num_test=len(stored.split("test")),
        )

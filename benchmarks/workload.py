"""The trainings of the speed benchmarks: one small student and teachers of several sizes, all with random weights.

The values of weights do not change the time of a step.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine import JobInputs, run
from benchmarks.images import stored_images
from core.data.pixels import load_pixels
from core.data.stored import StoredDataset, read_dataset_info
from core.data.views import steps_per_epoch
from core.local_reporter import FolderReporter
from core.models.build import build_student, build_teacher
from core.models.built import BuiltModel
from core.models.plan import plan_student, plan_teacher
from core.reporting import PIXEL_CACHE_BYTES, Control, Interrupted, Stage
from core.seeds import derive_seed
from core.spec import JobSpec
from core.spec.info import InputInfo
from core.train.loader import BatchLoader

IMAGE_SIZE = 32
_PATCHES = {"patch_size": 4}
STUDENT = {
    "architecture": "vit_tiny_patch16_224",
    "weights": "random",
    "arguments": {**_PATCHES, "embed_dim": 96, "depth": 6, "num_heads": 3},
}
TEACHERS: Mapping[str, dict[str, Any]] = {
    "deit_tiny": {"architecture": "deit_tiny_patch16_224", "weights": "random", "arguments": _PATCHES},
    "deit_small": {"architecture": "deit_small_patch16_224", "weights": "random", "arguments": _PATCHES},
    "dla34": {"architecture": "dla34", "weights": "random"},
    "equal": STUDENT,
}
"""By their names in figures; ``equal`` has the size of the student."""

TINY = {
    "architecture": "vit_tiny_patch16_224",
    "weights": "random",
    "arguments": {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2},
}
"""Student and teacher of a ``--quick`` run."""


@dataclass(frozen=True, slots=True)
class WorkloadSize:
    """The size of a training."""

    num_images: int
    epochs: int
    batch_size: int = 64
    views: int | None = 4
    tiny: bool = False

    def describe(self) -> str:
        """Return a text for a figure's detail."""
        return f"{self.num_images} images, {self.epochs} epochs, batches of {self.batch_size}"


class TimingReporter(FolderReporter):
    """Records the time of each step and the seconds of each stage; can stop the job after the training.

    Only for a CPU, which reports the loss of a step at once.
    """

    def __init__(self, root: Path, *, teachers: Path, only_training: bool = False) -> None:
        super().__init__(root, teachers=teachers)
        self.only_training = only_training
        self.step_at: list[float] = []
        self.stages: dict[str, float] = {}
        self._began = 0.0

    def stage_started(self, stage: Stage) -> None:
        """Record the start of a stage."""
        super().stage_started(stage)
        self._began = time.perf_counter()

    def stage_finished(self, stage: Stage) -> None:
        """Record the seconds of a stage."""
        self.stages[stage.value] = time.perf_counter() - self._began

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record the time of each loss of the student."""
        super().metrics(step, values)
        if "train/loss" in values:
            self.step_at.append(time.perf_counter())

    def control(self) -> Control:
        """Cancel before the evaluation if only the training is measured."""
        return Control.CANCEL if self.only_training and self.stage is Stage.EVALUATE else Control.GO


@dataclass(frozen=True, slots=True)
class JobTimes:
    """Seconds of a job: in total, of its training, and of each epoch."""

    total: float
    training: float
    epochs: tuple[float, ...]


def steady_epoch_seconds(epochs: Sequence[float]) -> float:
    """Mean seconds of an epoch, without the first one."""
    return sum(epochs[1:]) / len(epochs[1:])


class Workload:
    """Runs trainings with the engine, and provides the same networks and batches to other packages."""

    def __init__(
        self, work: Path, sizes: WorkloadSize, *, threads: int, pixel_cache_bytes: int = PIXEL_CACHE_BYTES
    ) -> None:
        folder, self.source = stored_images(work, sizes.num_images, side=IMAGE_SIZE)
        self.sizes = sizes
        self.threads = threads
        self.inputs = JobInputs(work, {"ds_images": folder}, pixel_cache_bytes=pixel_cache_bytes)
        self.folder = folder

    def spec(self, teacher: str | None, *, epochs: int | None = None, **method: Any) -> JobSpec:
        """Return a resolved spec: soft labels from the named teacher, or labels only."""
        tiny = self.sizes.tiny
        document: dict[str, Any] = {
            "dataset": "ds_images",
            "student": TINY if tiny else STUDENT,
            "method": {"name": "scratch"} if teacher is None else {"name": "kd", **method},
            "training": {
                "epochs": epochs or self.sizes.epochs,
                "batch_size": self.sizes.batch_size,
                "views": self.sizes.views,
                "image_size": IMAGE_SIZE,
            },
            "export": ["safetensors"],
        }
        if teacher is not None:
            document["teachers"] = [TINY if tiny else TEACHERS[teacher]]
        return self.inputs.resolve(document, threads=self.threads)

    def run(self, spec: JobSpec, *, only_training: bool = False) -> JobTimes:
        """Run a job from its start with ``core.pipeline.run``, in a new folder."""
        root = self.inputs.work / f"run-{os.getpid()}"  # two processes may share the work folder
        shutil.rmtree(root, ignore_errors=True)
        reporter = TimingReporter(root, teachers=self.inputs.work / "teachers", only_training=only_training)
        began = time.perf_counter()
        with suppress(Interrupted):
            run(self.inputs, spec, root, reporter)
        total = time.perf_counter() - began
        steps = steps_per_epoch(self.sizes.num_images, spec.training.batch_size)
        ends = reporter.step_at[steps - 1 :: steps]
        assert len(ends) == spec.training.epochs, "the loss of every step is reported"
        first = reporter.stages["distill"] - (ends[-1] - ends[0])  # includes the time before and after the epochs
        later = [end - start for start, end in pairwise(ends)]
        return JobTimes(total, reporter.stages["distill"], (first, *later))

    def clear_teacher_cache(self) -> None:
        """Delete the teacher cache, so that the next job fills it again."""
        shutil.rmtree(self.inputs.work / "cache" / "teacher_outputs", ignore_errors=True)

    def num_cached_shards(self) -> int:
        """Number of shards in the teacher cache."""
        return sum(1 for _ in (self.inputs.work / "cache" / "teacher_outputs").glob("*/*.shard"))

    def networks(self, spec: JobSpec) -> tuple[BuiltModel, BuiltModel]:
        """Build student and teacher with the initial weights of the engine's job."""
        facts = read_dataset_info(self.folder)
        built_for = InputInfo(facts.num_classes, facts.channels, facts.image_size)
        torch.manual_seed(derive_seed(spec.training.seed, "teacher-0"))
        teacher = build_teacher(plan_teacher(spec.teachers[0], built_for, image_size=IMAGE_SIZE))
        torch.manual_seed(derive_seed(spec.training.seed, "student"))
        student = build_student(plan_student(spec.student, built_for, image_size=IMAGE_SIZE))
        return student, teacher

    def loader(self, spec: JobSpec) -> BatchLoader:
        """Return the job's batches: the same images in the same augmented views, in memory."""
        training = spec.training
        with StoredDataset.open(self.folder) as stored:
            pixels = load_pixels(stored, "train", IMAGE_SIZE, self.inputs.work / "cache", threads=self.threads)
        return BatchLoader(
            pixels,
            batch_size=training.batch_size,
            augmentation=training.augmentation,
            views=training.views,
            seed=training.seed,
            device=torch.device("cpu"),
        )

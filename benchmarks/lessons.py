"""The trainings that speed is compared on: one small student, teachers of several sizes, random weights throughout.

What weights say does not change how long they take to say it.
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

from benchmarks.engine import Shelf, dataset_facts, run
from benchmarks.pictures import stored_pictures
from core.data.pixels import load_pixels
from core.data.stored import StoredDataset
from core.local_reporter import FolderReporter
from core.models.build import build_student, build_teacher
from core.models.built import BuiltModel
from core.reporting import PIXEL_CACHE_BYTES, Control, Interrupted, Stage
from core.seeds import derive_seed
from core.spec import JobSpec
from core.spec.facts import InputInfo
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
"""By the name that figures give them; ``equal`` is as big as the student."""

TINY = {
    "architecture": "vit_tiny_patch16_224",
    "weights": "random",
    "arguments": {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2},
}
"""Student and teacher of a run that only shows that everything works."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is trained."""

    pictures: int
    epochs: int
    batch_size: int = 64
    views: int | None = 4
    tiny: bool = False

    def words(self) -> str:
        """For a figure's detail."""
        return f"{self.pictures} pictures, {self.epochs} epochs, batches of {self.batch_size}"


class Course(FolderReporter):
    """Notes when each epoch was done and how long each stage took; leaves after the training if asked to.

    An epoch ends with a look at the test split, which is the one thing that is told when it happens: losses may come
    later than their steps.
    """

    def __init__(self, root: Path, *, teachers: Path, only_training: bool = False) -> None:
        super().__init__(root, teachers=teachers)
        self.only_training = only_training
        self.epoch_at: list[float] = []
        self.stages: dict[str, float] = {}
        self._began = 0.0

    def stage_started(self, stage: Stage) -> None:
        """Start its clock."""
        super().stage_started(stage)
        self._began = time.perf_counter()

    def stage_finished(self, stage: Stage) -> None:
        """Stop its clock."""
        self.stages[stage.value] = time.perf_counter() - self._began

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Note the time of every look."""
        super().metrics(step, values)
        if "eval/top1" in values:
            self.epoch_at.append(time.perf_counter())

    def control(self) -> Control:
        """Go on, as long as there is something to be measured."""
        return Control.CANCEL if self.only_training and self.stage is Stage.EVALUATE else Control.GO


@dataclass(frozen=True, slots=True)
class Ran:
    """How long a job took, in seconds: all of it, its training, and each of its epochs."""

    whole: float
    training: float
    epochs: tuple[float, ...]


def settled(epochs: Sequence[float]) -> float:
    """Seconds an epoch takes once a training runs: the mean of all but the first."""
    return sum(epochs[1:]) / len(epochs[1:])


class Classroom:
    """Runs trainings by the engine, and hands out the same networks and batches to whoever else trains them."""

    def __init__(self, work: Path, sizes: Sizes, *, threads: int, pixel_cache_bytes: int = PIXEL_CACHE_BYTES) -> None:
        folder, self.source = stored_pictures(work, sizes.pictures, side=IMAGE_SIZE)
        self.sizes = sizes
        self.threads = threads
        self.shelf = Shelf(work, {"ds_pictures": folder}, pixel_cache_bytes=pixel_cache_bytes)
        self.folder = folder

    def spec(self, teacher: str | None, *, epochs: int | None = None, **method: Any) -> JobSpec:
        """A resolved job: soft labels of the teacher of that name, or labels alone."""
        tiny = self.sizes.tiny
        document: dict[str, Any] = {
            "dataset": "ds_pictures",
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
        return self.shelf.resolve(document, threads=self.threads)

    def run(self, spec: JobSpec, *, only_training: bool = False) -> Ran:
        """A job by the engine's one entry, from the beginning, in a folder of its own."""
        root = self.shelf.work / f"run-{os.getpid()}"  # two may work in one folder
        shutil.rmtree(root, ignore_errors=True)
        course = Course(root, teachers=self.shelf.work / "teachers", only_training=only_training)
        began = time.perf_counter()
        with suppress(Interrupted):
            run(self.shelf, spec, root, course)
        whole = time.perf_counter() - began
        ends = course.epoch_at
        assert len(ends) == spec.training.epochs, "with so few test pictures every epoch is looked at"
        first = course.stages["distill"] - (ends[-1] - ends[0])  # what comes before and after is its
        later = [end - start for start, end in pairwise(ends)]
        return Ran(whole, course.stages["distill"], (first, *later))

    def forget_answers(self) -> None:
        """Let the next job fill the teacher's cache again."""
        shutil.rmtree(self.shelf.work / "cache" / "answers", ignore_errors=True)

    def networks(self, spec: JobSpec) -> tuple[BuiltModel, BuiltModel]:
        """Student and teacher with the weights that the engine's job begins with."""
        facts = dataset_facts(self.folder)
        built_for = InputInfo(facts.num_classes, facts.channels, facts.image_size)
        torch.manual_seed(derive_seed(spec.training.seed, "teacher-0"))
        teacher = build_teacher(spec.teachers[0], facts=built_for, image_size=IMAGE_SIZE, models={})
        torch.manual_seed(derive_seed(spec.training.seed, "student"))
        student = build_student(spec.student, facts=built_for, image_size=IMAGE_SIZE, models={})
        return student, teacher

    def feed(self, spec: JobSpec) -> BatchLoader:
        """The job's own batches: the same pictures in the same augmented views, in memory."""
        training = spec.training
        with StoredDataset.open(self.folder) as stored:
            pixels = load_pixels(stored, "train", IMAGE_SIZE, self.shelf.work / "cache", threads=self.threads)
        return BatchLoader(
            pixels,
            batch_size=training.batch_size,
            augmentation=training.augmentation,
            views=training.views,
            seed=training.seed,
            device=torch.device("cpu"),
        )

"""The pictures that a method trains on where they are not the training split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from core.data.holdout import hold_out
from core.data.pixels import Pixels
from core.data.stored import StoredDataset
from core.data.views import steps_per_epoch
from core.methods import ImageSources, Teacher, implementation
from core.seeds import derive_seed
from core.spec import JobSpec
from core.train.context import RunContext
from core.train.schedule import Schedule
from core.train.trainer import TrainingSetup


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Where a job's method takes pictures from. ``datasets`` are the stored ones that its parameters name."""

    spec: JobSpec
    context: RunContext
    datasets: Mapping[str, Path]

    @property
    def image_size(self) -> int:
        """Pixels a side."""
        size = self.spec.training.image_size
        assert size is not None, "a resolved spec says how large pictures are"
        return size

    def unlabeled_pool(self) -> Pixels | None:
        """The dataset that the method's parameters name; no method names two."""
        for reference in self.spec.method.datasets().values():
            return self.context.pool(self.datasets[reference], self.image_size)
        return None

    def training_split(self) -> tuple[Pixels, Pixels | None]:
        """The training split, less what the method wants to be held out, and that."""
        whole = self.context.pixels("train", self.image_size)
        if not self.spec.method.about.needs.labels:
            whole = whole.without_labels()
        return hold_out(whole, implementation(self.spec.method.name).held_out, self.spec.training.seed)

    def gathered(self, task: TrainingSetup, pool: Pixels | None) -> TrainingSetup:
        """The task, its teachers being there, with the pictures that its method trains on."""
        if task.method.num_images is None:
            return task
        training, reporter = self.spec.training, self.context.reporter
        sources = ImageSources(
            train=self.context.pixels("train", self.image_size),
            unlabeled_pool=pool,
            teachers=task.teachers,
            seed=derive_seed(training.seed, "gather"),
            cache_dir=self._kept(task.teachers),
            poll=self.context.poll,
            event=lambda type_, message, data: reporter.event(type_, message, data=data),
        )
        pixels = task.method.prepare_images(sources)
        feed = self.context.loader(training, image_size=self.image_size, views=training.views, pixels=pixels)
        assert len(feed.pixels) == task.method.num_images, "the schedule is made for that many"
        return replace(task, loader=feed)

    def _kept(self, teachers: Iterable[Teacher]) -> Path:
        """A folder of the cache, the same one for the same method, teachers, seed and pictures."""
        spec, digest = self.spec, hashlib.sha256()
        digest.update(f"{spec.method.model_dump_json()} {spec.training.seed} {self.image_size}".encode())
        digest.update(self.context.stored.fingerprint.encode())
        for reference in spec.method.datasets().values():
            with StoredDataset.open(self.datasets[reference]) as stored:
                digest.update(stored.fingerprint.encode())
        for teacher in teachers:
            for tensor in teacher.built.module.state_dict().values():
                digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        folder = self.context.cache / "gathered" / digest.hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def planned_schedule(task: TrainingSetup) -> Schedule:
    """The schedule of a training whose pictures may still have to be gathered."""
    num_pictures = task.method.num_images or len(task.loader.pixels)
    return Schedule.of(task.training, steps_per_epoch=steps_per_epoch(num_pictures, task.training.batch_size))

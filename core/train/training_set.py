"""Images that a method trains on: the training split, or images that the method prepares."""

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
    """Image sources of a job's method. ``datasets`` are the stored datasets that its parameters name."""

    spec: JobSpec
    context: RunContext
    datasets: Mapping[str, Path]

    @property
    def image_size(self) -> int:
        """Image size, in pixels a side."""
        size = self.spec.training.image_size
        assert size is not None, "a resolved spec has an image size"
        return size

    def unlabeled_pool(self) -> Pixels | None:
        """Load the dataset that the method's parameters name, or None; no method names two."""
        for reference in self.spec.method.datasets().values():
            return self.context.unlabeled_pool(self.datasets[reference], self.image_size)
        return None

    def training_split(self) -> tuple[Pixels, Pixels | None]:
        """Return the training split without the held-out samples, and those, as the method requires."""
        pixels = self.context.pixels("train", self.image_size)
        if not self.spec.method.info.needs.labels:
            pixels = pixels.without_labels()
        return hold_out(pixels, implementation(self.spec.method.name).held_out, self.spec.training.seed)

    def prepare_setup(self, setup: TrainingSetup, unlabeled_pool: Pixels | None) -> TrainingSetup:
        """Replace the loader of a setup with teachers by one of the images that its method prepares, if any."""
        if setup.method.num_images is None:
            return setup
        training, reporter = self.spec.training, self.context.reporter
        sources = ImageSources(
            train=self.context.pixels("train", self.image_size),
            unlabeled_pool=unlabeled_pool,
            teachers=setup.teachers,
            seed=derive_seed(training.seed, "gather"),
            cache_dir=self._cache_dir(setup.teachers),
            poll=self.context.poll,
            event=lambda type_, message, data: reporter.event(type_, message, data=data),
        )
        pixels = setup.method.prepare_images(sources)
        loader = self.context.loader(training, image_size=self.image_size, views=training.views, pixels=pixels)
        assert len(loader.pixels) == setup.method.num_images, "the schedule depends on this number"
        return replace(setup, loader=loader)

    def _cache_dir(self, teachers: Iterable[Teacher]) -> Path:
        """Create the cache folder that is keyed by method, teachers, seed and datasets."""
        spec, digest = self.spec, hashlib.sha256()
        digest.update(f"{spec.method.model_dump_json()} {spec.training.seed} {self.image_size}".encode())
        digest.update(self.context.stored.fingerprint.encode())
        for reference in spec.method.datasets().values():
            with StoredDataset.open(self.datasets[reference]) as stored:
                digest.update(stored.fingerprint.encode())
        for teacher in teachers:
            for tensor in teacher.built.module.state_dict().values():
                digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        folder = self.context.cache / "prepared" / digest.hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def planned_schedule(setup: TrainingSetup) -> Schedule:
    """Build the schedule of a training whose images may not be prepared yet."""
    num_images = setup.method.num_images or len(setup.loader.pixels)
    return Schedule.from_spec(setup.training, steps_per_epoch=steps_per_epoch(num_images, setup.training.batch_size))

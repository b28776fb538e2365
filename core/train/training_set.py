"""Images that a method trains on: the training split, or images that the method prepares."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from core.data.holdout import hold_out
from core.data.pixels import Pixels
from core.data.stored import UNLABELED, StoredDataset, dataset_fingerprints
from core.data.views import steps_per_epoch
from core.methods import ImageSources, Teacher
from core.models.built import BuiltModel
from core.models.plan import decode_size
from core.seeds import derive_seed
from core.spec import JobSpec, MethodParams
from core.train.context import RunContext
from core.train.schedule import Schedule
from core.train.trainer import TrainingSetup


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Image sources of a job's method. ``datasets`` are the folders of the spec's further datasets, by their names.

    Student and teachers see the same augmented images, decoded at ``decode_size`` pixels a side.
    """

    spec: JobSpec
    context: RunContext
    datasets: Mapping[str, Path]
    decode_size: int

    @property
    def split_id(self) -> str:
        """Identity of the training images in the teacher cache: their content and decode size."""
        unlabeled = {} if self.spec.unlabeled_dataset is None else {"unlabeled": self.spec.unlabeled_dataset}
        added = "".join(f"+{each}" for each in dataset_fingerprints(unlabeled, self.datasets).values())
        return f"{self.context.stored.fingerprint}{added}-{self.decode_size}-train"

    @classmethod
    def for_networks(
        cls,
        spec: JobSpec,
        context: RunContext,
        datasets: Mapping[str, Path],
        *,
        student: BuiltModel,
        teachers: Sequence[BuiltModel],
    ) -> Self:
        """Return the image sources for a student and its teachers, with the decode size that they need."""
        largest_image = context.stored.max_image_size
        for reference in spec.training_datasets().values():
            with StoredDataset.open(datasets[reference]) as stored:
                largest_image = max(largest_image, stored.max_image_size)
        size = decode_size(
            student.preprocessing.image_size,
            [teacher.preprocessing.image_size for teacher in teachers],
            largest_image=largest_image,
        )
        return cls(spec, context, datasets, size)

    def unlabeled_pool(self) -> Pixels | None:
        """Load the dataset that the method's parameters name, or None; no method names two."""
        for reference in self.spec.method.datasets().values():
            return self.context.unlabeled_pool(self.datasets[reference], self.decode_size)
        return None

    def training_split(self, method: MethodParams | None = None) -> tuple[Pixels, Pixels | None]:
        """Return the images to train on, and the held-out ones, without labels if the method reads none.

        The first are the training split without the held-out samples, then the images of ``unlabeled_dataset``.
        ``method`` is by default that of the job.
        """
        pixels, held_out = self.labeled_split(self.decode_size)
        if not (method or self.spec.method).reads_labels:
            pixels, held_out = pixels.without_labels(), None if held_out is None else held_out.without_labels()
        unlabeled = self._unlabeled_images()
        return pixels if unlabeled is None else pixels.followed_by(unlabeled), held_out

    def known_labels(self) -> Tensor:
        """Return the labels of the images of :meth:`training_split`, also where the method reads none; −1: unknown."""
        unlabeled = self._unlabeled_images()
        labels = self.labeled_split(self.decode_size)[0].labels
        return labels if unlabeled is None else torch.cat((labels, unlabeled.labels))

    def _unlabeled_images(self) -> Pixels | None:
        """Load the images of ``unlabeled_dataset``, if there are any."""
        reference = self.spec.unlabeled_dataset
        return None if reference is None else self.context.unlabeled_pool(self.datasets[reference], self.decode_size)

    def labeled_split(self, image_size: int) -> tuple[Pixels, Pixels | None]:
        """:meth:`training_split` at ``image_size`` pixels a side, with the dataset's labels."""
        pixels = self.context.pixels("train", image_size)
        return hold_out(pixels, self.spec.held_out_fraction, self.spec.training.seed)

    def prepare_setup(self, setup: TrainingSetup, unlabeled_pool: Pixels | None) -> TrainingSetup:
        """Replace the loader of a setup with teachers by one of the images that its method prepares, if any."""
        if setup.method.num_images is None:
            return setup
        training, reporter = self.spec.training, self.context.reporter
        sources = ImageSources(
            train=self.labeled_split(self.decode_size)[0],
            unlabeled_pool=unlabeled_pool,
            teachers=setup.teachers,
            seed=derive_seed(training.seed, "gather"),
            cache_dir=self._cache_dir(setup.teachers),
            poll=self.context.poll,
            event=lambda type_, message, data: reporter.event(type_, message, data=data),
        )
        pixels = setup.method.prepare_images(sources)
        loader = self.context.loader(
            training, image_size=self.decode_size, views=training.distinct_views, pixels=pixels
        )
        assert len(loader.pixels) == setup.method.num_images, "the schedule depends on this number"
        return replace(setup, loader=loader)

    def _cache_dir(self, teachers: Iterable[Teacher]) -> Path:
        """Create the cache folder that is keyed by method, teachers, seed and datasets."""
        spec, digest = self.spec, hashlib.sha256()
        digest.update(f"{spec.method.model_dump_json()} {spec.training.seed} {self.decode_size}".encode())
        digest.update(self.context.stored.fingerprint.encode())
        if spec.held_out_fraction > 0:
            digest.update(f" held out {spec.held_out_fraction}".encode())
        for reference in spec.method.datasets().values():
            with StoredDataset.open(self.datasets[reference]) as stored:
                digest.update(stored.fingerprint.encode())
        for teacher in teachers:
            digest.update(repr(teacher.built.preprocessing).encode())
            for tensor in teacher.built.module.state_dict().values():
                digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        folder = self.context.cache / "prepared" / digest.hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def labeled_fraction(pixels: Pixels) -> float:
    """Return the fraction of samples with a label; 1 where no sample has one, as labels are then not read."""
    num_labeled = int((pixels.labels != UNLABELED).sum())
    return num_labeled / len(pixels) if num_labeled else 1.0


def planned_schedule(setup: TrainingSetup) -> Schedule:
    """Build the schedule of a training whose images may not be prepared yet."""
    num_images = setup.method.num_images or len(setup.loader.pixels)
    return Schedule.from_spec(setup.training, steps_per_epoch=steps_per_epoch(num_images, setup.training.batch_size))

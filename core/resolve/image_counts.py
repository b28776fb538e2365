"""Numbers of images that a job trains on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from core.data.holdout import num_held_out
from core.spec import JobSpec
from core.spec.info import DatasetInfo


@dataclass(frozen=True, slots=True)
class ImageCounts:
    """Numbers of training images: of the job's dataset, without those held out, and of ``unlabeled_dataset``.

    ``pool`` is the number of images of the datasets that the method selects from.
    """

    own: int
    unlabeled: int
    pool: int

    @classmethod
    def of_job(cls, spec: JobSpec, dataset: DatasetInfo, datasets: Mapping[str, DatasetInfo]) -> Self:
        """Count the images of a job; ``datasets`` has its further datasets."""
        return cls(
            own=dataset.num_train - num_held_out(dataset.num_train, spec.held_out_fraction),
            unlabeled=0 if spec.unlabeled_dataset is None else datasets[spec.unlabeled_dataset].num_train,
            pool=sum(datasets[reference].num_train for reference in spec.method.datasets().values()),
        )

    @property
    def training(self) -> int:
        """All images that the student is trained on, unless its method prepares others."""
        return self.own + self.unlabeled

    @property
    def labeled_fraction(self) -> float:
        """Fraction of the training images that belongs to the job's dataset."""
        return self.own / max(1, self.training)

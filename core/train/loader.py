"""Training batches: the samples of each step, in the augmented view of its epoch.

A batch is a function of (pixels, seed, step) alone. Training can therefore resume at any step, and the images of the
next steps are known in advance.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from core.data.mixing import Draws, Mixing, mix_images, mix_labels
from core.data.pixels import Pixels
from core.data.stored import UNLABELED
from core.data.transfer import to_device
from core.data.views import apply_view, batches, epoch_order, steps_per_epoch, view_of_epoch, view_table
from core.methods.base import Batch
from core.spec.training import Augmentation

_PREFETCH_BATCHES = 2  # decoded during a step, where images are decoded on demand


class MicroBatch(NamedTuple):
    """Part of one rank's batch: its fraction of it, and whether it is the last one of the step."""

    batch: Batch
    fraction: float
    is_last: bool


class BatchLoader:
    """Batches of augmented images of a split.

    Args:
        views: Number of views per sample, cycled epoch by epoch; None draws a new view every epoch.
        mixing: MixUp and CutMix settings. None leaves images unmixed, with int64 labels (B,). Otherwise all labels are
            float32 probabilities (B, ``num_classes``), all 0 for an image without a label; labels of an unlabeled
            dataset stay −1.

    :meth:`shard` returns the loader of one rank.
    """

    def __init__(
        self,
        pixels: Pixels,
        *,
        batch_size: int,
        augmentation: Augmentation,
        views: int | None,
        seed: int,
        device: torch.device,
        mixing: Mixing | None = None,
        num_classes: int | None = None,
    ) -> None:
        if mixing is not None and num_classes is None:
            assert bool((pixels.labels == UNLABELED).all()), "mixed labels need the number of classes"
        self.pixels = pixels
        self.batch_size = batch_size
        self.augmentation: Augmentation = augmentation
        self.views = views
        self.seed = seed
        self.device = device
        self.mixing = mixing
        self.num_classes = num_classes
        self.steps_per_epoch = steps_per_epoch(len(pixels), batch_size)
        self._rank, self._world_size = 0, 1
        self._orders: dict[int, list[Tensor]] = {}
        self._view = -1
        self._table = torch.empty(0)

    def shard(self, rank: int, world_size: int) -> Self:
        """Return a loader of the ``rank``-th of ``world_size`` contiguous parts of each batch.

        The parts of one batch differ by at most one sample.
        """
        shard = copy.copy(self)
        shard._rank, shard._world_size = rank, world_size  # noqa: SLF001 - a copy of this class
        return shard

    def batch_fraction(self, step: int) -> float:
        """Fraction of a step's batch in this shard; 1 for an unsharded loader."""
        indices_B = self._indices(step)
        return len(self._own_part(indices_B)) / len(indices_B)

    def batch(self, step: int) -> Batch:
        """Return this shard's part of the batch of a step (counted from 0 over all epochs), on the device."""
        return self._load(self._prepare(step))

    def micro_batches(self, step: int, count: int) -> Iterator[MicroBatch]:
        """Yield :meth:`batch` in ``count`` parts, fewer where it has fewer samples.

        The parts differ by at most one sample. Together they have the bits of the batch.
        """
        if count == 1:
            yield MicroBatch(self.batch(step), 1.0, is_last=True)
            return
        indices_B = self._prepare(step)
        parts = indices_B.tensor_split(min(count, max(1, len(indices_B))))
        for position, part_b in enumerate(parts, start=1):
            fraction = len(part_b) / max(1, len(indices_B))
            yield MicroBatch(self._load(part_b), fraction, is_last=position == len(parts))

    def _prepare(self, step: int) -> Tensor:
        """Load the view of a step, announce the next images, and return this shard's sample indices."""
        indices_B = self._own_part(self._indices(step))
        self._load_view(view_of_epoch(step // self.steps_per_epoch, self.views))
        if self.pixels.is_decoded_on_demand:
            self._prefetch_from(step)
        return indices_B

    def _load(self, indices_B: Tensor) -> Batch:
        images_BCHW, draws = self._augment_and_mix(indices_B)
        labels_B = self._labels(indices_B, draws)
        return Batch(images_BCHW, to_device(labels_B, self.device), indices_B)

    def augmented(self, view: int, indices_B: Tensor) -> Tensor:
        """Return samples in a given view, on the device; bit-identical to the same samples in training batches."""
        self._load_view(view)
        if self.pixels.is_decoded_on_demand:  # a view is read block by block
            following = indices_B + len(indices_B)
            blocks = (indices_B, following[following < len(self.pixels)])
            self.pixels.prefetch([self._with_partners(block) for block in blocks])
        images_BCHW, _ = self._augment_and_mix(indices_B)
        return images_BCHW

    def _augment_and_mix(self, indices_B: Tensor) -> tuple[Tensor, Draws | None]:
        """Augment samples and mix their partners in. Partners are augmented by their own rows, and are not mixed."""
        images_BCHW = self._augment(indices_B)
        if self.mixing is None:
            return images_BCHW, None
        height, width = images_BCHW.shape[-2:]
        draws = self.mixing.draw(self._table[indices_B], num_samples=len(self.pixels), height=height, width=width)
        if len(draws.indices):
            indices_M = to_device(draws.indices, self.device)
            images_BCHW[indices_M] = mix_images(images_BCHW[indices_M], self._augment(draws.partners), draws)
        return images_BCHW, draws

    def _augment(self, indices_B: Tensor) -> Tensor:
        """Augment samples by their rows of the current view table, on the device."""
        rows_BK = to_device(self._table[indices_B], self.device)
        images_BCHW = to_device(self.pixels.batch(indices_B), self.device)
        return apply_view(images_BCHW, rows_BK, self.augmentation)

    def _labels(self, indices_B: Tensor, draws: Draws | None) -> Tensor:
        """Return labels on the CPU; with mixing, probabilities mixed in the same proportions as the images."""
        labels_B = self.pixels.labels[indices_B]
        if draws is None or self.num_classes is None:
            return labels_B
        labels_BC = self._probabilities(labels_B, self.num_classes)
        if len(draws.indices):
            partners_MC = self._probabilities(self.pixels.labels[draws.partners], self.num_classes)
            labels_BC[draws.indices] = mix_labels(labels_BC[draws.indices], partners_MC, draws)
        return labels_BC

    @staticmethod
    def _probabilities(labels_B: Tensor, num_classes: int) -> Tensor:
        one_hot_BC = F.one_hot(labels_B.clamp(min=0), num_classes).to(torch.float32)
        return one_hot_BC * (labels_B != UNLABELED)[:, None]

    def _indices(self, step: int) -> Tensor:
        """Return the sample indices of a step's complete batch."""
        epoch, position = divmod(step, self.steps_per_epoch)
        return self._batches(epoch)[position]

    def _own_part(self, indices_B: Tensor) -> Tensor:
        return indices_B if self._world_size == 1 else indices_B.tensor_split(self._world_size)[self._rank]

    def _batches(self, epoch: int) -> list[Tensor]:
        """Return the sample indices of an epoch's batches, in its shuffled order."""
        if epoch not in self._orders:
            # Keep two epochs: prefetching reads the next one while one ends.
            self._orders = {cached: order for cached, order in self._orders.items() if cached == epoch - 1}
            self._orders[epoch] = list(batches(epoch_order(self.seed, epoch, len(self.pixels)), self.batch_size))
        return self._orders[epoch]

    def _load_view(self, view: int) -> None:
        if view != self._view:
            self._view = view
            self._table = view_table(self.seed, view, len(self.pixels))

    def _prefetch_from(self, step: int) -> None:
        """Decode the images of this step and of the next ones in the background."""
        batches = []
        for next_step in range(step, step + 1 + _PREFETCH_BATCHES):
            indices_B = self._own_part(self._indices(next_step))
            same_view = view_of_epoch(next_step // self.steps_per_epoch, self.views) == self._view
            batches.append(self._with_partners(indices_B) if same_view else indices_B)
        self.pixels.prefetch(batches)

    def _with_partners(self, indices_B: Tensor) -> Tensor:
        """Return samples followed by the mixing partners that the current view gives them."""
        if self.mixing is None:
            return indices_B
        height, width = self.pixels.images.shape[-2:]
        draws = self.mixing.draw(self._table[indices_B], num_samples=len(self.pixels), height=height, width=width)
        return torch.cat((indices_B, draws.partners))

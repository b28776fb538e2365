"""Batches for training: which samples at which step, in which augmented view.

A batch is a function of (pixels, seed, step) alone, so a training can be entered at any step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.data.pixels import Pixels
from core.data.views import apply_view, batches, epoch_order, steps_per_epoch, view_of_epoch, view_table
from core.methods.base import Batch
from core.spec.job import Augmentation


class Feed:
    """The training split in batches of augmented pictures.

    ``views``: how many views of each sample are used in turn, epoch by epoch; None is a new one every epoch.
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
    ) -> None:
        self.pixels = pixels
        self.batch_size = batch_size
        self.augmentation: Augmentation = augmentation
        self.views = views
        self.seed = seed
        self.device = device
        self.steps_per_epoch = steps_per_epoch(len(pixels), batch_size)
        self._epoch = -1
        self._batches: list[Tensor] = []
        self._view = -1
        self._table = torch.empty(0)

    def batch(self, step: int) -> Batch:
        """The batch of a step (counted from 0 over all epochs), on the device."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._enter(epoch)
        indices_B = self._batches[position]
        rows_BK = self._table[indices_B].to(self.device, non_blocking=True)
        pictures = self.pixels.batch(indices_B).to(self.device, non_blocking=True)
        labels_B = self.pixels.labels[indices_B].to(self.device, non_blocking=True)
        return Batch(apply_view(pictures, rows_BK, self.augmentation), labels_B, indices_B)

    def _enter(self, epoch: int) -> None:
        self._epoch = epoch
        self._batches = list(batches(epoch_order(self.seed, epoch, len(self.pixels)), self.batch_size))
        view = view_of_epoch(epoch, self.views)
        if view != self._view:
            self._view = view
            self._table = view_table(self.seed, view, len(self.pixels))

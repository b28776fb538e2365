"""Batches for training: which samples at which step, in which augmented view.

A batch is a function of (pixels, seed, step) alone, so a training can be entered at any step, and it is known
which pictures the next steps want.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from core.data.mixing import Draws, Mixing, mix_labels, mix_pictures
from core.data.pixels import Pixels
from core.data.stored import UNLABELLED
from core.data.views import apply_view, batches, epoch_order, steps_per_epoch, view_of_epoch, view_table
from core.methods.base import Batch
from core.spec.job import Augmentation

_AHEAD = 2  # batches whose pictures are decoded while one is trained on, where pictures are decoded on demand


class Feed:
    """The training split in batches of augmented pictures.

    ``views``: how many views of each sample are used in turn, epoch by epoch; None is a new one every epoch.
    ``mixing``: None shows pictures as they are, with int64 labels (B,). Else the labels are float32
    probabilities (B, ``num_classes``), of every sample of every batch; without classes they stay −1.
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
            assert bool((pixels.labels == UNLABELLED).all()), "mixed labels need the number of classes"
        self.pixels = pixels
        self.batch_size = batch_size
        self.augmentation: Augmentation = augmentation
        self.views = views
        self.seed = seed
        self.device = device
        self.mixing = mixing
        self.num_classes = num_classes
        self.steps_per_epoch = steps_per_epoch(len(pixels), batch_size)
        self._orders: dict[int, list[Tensor]] = {}
        self._view = -1
        self._table = torch.empty(0)

    def batch(self, step: int) -> Batch:
        """The batch of a step (counted from 0 over all epochs), on the device."""
        epoch, position = divmod(step, self.steps_per_epoch)
        indices_B = self._batches(epoch)[position]
        self._look_at(view_of_epoch(epoch, self.views))
        if self.pixels.on_demand:
            self._expect_from(step)
        images_BCHW, draws = self._shown(indices_B)
        labels_B = self._labels(indices_B, draws)
        return Batch(images_BCHW, labels_B.to(self.device, non_blocking=True), indices_B)

    def shown(self, view: int, indices_B: Tensor) -> Tensor:
        """Samples as a view shows them, on the device: the same bits as in every batch that they are in."""
        self._look_at(view)
        if self.pixels.on_demand:  # a whole view is asked for block by block
            following = indices_B + len(indices_B)
            blocks = (indices_B, following[following < len(self.pixels)])
            self.pixels.expect([self._pictures_of(block) for block in blocks])
        images_BCHW, _ = self._shown(indices_B)
        return images_BCHW

    def _shown(self, indices_B: Tensor) -> tuple[Tensor, Draws | None]:
        """Samples with partners mixed in, which are augmented by their own rows and not mixed themselves."""
        images_BCHW = self._seen(indices_B)
        if self.mixing is None:
            return images_BCHW, None
        height, width = images_BCHW.shape[-2:]
        draws = self.mixing.draw(self._table[indices_B], num_samples=len(self.pixels), height=height, width=width)
        if len(draws.places):
            places_M = draws.places.to(self.device)
            images_BCHW[places_M] = mix_pictures(images_BCHW[places_M], self._seen(draws.partners), draws)
        return images_BCHW, draws

    def _seen(self, indices_B: Tensor) -> Tensor:
        """Samples of the split, each as its own row of the view augments it, on the device."""
        rows_BK = self._table[indices_B].to(self.device, non_blocking=True)
        pictures = self.pixels.batch(indices_B).to(self.device, non_blocking=True)
        return apply_view(pictures, rows_BK, self.augmentation)

    def _labels(self, indices_B: Tensor, draws: Draws | None) -> Tensor:
        """The samples' labels, on the CPU; where pictures are mixed, as probabilities that are mixed like them."""
        labels_B = self.pixels.labels[indices_B]
        if draws is None or self.num_classes is None:
            return labels_B
        labels_BC = self._probabilities(labels_B, self.num_classes)
        if len(draws.places):
            partners_MC = self._probabilities(self.pixels.labels[draws.partners], self.num_classes)
            labels_BC[draws.places] = mix_labels(labels_BC[draws.places], partners_MC, draws)
        return labels_BC

    @staticmethod
    def _probabilities(labels_B: Tensor, num_classes: int) -> Tensor:
        return F.one_hot(labels_B, num_classes).to(torch.float32)

    def _batches(self, epoch: int) -> list[Tensor]:
        """The samples of an epoch in its order, batch by batch."""
        if epoch not in self._orders:
            # Two: the next one is looked at while one ends.
            self._orders = {known: order for known, order in self._orders.items() if known == epoch - 1}
            self._orders[epoch] = list(batches(epoch_order(self.seed, epoch, len(self.pixels)), self.batch_size))
        return self._orders[epoch]

    def _look_at(self, view: int) -> None:
        if view != self._view:
            self._view = view
            self._table = view_table(self.seed, view, len(self.pixels))

    def _expect_from(self, step: int) -> None:
        """Have the pictures of this step and of the next ones decoded in the background."""
        coming = []
        for number in range(step, step + 1 + _AHEAD):
            epoch, position = divmod(number, self.steps_per_epoch)
            indices_B = self._batches(epoch)[position]
            same_view = view_of_epoch(epoch, self.views) == self._view
            coming.append(self._pictures_of(indices_B) if same_view else indices_B)
        self.pixels.expect(coming)

    def _pictures_of(self, indices_B: Tensor) -> Tensor:
        """Samples, and those that the view at hand mixes with them."""
        if self.mixing is None:
            return indices_B
        height, width = self.pixels.images.shape[-2:]
        draws = self.mixing.draw(self._table[indices_B], num_samples=len(self.pixels), height=height, width=width)
        return torch.cat((indices_B, draws.partners))

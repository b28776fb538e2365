"""Batches for training: which samples at which step, in which augmented view.

A batch is a function of (pixels, seed, step) alone, so a training can be entered at any step, and it is known
which pictures the next steps want.
"""

from __future__ import annotations

import copy
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from core.data.mixing import Draws, Mixing, mix_labels, mix_pictures
from core.data.pixels import Pixels
from core.data.stored import UNLABELLED
from core.data.transfer import to_device
from core.data.views import apply_view, batches, epoch_order, steps_per_epoch, view_of_epoch, view_table
from core.methods.base import Batch
from core.spec.job import Augmentation

_AHEAD = 2  # batches whose pictures are decoded while one is trained on, where pictures are decoded on demand


class BatchLoader:
    """The training split in batches of augmented pictures.

    ``views``: how many views of each sample are used in turn, epoch by epoch; None is a new one every epoch.
    :meth:`part` is the same for one of several processes that share each batch.
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
        self._rank, self._size = 0, 1
        self._orders: dict[int, list[Tensor]] = {}
        self._view = -1
        self._table = torch.empty(0)

    def part(self, rank: int, size: int) -> Self:
        """The same batches, of which only the ``rank``-th of ``size`` contiguous parts is shown.

        Parts of one batch differ by one sample at most.
        """
        parted = copy.copy(self)
        parted._rank, parted._size = rank, size  # noqa: SLF001 - its own copy
        return parted

    def batch_fraction(self, step: int) -> float:
        """How much of a step's batch is shown here: 1 unless this is a part."""
        whole_B = self._indices(step)
        return len(self._own(whole_B)) / len(whole_B)

    def batch(self, step: int) -> Batch:
        """The batch of a step (counted from 0 over all epochs), or the part of it that is shown, on the device."""
        indices_B = self._own(self._indices(step))
        self._look_at(view_of_epoch(step // self.steps_per_epoch, self.views))
        if self.pixels.on_demand:
            self._expect_from(step)
        images_BCHW, draws = self._shown(indices_B)
        labels_B = self._labels(indices_B, draws)
        return Batch(images_BCHW, to_device(labels_B, self.device), indices_B)

    def augmented(self, view: int, indices_B: Tensor) -> Tensor:
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
        if len(draws.indices):
            places_M = to_device(draws.indices, self.device)
            images_BCHW[places_M] = mix_pictures(images_BCHW[places_M], self._seen(draws.partners), draws)
        return images_BCHW, draws

    def _seen(self, indices_B: Tensor) -> Tensor:
        """Samples of the split, each as its own row of the view augments it, on the device."""
        rows_BK = to_device(self._table[indices_B], self.device)
        pictures = to_device(self.pixels.batch(indices_B), self.device)
        return apply_view(pictures, rows_BK, self.augmentation)

    def _labels(self, indices_B: Tensor, draws: Draws | None) -> Tensor:
        """The samples' labels, on the CPU; where pictures are mixed, as probabilities that are mixed like them."""
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
        return F.one_hot(labels_B, num_classes).to(torch.float32)

    def _indices(self, step: int) -> Tensor:
        """The samples of a step's whole batch."""
        epoch, position = divmod(step, self.steps_per_epoch)
        return self._batches(epoch)[position]

    def _own(self, indices_B: Tensor) -> Tensor:
        return indices_B if self._size == 1 else indices_B.tensor_split(self._size)[self._rank]

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
            indices_B = self._own(self._indices(number))
            same_view = view_of_epoch(number // self.steps_per_epoch, self.views) == self._view
            coming.append(self._pictures_of(indices_B) if same_view else indices_B)
        self.pixels.expect(coming)

    def _pictures_of(self, indices_B: Tensor) -> Tensor:
        """Samples, and those that the view at hand mixes with them."""
        if self.mixing is None:
            return indices_B
        height, width = self.pixels.images.shape[-2:]
        draws = self.mixing.draw(self._table[indices_B], num_samples=len(self.pixels), height=height, width=width)
        return torch.cat((indices_B, draws.partners))

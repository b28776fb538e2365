"""Mixup and cutmix by the draws of a view: each sample has its own mixing partner.

Mixup (Zhang et al. 2018, arXiv:1710.09412) blends in the partner's image; cutmix (Yun et al. 2019, arXiv:1905.04899)
pastes a rectangle of it at the same position. As in timm's ``Mixup``, which DeiT uses: the alphas, equal probabilities
where both are on, and label weights by the true area of the rectangle. Deviation: timm pairs the samples of a batch
and mixes the whole batch by one draw. Here the partner is any sample of the split, and each sample has its own draws.
So a mixed image is a function of (seed, view, sample) only, and has the same bits in every batch.

Draws are evaluated in float64 on the CPU. On images, only elementwise operations are used.

Shapes: B batch, M mixed samples of the batch, C channels or classes, H and W pixels, K columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.data.transfer import to_device
from core.data.views import Column
from core.spec.training import TrainingBase

CUTMIX_PROBABILITY = 0.5  # of a mixed sample, where mixup is on too

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Draws:
    """Mixing parameters of the mixed samples of a batch, on the CPU.

    Inside its box, a mixed image shows the partner's image; outside, the blend ``w * own + (1 - w) * partner``.
    """

    indices: Tensor  # (M,) int64, positions in the batch
    partners: Tensor  # (M,) int64, sample indices in the split
    boxes: Tensor  # (M, 4) int64: left, top, right, bottom
    image_weights: Tensor  # (M,) float32, w outside the box
    label_weights: Tensor  # (M,) float32, weight of the sample's own label


@dataclass(frozen=True, slots=True)
class Mixing:
    """Mixing settings: alphas of two Beta(alpha, alpha) distributions (0 is off), and the fraction of mixed samples."""

    mixup: float
    cutmix: float
    probability: float = 1.0

    @classmethod
    def from_training(cls, training: TrainingBase) -> Self | None:
        """Return the settings of a training block; None where it mixes nothing."""
        if not training.mixes_images:
            return None
        return cls(training.mixup, training.cutmix, training.mix_probability)

    def draw(self, rows_BK: Tensor, *, num_samples: int, height: int, width: int) -> Draws:
        """Evaluate the draws of a batch (rows on the CPU) from a split of ``num_samples`` images of the given size."""
        from scipy.special import betaincinv  # 20 MB of memory in every process that imports this module

        kind_B = rows_BK[:, Column.MIX_KIND].numpy().astype(np.float64)
        indices = np.flatnonzero(kind_B < self.probability)
        rows_MK = rows_BK.numpy()[indices].astype(np.float64)
        is_cutmix_M = rows_MK[:, Column.MIX_KIND] < self.probability * self._cutmix_probability()
        lambda_M = np.empty(len(indices))
        for selected_M, alpha in ((is_cutmix_M, self.cutmix), (~is_cutmix_M, self.mixup)):
            if selected_M.any():
                lambda_M[selected_M] = betaincinv(alpha, alpha, rows_MK[selected_M, Column.MIX_LAMBDA])
        side_M = np.where(is_cutmix_M, np.sqrt(1.0 - lambda_M), 0.0)  # of the box, relative to the image
        left, right = _interval(rows_MK[:, Column.MIX_X], side_M, width)
        top, bottom = _interval(rows_MK[:, Column.MIX_Y], side_M, height)
        uncovered_M = 1.0 - (right - left) * (bottom - top) / (width * height)
        return Draws(
            indices=torch.from_numpy(indices),
            partners=torch.from_numpy(_floor(rows_MK[:, Column.MIX_PARTNER] * num_samples)),
            boxes=torch.from_numpy(np.stack((left, top, right, bottom), axis=1)),
            image_weights=_float32(np.where(is_cutmix_M, 1.0, lambda_M)),
            label_weights=_float32(np.where(is_cutmix_M, uncovered_M, lambda_M)),
        )

    def _cutmix_probability(self) -> float:
        if self.cutmix == 0:
            return 0.0
        return CUTMIX_PROBABILITY if self.mixup > 0 else 1.0


def mix_images(own_MCHW: Tensor, partners_MCHW: Tensor, draws: Draws) -> Tensor:
    """Mix augmented images, float32 in 0…1, on their device."""
    device = own_MCHW.device
    height, width = own_MCHW.shape[-2:]
    left, top, right, bottom = to_device(draws.boxes, device)[:, :, None, None, None].unbind(1)  # (M, 1, 1, 1) each
    x = torch.arange(width, device=device)
    y = torch.arange(height, device=device)[:, None]
    inside = (x >= left) & (x < right) & (y >= top) & (y < bottom)
    return torch.where(inside, partners_MCHW, _blend(own_MCHW, partners_MCHW, to_device(draws.image_weights, device)))


def mix_labels(own_MC: Tensor, partners_MC: Tensor, draws: Draws) -> Tensor:
    """Mix label probabilities, float32 (M, C), on the CPU."""
    return _blend(own_MC, partners_MC, draws.label_weights)


def _blend(own: Tensor, partners: Tensor, weights_M: Tensor) -> Tensor:
    # Not lerp: its kernel may fuse multiplication and sum at one position of a batch and not at another.
    weights = weights_M.reshape(-1, *[1] * (own.dim() - 1))
    return own * weights + partners * (1.0 - weights)


def _interval(draws_M: Floats, side_M: Floats, size: int) -> tuple[Integers, Integers]:
    """Return start and end (exclusive) of an interval around a random pixel, clipped to the image."""
    half_M = _floor(size * side_M) // 2
    center_M = _floor(draws_M * size)
    return np.maximum(center_M - half_M, 0), np.minimum(center_M + half_M, size)


def _floor(values: Floats) -> Integers:
    return np.floor(values).astype(np.int64)


def _float32(values: Floats) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))

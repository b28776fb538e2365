"""Mixup and cutmix by the numbers of a view's row: each sample is mixed with a partner of its own.

Mixup (Zhang et al. 2018, arXiv:1710.09412) adds a part of the partner's picture; cutmix (Yun et al.
2019, arXiv:1905.04899) puts a rectangle of it in the same place. Alphas, the even chance of the two
where both are on, and the correction of the share to the rectangle's real area are those of timm's
``Mixup`` as DeiT uses it. Deviation: timm pairs the samples of a batch and mixes all of it by one
draw. Here the partner is any sample of the split, and every draw is the sample's own, so that a mixed
picture is a function of (seed, view, sample) alone and has the same bits in every batch.

The draws are decided in float64 on the CPU; on the pictures, each operation rounds every number by itself.

Shapes: B batch, M the samples of it that are mixed, C channels or classes, H and W pixels, K columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import betaincinv
from torch import Tensor

from core.data.transfer import to_device
from core.data.views import Column
from core.spec.job import TrainingBase

CUTMIX_CHANCE = 0.5  # where mixup is on as well

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Draws:
    """What a batch's rows decide of the samples that are mixed.

    ``places`` (M,) int64 are their places in the batch, ``partners`` (M,) int64 their partners' places in
    the split. Inside ``boxes`` (M, 4: left, top, right, bottom; int64) is the partner's picture, outside
    the own one with weight ``weights`` (M,) and the partner's with the rest. ``shares`` (M,) is the own
    label's part. Both are float32; all are on the CPU.
    """

    indices: Tensor
    partners: Tensor
    boxes: Tensor
    weights: Tensor
    shares: Tensor


@dataclass(frozen=True, slots=True)
class Mixing:
    """How a training mixes: the alphas of two Beta(alpha, alpha) distributions (0: off), and how many samples."""

    mixup: float
    cutmix: float
    probability: float = 1.0

    @classmethod
    def of(cls, training: TrainingBase) -> Self | None:
        """What a training block asks for; None where it mixes nothing."""
        if training.mix_probability == 0 or training.mixup == training.cutmix == 0:
            return None
        return cls(training.mixup, training.cutmix, training.mix_probability)

    def draw(self, rows_BK: Tensor, *, num_samples: int, height: int, width: int) -> Draws:
        """Read a batch's rows (on the CPU), of a split of ``num_samples`` pictures of the given size."""
        kind_B = rows_BK[:, Column.MIX_KIND].numpy().astype(np.float64)
        places = np.flatnonzero(kind_B < self.probability)
        rows_MK = rows_BK.numpy()[places].astype(np.float64)
        cut_M = rows_MK[:, Column.MIX_KIND] < self.probability * self._cutmix_chance()
        share_M = np.empty(len(places))
        for chosen_M, alpha in ((cut_M, self.cutmix), (~cut_M, self.mixup)):
            if chosen_M.any():
                share_M[chosen_M] = betaincinv(alpha, alpha, rows_MK[chosen_M, Column.MIX_LAMBDA])
        side_M = np.where(cut_M, np.sqrt(1.0 - share_M), 0.0)  # of the rectangle, as a part of the picture's
        left, right = _stretch(rows_MK[:, Column.MIX_X], side_M, width)
        top, bottom = _stretch(rows_MK[:, Column.MIX_Y], side_M, height)
        uncovered_M = 1.0 - (right - left) * (bottom - top) / (width * height)
        return Draws(
            indices=torch.from_numpy(places),
            partners=torch.from_numpy(_floor(rows_MK[:, Column.MIX_PARTNER] * num_samples)),
            boxes=torch.from_numpy(np.stack((left, top, right, bottom), axis=1)),
            weights=_float32(np.where(cut_M, 1.0, share_M)),
            shares=_float32(np.where(cut_M, uncovered_M, share_M)),
        )

    def _cutmix_chance(self) -> float:
        if self.cutmix == 0:
            return 0.0
        return CUTMIX_CHANCE if self.mixup > 0 else 1.0


def mix_pictures(own_MCHW: Tensor, partners_MCHW: Tensor, draws: Draws) -> Tensor:
    """Mix augmented pictures, float32 in 0…1, on their device."""
    device = own_MCHW.device
    height, width = own_MCHW.shape[-2:]
    left, top, right, bottom = to_device(draws.boxes, device)[:, :, None, None, None].unbind(1)  # (M, 1, 1, 1) each
    x = torch.arange(width, device=device)
    y = torch.arange(height, device=device)[:, None]
    inside = (x >= left) & (x < right) & (y >= top) & (y < bottom)
    return torch.where(inside, partners_MCHW, _blend(own_MCHW, partners_MCHW, to_device(draws.weights, device)))


def mix_labels(own_MC: Tensor, partners_MC: Tensor, draws: Draws) -> Tensor:
    """Mix label probabilities, float32 (M, C), on the CPU."""
    return _blend(own_MC, partners_MC, draws.shares)


def _blend(own: Tensor, partners: Tensor, weights_M: Tensor) -> Tensor:
    # Not lerp: its kernel may fuse the multiplication with the sum in one place of a batch and not in another.
    weights = weights_M.reshape(-1, *[1] * (own.dim() - 1))
    return own * weights + partners * (1.0 - weights)


def _stretch(draws_M: Floats, part_M: Floats, size: int) -> tuple[Integers, Integers]:
    """First pixel and the one behind the last of a stretch around any pixel, cut off at the picture's border."""
    half_M = _floor(size * part_M) // 2
    centre_M = _floor(draws_M * size)
    return np.maximum(centre_M - half_M, 0), np.minimum(centre_M + half_M, size)


def _floor(numbers: Floats) -> Integers:
    return np.floor(numbers).astype(np.int64)


def _float32(numbers: Floats) -> Tensor:
    return torch.from_numpy(numbers.astype(np.float32))

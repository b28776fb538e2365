"""Standardization of teacher features by statistics that are estimated once, before the first step.

The scales of two teachers, and of the channels of one, differ by orders of magnitude. The statistics are buffers, so
a checkpoint holds them and a resumed job trains towards the same targets.

Shapes: n rows (embeddings or tokens), D width of the teacher.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from core.errors import SpecCannotRun
from core.losses import has_hadamard, phi_s

_CHANNEL_EPSILON = 1e-6
_ROUNDING = 4 * torch.finfo(torch.float32).eps  # relative deviations that the arithmetic of a network causes


class Standardizer(nn.Module, ABC):
    """An invertible affine map of teacher features (..., D); the identity until statistics are estimated.

    Call :meth:`update` with the rows of each batch, then :meth:`finalize`.
    """

    @abstractmethod
    def update(self, rows_nD: Tensor) -> None:
        """Add the rows of one batch to the statistics."""

    def finalize(self) -> None:
        """Compute the map from the statistics."""

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """Standardize features (..., D), in float32."""

    @abstractmethod
    def inverse(self, standardized: Tensor) -> Tensor:
        """Map standardized features (..., D) back to the teacher's space."""

    @torch.no_grad()
    def fold(self, linear: nn.Linear) -> nn.Linear:
        """Return a linear layer that maps to the teacher's space, from one that maps to standardized features."""
        folded = nn.Linear(linear.in_features, linear.out_features, device=linear.weight.device)
        offset_D = self.inverse(torch.zeros_like(linear.weight[:, 0]))
        # The rows of weightᵀ (inputs, D) are standardized features, without the offset of the map.
        folded.weight.copy_((self.inverse(linear.weight.T) - offset_D).T)
        folded.bias.copy_(offset_D if linear.bias is None else self.inverse(linear.bias))
        return folded


def finalize_statistics(standardizers: Iterable[Standardizer], teacher: str) -> None:
    """Compute the maps of a teacher's features. Raises ``SpecCannotRun`` if its features do not vary."""
    try:
        for standardizer in standardizers:
            standardizer.finalize()
    except ValueError as error:
        raise SpecCannotRun(
            f"the statistics of {teacher} cannot be estimated: {error}. Its weights or its normalization of images are "
            "probably wrong."
        ) from error


class ChannelStandardizer(Standardizer):
    """Subtract the mean of each channel and divide by its standard deviation (UNIC, arXiv:2408.05088).

    Means and deviations of batches are averaged. A channel that does not vary is divided by 1e-6.
    """

    mean: Tensor
    std: Tensor
    num_batches: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.register_buffer("num_batches", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, rows_nD: Tensor, momentum: float | None = None) -> None:
        """Add a batch; one of a single row has no deviation and is left out.

        ``momentum`` is its weight; by default all batches count equally.
        """
        if len(rows_nD) < 2:
            return
        self.num_batches += 1
        weight = 1 / int(self.num_batches) if momentum is None else momentum
        std_D, mean_D = torch.std_mean(rows_nD.float(), dim=0)
        self.mean.lerp_(mean_D, weight)
        self.std.lerp_(std_D + _CHANNEL_EPSILON, weight)

    def forward(self, features: Tensor) -> Tensor:
        """Standardize features (..., D)."""
        return (features.float() - self.mean) / (self.std + _CHANNEL_EPSILON)

    def inverse(self, standardized: Tensor) -> Tensor:
        """Undo :meth:`forward`."""
        return standardized.float() * (self.std + _CHANNEL_EPSILON) + self.mean


class PhiStandardizer(Standardizer):
    """PHI-S: one scale and a rotation after which all channels have variance 1 (:func:`core.losses.phi_s`).

    The statistics are accumulated in float64. Where no Hadamard matrix of the teacher's width is built, a random
    rotation replaces it; variances are then only nearly 1.
    """

    mean: Tensor
    matrix: Tensor
    scale: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("matrix", torch.eye(width))
        self.register_buffer("scale", torch.ones(()))
        self._moments: Moments | None = None

    @torch.no_grad()
    def update(self, rows_nD: Tensor) -> None:
        """Add rows to mean and covariance."""
        if self._moments is None:
            self._moments = Moments.zeros(rows_nD)
        self._moments.add(rows_nD)

    @torch.no_grad()
    def finalize(self) -> None:
        """Compute scale and rotation. Raises ``ValueError`` if the features do not vary, but for rounding errors."""
        if self._moments is None:
            return
        deviation = self._moments.covariance.diagonal().mean().sqrt()
        if deviation <= _ROUNDING * self._moments.mean.square().mean().sqrt():
            raise ValueError("the features do not vary: their deviations are rounding errors")
        width = len(self.mean)
        rotation = None if has_hadamard(width) else random_rotation(width)
        scale, matrix_DD = phi_s(self._moments.covariance.cpu(), rotation=rotation)
        self.mean.copy_(self._moments.mean)
        self.matrix.copy_(matrix_DD)
        self.scale.copy_(scale)
        self._moments = None

    def forward(self, features: Tensor) -> Tensor:
        """Standardize features (..., D)."""
        standardized: Tensor = (features.float() - self.mean) @ self.matrix.T
        return standardized

    def inverse(self, standardized: Tensor) -> Tensor:
        """Undo :meth:`forward`: the inverse of the matrix is its transpose, divided by the squared scale."""
        return standardized.float() @ self.matrix / self.scale.square() + self.mean


@dataclass(slots=True)
class Moments:
    """Number, mean (D) and centered second moment (D, D) of rows, in float64."""

    mean: Tensor
    second: Tensor
    count: int = field(default=0)

    @classmethod
    def zeros(cls, rows_nD: Tensor) -> Moments:
        """Return the moments of no rows, for the width and device of ``rows_nD``."""
        width = rows_nD.shape[1]
        mean_D = torch.zeros(width, dtype=torch.float64, device=rows_nD.device)
        return cls(mean_D, torch.zeros(width, width, dtype=torch.float64, device=rows_nD.device))

    def add(self, rows_nD: Tensor) -> None:
        """Merge rows into the moments (Chan et al. 1979)."""
        rows_nD, added = rows_nD.double(), len(rows_nD)
        if added == 0:
            return
        mean_D = rows_nD.mean(dim=0)
        centered_nD = rows_nD - mean_D
        difference_D = mean_D - self.mean
        total = self.count + added
        self.second += centered_nD.T @ centered_nD
        self.second += torch.outer(difference_D, difference_D) * (added * self.count / total)
        self.mean += difference_D * (added / total)
        self.count = total

    @property
    def covariance(self) -> Tensor:
        """The covariance (D, D), with the number of rows minus 1 in the denominator."""
        return self.second / max(self.count - 1, 1)


def random_rotation(width: int) -> Tensor:
    """Return an orthogonal matrix (D, D), float64: the QR decomposition of random signs, the same for each width."""
    generator = torch.Generator().manual_seed(width)
    signs_DD = torch.randint(0, 2, (width, width), generator=generator).double() * 2 - 1
    rotation, _ = torch.linalg.qr(signs_DD)
    return torch.as_tensor(rotation)

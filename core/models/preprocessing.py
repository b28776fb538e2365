"""Preprocessing of decoded, augmented images for one network.

Preprocessing belongs to the model: teacher and student get the same augmented image, each in its own size, channels
and normalization. Images are decoded at the largest size that a network of the job needs (:func:`core.models.plan.
decode_size`), and resized here for the others. It is saved with the weights, in ``config.json`` and in the ONNX
metadata.
Shapes: B batch, C channels, H and W pixels, S the model's image size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R 601-2, the weights that Pillow uses for "L"


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Preprocessing of images in [0, 1]; ``mean`` and ``std`` have ``channels`` entries."""

    image_size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"  # resampling of image files to image_size, by timm's name

    def __call__(self, images_BCHW: Tensor) -> Tensor:
        """Adapt channels, resize and normalize: ``(B, C, H, W)`` in [0, 1] to ``(B, channels, S, S)``."""
        images = self.adapt_channels(images_BCHW)
        size = (self.image_size, self.image_size)
        if images.shape[-2:] != size:
            # Pillow's filter, so that an image differs by a rounding from one that is decoded at this size. Its weights
            # are partly negative, hence the clamp.
            images = F.interpolate(images, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        mean = images.new_tensor(self.mean).view(1, -1, 1, 1)
        std = images.new_tensor(self.std).view(1, -1, 1, 1)
        return (images - mean).div_(std)  # in place: images of 224 pixels are as large as their activations

    def adapt_channels(self, images_BCHW: Tensor) -> Tensor:
        """Repeat a single channel, or reduce three to their luminance, to match the model's channels."""
        given = images_BCHW.shape[1]
        if given == self.channels:
            return images_BCHW
        if given == 1:
            return images_BCHW.expand(-1, self.channels, -1, -1)
        weights = images_BCHW.new_tensor(LUMINANCE).view(1, 3, 1, 1)
        return (images_BCHW * weights).sum(dim=1, keepdim=True)

    def to_config(self) -> dict[str, Any]:
        """Return the input fields of timm's ``pretrained_cfg``."""
        return {
            "input_size": [self.channels, self.image_size, self.image_size],
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
            "crop_pct": 1.0,
        }


def plain_preprocessing(*, image_size: int, channels: int) -> Preprocessing:
    """Build the preprocessing for random weights: pixel values are scaled to [-1, 1]."""
    return Preprocessing(image_size=image_size, channels=channels, mean=(0.5,) * channels, std=(0.5,) * channels)


def normalized(
    mean: Sequence[float], std: Sequence[float], *, image_size: int, channels: int, interpolation: str = "bicubic"
) -> Preprocessing:
    """Build the preprocessing with given statistics, adapted to ``channels``.

    Three channels are reduced to one by luminance; one is repeated to three.
    """
    return Preprocessing(
        image_size=image_size,
        channels=channels,
        mean=_fit(mean, channels),
        std=_fit(std, channels),
        interpolation=interpolation,
    )


def _fit(values: Sequence[float], channels: int) -> tuple[float, ...]:
    if len(values) == channels:
        return tuple(float(v) for v in values)
    if len(values) == 1:
        return (float(values[0]),) * channels
    if channels == 1 and len(values) == 3:
        return (
            float(torch.dot(torch.tensor(values, dtype=torch.float64), torch.tensor(LUMINANCE, dtype=torch.float64))),
        )
    raise ValueError(f"{len(values)} normalization values for {channels} channels")

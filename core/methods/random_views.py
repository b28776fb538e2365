"""Random views of images: rotation, crop and masked patches, and the same affine transform of feature maps.

Each image draws its own view. Shapes: B images, (H, W) grid of patches, theta (B, 2, 3) affine matrices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_GRAY = 0.5  # mid-gray of images in 0…1


@dataclass(frozen=True, slots=True)
class Views:
    """One view per image: its affine matrix (B, 2, 3), and a mask (B, 1, H, W) that is 1 at visible patches."""

    theta: Tensor
    visible: Tensor

    def apply(self, images_BCHW: Tensor) -> Tensor:
        """Return the views of the images; masked patches are gray."""
        transformed = affine_transform(images_BCHW, self.theta)
        visible = F.interpolate(self.visible, size=transformed.shape[-2:], mode="nearest")
        return transformed * visible + _GRAY * (1 - visible)


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomViews:
    """Distribution of views. A crop has a side of ``min_crop`` to 1 of the image's, at a random position."""

    probability: float
    max_rotation: float  # degrees, in both directions
    min_crop: float
    mask_share: float
    grid: tuple[int, int]

    def draw(self, count: int, device: torch.device) -> Views:
        """Draw views of ``count`` images from torch's global generator; 1 − ``probability`` of them are unchanged."""
        changed_B, angle_B, crop_B, x_B, y_B = torch.rand(5, count, device=device)
        changed_B = changed_B < self.probability
        angle_B = (2 * angle_B - 1) * math.radians(self.max_rotation)
        side_B = 1 - crop_B * (1 - self.min_crop)
        x_B, y_B = (1 - side_B) * (2 * x_B - 1), (1 - side_B) * (2 * y_B - 1)
        cos_B, sin_B = side_B * angle_B.cos(), side_B * angle_B.sin()
        theta_B23 = torch.stack((cos_B, -sin_B, x_B, sin_B, cos_B, y_B), dim=1).view(count, 2, 3)
        identity_23 = torch.eye(2, 3, device=device)
        visible_B1HW = torch.rand(count, 1, *self.grid, device=device) >= self.mask_share
        changed_B11 = changed_B[:, None, None]
        return Views(
            torch.where(changed_B11, theta_B23, identity_23), (visible_B1HW | ~changed_B11[:, None]).to(torch.float32)
        )


def affine_transform(maps_BDHW: Tensor, theta_B23: Tensor) -> Tensor:
    """Resample images or feature maps under affine matrices, bilinear, with border padding; float32."""
    positions = F.affine_grid(theta_B23, list(maps_BDHW.shape), align_corners=False)
    return F.grid_sample(maps_BDHW.float(), positions, mode="bilinear", padding_mode="border", align_corners=False)

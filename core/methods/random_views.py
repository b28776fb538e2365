"""Random views of pictures: turned, cropped and with blanked patches, and features moved in the same way.

Every draw is a picture's own. Shapes: B pictures, N patches of a grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_BLANK = 0.5  # mid-grey, the middle of 0…1


@dataclass(frozen=True, slots=True)
class Views:
    """One view of each picture: the change of its places (B, 2, 3), and which patches are shown (B, 1, H, W)."""

    places: Tensor
    augmented: Tensor

    def of(self, images_BCHW: Tensor) -> Tensor:
        """The pictures as the views show them."""
        turned = moved(images_BCHW, self.places)
        shown = F.interpolate(self.augmented, size=turned.shape[-2:], mode="nearest")
        return turned * shown + _BLANK * (1 - shown)


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomViews:
    """What views are like. Crops have a side of ``min_crop`` to 1 anywhere in the picture."""

    probability: float
    max_rotation: float  # degrees, either way
    min_crop: float
    mask_share: float
    grid: tuple[int, int]

    def draw(self, count: int, device: torch.device) -> Views:
        """Views of ``count`` pictures, from torch's global generator; the others keep theirs."""
        changed_B, angle_B, crop_B, x_B, y_B = torch.rand(5, count, device=device)
        changed_B = changed_B < self.probability
        angle_B = (2 * angle_B - 1) * math.radians(self.max_rotation)
        side_B = 1 - crop_B * (1 - self.min_crop)
        x_B, y_B = (1 - side_B) * (2 * x_B - 1), (1 - side_B) * (2 * y_B - 1)
        cos_B, sin_B = side_B * angle_B.cos(), side_B * angle_B.sin()
        theta_B23 = torch.stack((cos_B, -sin_B, x_B, sin_B, cos_B, y_B), dim=1).view(count, 2, 3)
        same_23 = torch.eye(2, 3, device=device)
        shown_B1HW = torch.rand(count, 1, *self.grid, device=device) >= self.mask_share
        changed_B11 = changed_B[:, None, None]
        return Views(
            torch.where(changed_B11, theta_B23, same_23), (shown_B1HW | ~changed_B11[:, None]).to(torch.float32)
        )


def moved(maps_BDHW: Tensor, theta_B23: Tensor) -> Tensor:
    """Pictures or maps under an affine change of places, bilinear; the border goes on beyond the edge."""
    places = F.affine_grid(theta_B23, list(maps_BDHW.shape), align_corners=False)
    return F.grid_sample(maps_BDHW.float(), places, mode="bilinear", padding_mode="border", align_corners=False)

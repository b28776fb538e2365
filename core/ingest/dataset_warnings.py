"""Warnings about the images of a stored dataset."""

from __future__ import annotations

from core.data.stored import Index
from core.job_warnings import JobWarning

_MOST = 0.5  # of the images


def image_warnings(index: Index) -> list[JobWarning]:
    """Return what the crop to a square and the conversion to 8 bits lose."""
    found = []
    if index.cropped_fraction > _MOST:
        found.append(
            JobWarning(
                code="aspect_ratio_cropped",
                message=f"{100 * index.cropped_fraction:.0f} % of the images lose more than a third of their area: "
                "training uses the square at the center of each image",
                fix="crop or pad the images to squares around what they show, and upload them again",
            )
        )
    if index.value_range is not None and index.deep_fraction < 1:
        found.append(
            JobWarning(
                code="mixed_bit_depths",
                message=f"{100 * index.deep_fraction:.0f} % of the images have more than 8 bits per channel and are "
                f"scaled from 0…{index.value_range.max:,}; the others keep their 8 bits, so equal brightness may "
                "differ",
                fix="save all images with the same bit depth",
            )
        )
    return found

"""Comparison of an exported file with the student: the same images through the file's runtime and through PyTorch.

Shapes: B batch, C channels, S the student's image size, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.data.pixels import Images
from core.errors import ExportFailed, ExportMismatch
from core.export.reason import reason
from core.models.built import BuiltModel

Runner = Callable[[Tensor], Tensor]
"""A file that is opened in its runtime: maps its input (B, C, S, S) to logits (B, K), both on the CPU."""

PARITY_IMAGES = 32


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Largest accepted difference of a logit: ``absolute`` plus ``relative`` times PyTorch's value."""

    absolute: float
    relative: float


TOLERANCES = {"fp32": Tolerance(1e-4, 1e-3), "fp16": Tolerance(5e-2, 2e-2)}
"""By precision. Usual differences are below 1e-5 with fp32 and below 1e-2 with fp16."""


@dataclass(frozen=True, slots=True)
class LogitDifference:
    """Absolute differences of the logits of ``images`` images from PyTorch's."""

    max: float
    mean: float
    images: int

    @classmethod
    def between(cls, logits_BK: Tensor, expected_BK: Tensor) -> LogitDifference:
        """Measure the difference of a file's logits from PyTorch's."""
        difference = (logits_BK - expected_BK).abs()
        return cls(difference.max().item(), difference.mean().item(), len(expected_BK))

    def to_json(self, tolerance: Tolerance | None) -> dict[str, Any]:
        """Return the entry of the report; ``tolerance`` is None where any difference is accepted."""
        return {
            "max_difference": self.max,
            "mean_difference": self.mean,
            "tolerance": None if tolerance is None else asdict(tolerance),
            "images": self.images,
        }


def file_input(student: BuiltModel, images_BCHW: Tensor, *, preprocessing: bool) -> Tensor:
    """Return the input of a file for uint8 images: themselves if it has the preprocessing, else preprocessed."""
    return images_BCHW if preprocessing else student.preprocessing(images_BCHW.float() / 255)


def parity_images(samples_NCHW: Images) -> Tensor:
    """Return the images to compare with, uint8 (B, C, S, S)."""
    return torch.from_numpy(np.array(samples_NCHW[:PARITY_IMAGES]))


def student_logits(student: BuiltModel, images_BCHW: Tensor) -> Tensor:
    """Return PyTorch's logits (B, K) of uint8 images, on the CPU."""
    module = student.module.cpu().eval()
    with torch.inference_mode():
        logits: Tensor = module(file_input(student, images_BCHW, preprocessing=False))
    return logits


def compare(run: Runner, inputs: Tensor, expected: Tensor, tolerance: Tolerance, *, runtime: str) -> LogitDifference:
    """Compare on one, two and all images, which tests the dynamic batch size.

    Args:
        run: The opened file.
        inputs: Its input (B, C, S, S).
        expected: PyTorch's logits (B, K).
        tolerance: Largest accepted difference.
        runtime: Name of the runtime, for messages.

    Raises:
        ExportFailed: The runtime cannot run the file.
        ExportMismatch: Its logits differ by more than the tolerance.
    """
    for count in sorted({1, min(2, len(inputs)), len(inputs)}):
        try:
            logits = run(inputs[:count])
        except Exception as error:  # the errors of the runtimes have no common base class
            raise ExportFailed(f"{runtime} cannot run the exported file on {count} images: {reason(error)}") from error
        difference = _difference(logits, expected[:count], tolerance, runtime=runtime)
    return difference


def _difference(logits: Tensor, target: Tensor, tolerance: Tolerance, *, runtime: str) -> LogitDifference:
    if logits.shape != target.shape:
        raise ExportMismatch(f"{runtime}'s logits have the shape {[*logits.shape]}, and torch's {[*target.shape]}.")
    difference = LogitDifference.between(logits, target)
    if not torch.allclose(logits, target, rtol=tolerance.relative, atol=tolerance.absolute):
        raise ExportMismatch(f"{runtime}'s logits differ from torch's by {difference.max:.2g} on {len(target)} images.")
    return difference

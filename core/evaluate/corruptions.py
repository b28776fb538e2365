"""Robustness: the accuracy of networks on corrupted test images.

Five kinds of Hendrycks and Dietterich 2019 (arXiv:1903.12261), each at about their third of five strengths. Theirs are
for images of 224 pixels and others for 32; the blur here follows the image size. All networks of a job see the same
corrupted images.

Shapes: n images, C channels, H and W pixels.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from core.data.pixels import Images
from core.evaluate.accuracy import predict, score
from core.seeds import derive_seed

MAX_IMAGES = 256  # of the test split, evenly spaced: an accuracy is known to about 3 points
CLEAN = "none"
SEED = 0  # not the job's: the same images for every job on a dataset
_NOISE_STD = 0.1
_BRIGHTNESS = 0.3
_CONTRAST = 0.3
_JPEG_QUALITY = 15
_PIXELS_PER_SIGMA, _MIN_SIGMA = 75, 0.7  # 3 pixels of 224

ImageArray = npt.NDArray[np.uint8]
Corruption = Callable[[ImageArray, npt.NDArray[np.int64]], ImageArray]


def _gaussian_noise(images_nCHW: ImageArray, indices_n: npt.NDArray[np.int64]) -> ImageArray:
    key = derive_seed(SEED, "gaussian_noise")
    noise = np.stack(
        [
            np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, int(i)])).standard_normal(
                images_nCHW.shape[1:], dtype=np.float32
            )
            for i in indices_n
        ]
    )
    return _to_bytes(torch.from_numpy(images_nCHW / np.float32(255) + np.float32(_NOISE_STD) * noise))


def _gaussian_blur(images_nCHW: ImageArray, _: npt.NDArray[np.int64]) -> ImageArray:
    side = images_nCHW.shape[-1]
    sigma = max(_MIN_SIGMA, side / _PIXELS_PER_SIGMA)
    radius = min(math.ceil(3 * sigma), side - 1)  # the border is mirrored, which takes more pixels than the radius
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    flat = _to_floats(images_nCHW).flatten(0, 1)[:, None]
    flat = F.pad(flat, (radius, radius, radius, radius), mode="reflect")
    flat = F.conv2d(F.conv2d(flat, kernel[None, None, None, :]), kernel[None, None, :, None])
    return _to_bytes(flat.reshape(images_nCHW.shape))


def _brightness(images_nCHW: ImageArray, _: npt.NDArray[np.int64]) -> ImageArray:
    return _to_bytes(_to_floats(images_nCHW) + _BRIGHTNESS)


def _contrast(images_nCHW: ImageArray, _: npt.NDArray[np.int64]) -> ImageArray:
    images = _to_floats(images_nCHW)
    mean = images.mean(dim=(2, 3), keepdim=True)
    return _to_bytes((images - mean) * _CONTRAST + mean)


def _jpeg(images_nCHW: ImageArray, _: npt.NDArray[np.int64]) -> ImageArray:
    decoded = []
    for image_CHW in images_nCHW:
        image_HWC = image_CHW.transpose(1, 2, 0)
        buffer = io.BytesIO()
        Image.fromarray(image_HWC[:, :, 0] if image_HWC.shape[2] == 1 else np.ascontiguousarray(image_HWC)).save(
            buffer, "JPEG", quality=_JPEG_QUALITY
        )
        pixels = np.asarray(Image.open(buffer))
        decoded.append(pixels.reshape(image_HWC.shape).transpose(2, 0, 1))
    return np.stack(decoded)


CORRUPTIONS: Mapping[str, Corruption] = MappingProxyType(
    {
        "gaussian_noise": _gaussian_noise,
        "gaussian_blur": _gaussian_blur,
        "brightness": _brightness,
        "contrast": _contrast,
        "jpeg_compression": _jpeg,
    }
)


def corrupted_top1(
    logits: Callable[[Tensor], Any],
    images_NCHW: Images,
    labels_N: Tensor,
    *,
    device: torch.device | str = "cpu",
    poll: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Return a network's accuracy (0…1) by corruption, on evenly spaced images of a test split.

    ``CLEAN`` is the accuracy on the same images without a corruption. ``images_NCHW`` are uint8. ``logits`` is called
    as :func:`core.evaluate.accuracy.predict` says; ``poll`` may raise to interrupt.
    """
    indices_n = subset_indices(len(labels_N))
    labels_n, clean_nCHW = labels_N[torch.from_numpy(indices_n)], np.ascontiguousarray(images_NCHW[indices_n])
    accuracies = {}
    for corruption in (CLEAN, *CORRUPTIONS):
        poll()
        images_nCHW = clean_nCHW if corruption == CLEAN else CORRUPTIONS[corruption](clean_nCHW, indices_n)
        accuracies[corruption] = score(predict(logits, images_nCHW, device=device, poll=poll), labels_n).top1
    return accuracies


def num_corrupted(num_images: int) -> int:
    """Return the number of images that a classifier is evaluated on: the subset with each corruption, and without."""
    return min(MAX_IMAGES, num_images) * (len(CORRUPTIONS) + 1)


def subset_indices(num_images: int) -> npt.NDArray[np.int64]:
    """Return the indices of the test images that are corrupted: evenly spaced, at most ``MAX_IMAGES``."""
    return np.unique(np.linspace(0, num_images - 1, min(MAX_IMAGES, num_images)).round().astype(np.int64))


def _to_floats(images_nCHW: ImageArray) -> Tensor:
    return torch.from_numpy(np.array(images_nCHW)).float() / 255


def _to_bytes(images_nCHW: Tensor) -> ImageArray:
    result: ImageArray = (images_nCHW.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return result

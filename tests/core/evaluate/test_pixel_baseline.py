"""Simple classifiers of pixels, as a baseline of teachers."""

import numpy as np
import torch

from core.data.pixels import Pixels
from core.evaluate.pixel_baseline import pixel_baseline


def split(count, size, *, noise, seed):
    """Images of two classes, one brighter at the top and one at the bottom."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = generator.integers(0, 1 + noise, (count, 1, size, size))
    for image, label in zip(images, labels, strict=True):
        image[0, : size // 2] += 0 if label else 60
        image[0, size // 2 :] += 60 if label else 0
    return Pixels(images.astype(np.uint8), torch.from_numpy(labels))


def test_pixels_that_show_the_class_are_classified_at_any_image_size():
    assert pixel_baseline(split(60, 24, noise=40, seed=0), split(40, 8, noise=40, seed=1), 2) == 1.0


def test_noise_is_not_classified():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (400, 1, 8, 8)).astype(np.uint8)
    train, test = (Pixels(images[part], torch.arange(200) % 2) for part in (slice(200), slice(200, None)))

    assert pixel_baseline(train, test, 2) < 0.65

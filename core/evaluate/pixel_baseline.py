"""Accuracy of simple classifiers of pixels: what a network should exceed after any useful training.

Shapes: N training images, M test images, D values of a small image, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from core.data.pixels import Images
from core.evaluate.accuracy import LabeledImages, predict, score
from core.evaluate.embeddings import knn_votes, linear_probe

MAX_IMAGES = 2_000  # of each split, evenly spaced
_SIDE = 16  # pixels of a small image
_RIDGE = 0.1  # relative to the number of images


def pixel_baseline(
    train: LabeledImages, test: LabeledImages, num_classes: int, *, poll: Callable[[], None] | None = None
) -> float:
    """Return the top-1 accuracy (0…1) of the better of nearest neighbors and a linear classifier of small images.

    Both are fitted on training images of 16 x 16 pixels, standardized per pixel, and scored on test images. The splits
    may have different image sizes.
    """
    side = min(_SIDE, *train.images.shape[-2:], *test.images.shape[-2:])
    train_step, test_step = _stride(len(train.labels)), _stride(len(test.labels))
    train_ND, train_labels_N = _pixels(train.images[::train_step], side, poll), train.labels[::train_step]
    test_MD, test_labels_M = _pixels(test.images[::test_step], side, poll), test.labels[::test_step]
    mean_D, deviation_D = train_ND.mean(dim=0), train_ND.std(dim=0, correction=0) + 1e-3
    train_ND, test_MD = (train_ND - mean_D) / deviation_D, (test_MD - mean_D) / deviation_D
    scores = (
        knn_votes(train_ND, train_labels_N, test_MD, num_classes),
        linear_probe(train_ND, train_labels_N, test_MD, num_classes, ridge=_RIDGE),
    )
    return max(score(scores_MK, test_labels_M).top1 for scores_MK in scores)


def _pixels(images: Images, side: int, poll: Callable[[], None] | None) -> Tensor:
    return predict(lambda images_BCHW: F.adaptive_avg_pool2d(images_BCHW, side).flatten(1), images, poll=poll)


def _stride(num_images: int) -> int:
    return max(1, -(-num_images // MAX_IMAGES))

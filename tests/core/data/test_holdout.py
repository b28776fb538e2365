"""Held-out part of the training split."""

import numpy as np
import pytest
import torch

from core.data.holdout import MAX_HELD_OUT, hold_out, num_held_out
from core.data.pixels import Pixels


@pytest.fixture
def pixels():
    """Forty images; the brightness of each is its index and its label."""
    images = np.tile(np.arange(40, dtype=np.uint8)[:, None, None, None], (1, 1, 2, 2))
    return Pixels(images, torch.arange(40))


def indices(pixels):
    return pixels.batch(torch.arange(len(pixels)))[:, 0, 0, 0].tolist()


def test_every_image_is_in_one_part_with_its_own_label(pixels):
    train, held_out = hold_out(pixels, 0.1, seed=3)

    assert len(held_out) == 4
    assert sorted(indices(train) + indices(held_out)) == list(range(40))
    assert (indices(train), indices(held_out)) == (train.labels.tolist(), held_out.labels.tolist())
    assert indices(held_out) == sorted(indices(held_out))


def test_the_seed_selects_the_images(pixels):
    def held_out(seed):
        return indices(hold_out(pixels, 0.25, seed)[1])

    assert held_out(1) == held_out(1) != held_out(2)


def test_the_images_of_a_seed_never_change(pixels):
    assert indices(hold_out(pixels, 0.1, seed=0)[1]) == [13, 26, 37, 38]


def test_a_fraction_of_zero_holds_out_nothing(pixels):
    assert hold_out(pixels, 0.0, seed=0) == (pixels, None)


def test_a_subset_can_be_split(pixels):
    subset = Pixels(pixels.images, pixels.labels[20:], np.arange(20, 40))

    train, held_out = hold_out(subset, 0.5, seed=0)

    assert sorted(indices(train) + indices(held_out)) == list(range(20, 40))


@pytest.mark.parametrize(("samples", "count"), [(2, 1), (9, 1), (100, 10), (10**6, MAX_HELD_OUT)])
def test_a_tenth_is_held_out_within_limits(samples, count):
    assert num_held_out(samples, 0.1) == count

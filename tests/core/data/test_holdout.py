"""A part of the training split that is kept from training."""

import numpy as np
import pytest
import torch

from core.data.holdout import MOST_HELD_OUT, hold_out, num_held_out
from core.data.pixels import Pixels


@pytest.fixture
def pixels():
    """Forty pictures; the brightness of each is its place and its label."""
    images = np.tile(np.arange(40, dtype=np.uint8)[:, None, None, None], (1, 1, 2, 2))
    return Pixels(images, torch.arange(40))


def places(pixels):
    return pixels.batch(torch.arange(len(pixels)))[:, 0, 0, 0].tolist()


def test_every_picture_is_trained_on_or_held_out_with_its_own_label(pixels):
    kept, held = hold_out(pixels, 0.1, seed=3)

    assert len(held) == 4
    assert sorted(places(kept) + places(held)) == list(range(40))
    assert (places(kept), places(held)) == (kept.labels.tolist(), held.labels.tolist())
    assert places(held) == sorted(places(held))


def test_the_same_seed_holds_out_the_same_pictures_and_another_one_others(pixels):
    def held(seed):
        return places(hold_out(pixels, 0.25, seed)[1])

    assert held(1) == held(1) != held(2)


def test_the_pictures_of_a_seed_are_those_for_ever(pixels):
    assert places(hold_out(pixels, 0.1, seed=0)[1]) == [13, 26, 37, 38]


def test_without_a_share_all_are_trained_on(pixels):
    assert hold_out(pixels, 0.0, seed=0) == (pixels, None)


def test_some_of_the_pictures_can_be_divided_as_well(pixels):
    some = Pixels(pixels.images, pixels.labels[20:], np.arange(20, 40))

    kept, held = hold_out(some, 0.5, seed=0)

    assert sorted(places(kept) + places(held)) == list(range(20, 40))


@pytest.mark.parametrize(("samples", "count"), [(2, 1), (9, 1), (100, 10), (10**6, MOST_HELD_OUT)])
def test_a_tenth_is_held_out_at_least_one_and_no_more_than_can_matter(samples, count):
    assert num_held_out(samples, 0.1) == count

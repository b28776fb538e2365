"""Accuracy by chance, and the limit below which an accuracy cannot be told from it."""

import pytest
import torch

from core.evaluate.chance import Chance


def chance(*counts):
    """Chance on a split with this number of images per class."""
    labels = torch.cat([torch.full((count,), index) for index, count in enumerate(counts)])
    return Chance.from_labels(labels, len(counts))


def test_the_baselines_follow_from_the_labels():
    balanced, skewed = chance(25, 25, 25, 25), chance(90, 10)

    assert (balanced.uniform, balanced.constant) == (0.25, 0.25)
    assert (skewed.uniform, skewed.constant, skewed.num_images) == (0.5, 0.9, 100)


@pytest.mark.parametrize(
    ("counts", "top1", "included"),
    [
        ((250,) * 4, 0.0, True),
        ((250,) * 4, 0.27, True),  # the limit is 0.2725
        ((250,) * 4, 0.28, False),
        ((10,) * 4, 0.35, True),  # few images: the limit is 0.363
        ((10,) * 4, 0.40, False),
        ((900, 100), 0.90, True),
        ((900, 100), 0.95, False),
        ((2, 2), 1.0, False),  # without an error
        ((5, 0), 1.0, False),  # a single class says nothing
        ((5, 0), 0.8, False),
    ],
)
def test_an_accuracy_is_at_chance_up_to_the_noise_of_the_split(counts, top1, included):
    assert chance(*counts).includes(top1) is included


def test_an_accuracy_is_poor_below_one_and_a_half_times_chance():
    assert chance(250, 250, 250, 250).is_poor(0.37)
    assert not chance(250, 250, 250, 250).is_poor(0.38)
    assert not chance(900, 100).is_poor(0.95)  # 1.5 times the constant baseline would be above 1
    assert not chance(5, 0).is_poor(1.0)


def test_unlabeled_images_have_no_chance():
    with pytest.raises(ValueError, match="labeled"):
        Chance.from_labels(torch.full((3,), -1), 2)


def test_a_guesser_exceeds_the_limit_in_a_twentieth_of_the_trials():
    generator = torch.Generator().manual_seed(0)
    guesses = torch.rand(4_000, 400, generator=generator) < 0.25
    limit = chance(100, 100, 100, 100).limit

    assert 0.03 < (guesses.double().mean(dim=1) > limit).double().mean().item() < 0.07

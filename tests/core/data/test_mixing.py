"""Mixup and cutmix: partners, weights and boxes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.data.mixing import Mixing, mix_images, mix_labels
from core.data.views import NUM_COLUMNS, Column, view_table
from core.spec import TrainingSpec

seeds = st.integers(0, 2**31 - 1)


def row(**draws):
    """One row with all draws 0.5 except the given ones."""
    rows = torch.full((1, NUM_COLUMNS), 0.5)
    for name, value in draws.items():
        rows[0, Column[name.upper()]] = value
    return rows


def draw(mixing, rows, *, num_samples=10, height=8, width=8):
    return mixing.draw(rows, num_samples=num_samples, height=height, width=width)


@pytest.mark.parametrize("training", [{}, {"mix_probability": 0.0, "mixup": 0.8}, {"mix_probability": 0.5}])
def test_a_training_without_alphas_or_probability_mixes_nothing(training):
    assert Mixing.from_training(TrainingSpec(**training)) is None


def test_settings_come_from_the_training_block():
    assert Mixing.from_training(TrainingSpec(mixup=0.8, cutmix=1.0, mix_probability=0.5)) == Mixing(0.8, 1.0, 0.5)


@pytest.mark.parametrize(("value", "partner"), [(0.0, 0), (0.35, 3), (1 - 2**-24, 9)])
def test_the_partner_is_any_sample_of_the_split(value, partner):
    assert draw(Mixing(1.0, 0.0), row(mix_partner=value)).partners.tolist() == [partner]


@pytest.mark.parametrize(
    ("alpha", "value", "weight"),
    [
        (1.0, 0.3, 0.3),  # uniform
        (2.0, 0.104, 0.2),  # 3 x^2 - 2 x^3
        (0.5, 0.25, 0.1464466),  # sin^2(pi u / 2), the arcsine distribution
        (10.0, 0.5, 0.5),
        (0.01, 0.0, 0.0),
    ],
)
def test_the_weight_is_beta_distributed(alpha, value, weight):
    draws = draw(Mixing(alpha, 0.0), row(mix_lambda=value))

    assert draws.label_weights.item() == pytest.approx(weight, abs=1e-6)
    assert torch.equal(draws.image_weights, draws.label_weights)
    assert draws.boxes[0, 0] >= draws.boxes[0, 2]


@pytest.mark.parametrize("alpha", [1e-12, 1e-3, 0.2, 0.8, 10.0])
def test_weights_are_finite_and_balanced_for_every_alpha(alpha):
    weights = draw(Mixing(alpha, 0.0), view_table(0, 0, 4000)).label_weights

    assert weights.min() >= 0
    assert weights.max() <= 1
    assert weights.mean().item() == pytest.approx(0.5, abs=0.03)
    assert weights.double().var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.06)


def test_the_area_of_a_box_is_one_minus_lambda():
    draws = draw(Mixing(0.0, 1.0), row(mix_lambda=0.75, mix_x=0.5, mix_y=0.5))  # half of each side

    assert draws.boxes.tolist() == [[2, 2, 6, 6]]
    assert draws.label_weights.tolist() == [0.75]
    assert draws.image_weights.tolist() == [1.0]


def test_a_box_at_the_border_is_clipped_and_the_label_weight_follows():
    draws = draw(Mixing(0.0, 1.0), row(mix_lambda=0.75, mix_x=0.0, mix_y=0.999), height=16)

    assert draws.boxes.tolist() == [[0, 11, 2, 16]]
    assert draws.label_weights.tolist() == [1 - 2 * 5 / (8 * 16)]


@pytest.mark.parametrize(
    ("mixing", "cutmix", "mixup"),
    [
        (Mixing(0.8, 1.0), 0.5, 0.5),
        (Mixing(0.8, 1.0, 0.4), 0.2, 0.2),
        (Mixing(0.8, 0.0, 0.4), 0.0, 0.4),
        (Mixing(0.0, 1.0, 0.4), 0.4, 0.0),
    ],
)
def test_fractions_of_mixup_and_cutmix_follow_the_settings(mixing, cutmix, mixup):
    draws = draw(mixing, view_table(0, 0, 4000))

    assert (draws.image_weights == 1.0).sum().item() / 4000 == pytest.approx(cutmix, abs=0.03)
    assert (draws.image_weights < 1.0).sum().item() / 4000 == pytest.approx(mixup, abs=0.03)


def test_mixup_blends_and_cutmix_pastes_the_partner():
    own, partner = torch.full((2, 1, 8, 8), 0.8), torch.full((2, 1, 8, 8), 0.4)
    rows = torch.cat((row(mix_kind=0.9, mix_lambda=0.25), row(mix_kind=0.1, mix_lambda=0.75)))
    draws = draw(Mixing(1.0, 1.0), rows)

    blended, pasted = mix_images(own, partner, draws)

    assert blended.flatten().tolist() == pytest.approx([0.5] * 64)
    assert torch.equal(pasted[0, 2:6, 2:6], partner[1, 0, 2:6, 2:6])
    assert (pasted == 0.8).sum() == 48


def test_labels_are_mixed_by_the_visible_fractions():
    own, partners = torch.eye(3)[[0, 1]], torch.eye(3)[[2, 1]]
    rows = torch.cat((row(mix_kind=0.9, mix_lambda=0.25), row(mix_kind=0.1, mix_lambda=0.75)))

    labels = mix_labels(own, partners, draw(Mixing(1.0, 1.0), rows))

    assert labels.dtype == torch.float32
    assert labels.tolist() == [[0.25, 0.0, 0.75], [0.0, 1.0, 0.0]]


@given(seeds, st.floats(0, 10), st.floats(0, 10), st.floats(0, 1), st.integers(4, 40), st.integers(4, 40), st.data())
def test_draws_of_a_sample_are_the_same_in_every_batch(seed, mixup, cutmix, probability, height, width, data):
    mixing = Mixing(mixup or 0.1, cutmix, probability)
    rows = view_table(seed, 0, 12)
    selected = torch.tensor(data.draw(st.lists(st.integers(0, 11), min_size=1, max_size=8)))

    full = draw(mixing, rows, num_samples=1000, height=height, width=width)
    subset = draw(mixing, rows[selected], num_samples=1000, height=height, width=width)

    position = {index: i for i, index in enumerate(full.indices.tolist())}
    expected = [position[i] for i in selected.tolist() if i in position]
    assert selected[subset.indices].tolist() == [i for i in selected.tolist() if i in position]
    for name in ("partners", "boxes", "image_weights", "label_weights"):
        assert torch.equal(getattr(subset, name), getattr(full, name)[expected])
    assert np.all((full.label_weights.numpy() >= 0) & (full.label_weights.numpy() <= 1))

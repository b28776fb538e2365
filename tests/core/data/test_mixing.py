"""Who is mixed with whom, how much, and where."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.data.mixing import Mixing, mix_labels, mix_pictures
from core.data.views import NUM_COLUMNS, Column, view_table
from core.spec import TrainingSpec

seeds = st.integers(0, 2**31 - 1)


def row(**draws):
    """One row with every draw at one half, the given ones aside."""
    rows = torch.full((1, NUM_COLUMNS), 0.5)
    for name, value in draws.items():
        rows[0, Column[name.upper()]] = value
    return rows


def drawn(mixing, rows, *, num_samples=10, height=8, width=8):
    return mixing.draw(rows, num_samples=num_samples, height=height, width=width)


@pytest.mark.parametrize("training", [{}, {"mix_probability": 0.0, "mixup": 0.8}, {"mix_probability": 0.5}])
def test_a_training_that_asks_for_nothing_mixes_nothing(training):
    assert Mixing.of(TrainingSpec(**training)) is None


def test_a_training_says_how_it_mixes():
    assert Mixing.of(TrainingSpec(mixup=0.8, cutmix=1.0, mix_probability=0.5)) == Mixing(0.8, 1.0, 0.5)


@pytest.mark.parametrize(("draw", "partner"), [(0.0, 0), (0.35, 3), (1 - 2**-24, 9)])
def test_the_partner_is_any_sample_of_the_split(draw, partner):
    assert drawn(Mixing(1.0, 0.0), row(mix_partner=draw)).partners.tolist() == [partner]


@pytest.mark.parametrize(
    ("alpha", "draw", "share"),
    [
        (1.0, 0.3, 0.3),  # uniform
        (2.0, 0.104, 0.2),  # 3 x^2 - 2 x^3
        (0.5, 0.25, 0.1464466),  # sin^2(pi u / 2), the arcsine distribution
        (10.0, 0.5, 0.5),
        (0.01, 0.0, 0.0),
    ],
)
def test_the_share_is_beta_distributed(alpha, draw, share):
    draws = drawn(Mixing(alpha, 0.0), row(mix_lambda=draw))

    assert draws.shares.item() == pytest.approx(share, abs=1e-6)
    assert torch.equal(draws.weights, draws.shares)
    assert draws.boxes[0, 0] >= draws.boxes[0, 2]


@pytest.mark.parametrize("alpha", [1e-12, 1e-3, 0.2, 0.8, 10.0])
def test_shares_are_finite_and_balanced_for_every_alpha(alpha):
    shares = drawn(Mixing(alpha, 0.0), view_table(0, 0, 4000)).shares

    assert shares.min() >= 0
    assert shares.max() <= 1
    assert shares.mean().item() == pytest.approx(0.5, abs=0.03)
    assert shares.double().var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.06)


def test_a_rectangle_has_the_area_that_the_share_leaves():
    draws = drawn(Mixing(0.0, 1.0), row(mix_lambda=0.75, mix_x=0.5, mix_y=0.5))  # half of each side

    assert draws.boxes.tolist() == [[2, 2, 6, 6]]
    assert draws.shares.tolist() == [0.75]
    assert draws.weights.tolist() == [1.0]


def test_a_rectangle_at_the_border_is_cut_off_and_the_share_follows():
    draws = drawn(Mixing(0.0, 1.0), row(mix_lambda=0.75, mix_x=0.0, mix_y=0.999), height=16)

    assert draws.boxes.tolist() == [[0, 11, 2, 16]]
    assert draws.shares.tolist() == [1 - 2 * 5 / (8 * 16)]


@pytest.mark.parametrize(
    ("mixing", "cut", "added"),
    [
        (Mixing(0.8, 1.0), 0.5, 0.5),
        (Mixing(0.8, 1.0, 0.4), 0.2, 0.2),
        (Mixing(0.8, 0.0, 0.4), 0.0, 0.4),
        (Mixing(0.0, 1.0, 0.4), 0.4, 0.0),
    ],
)
def test_the_stated_part_is_mixed_in_either_way(mixing, cut, added):
    draws = drawn(mixing, view_table(0, 0, 4000))

    assert (draws.weights == 1.0).sum().item() / 4000 == pytest.approx(cut, abs=0.03)
    assert (draws.weights < 1.0).sum().item() / 4000 == pytest.approx(added, abs=0.03)


def test_mixup_adds_the_partner_and_cutmix_puts_in_a_part_of_it():
    own, partner = torch.full((2, 1, 8, 8), 0.8), torch.full((2, 1, 8, 8), 0.4)
    rows = torch.cat((row(mix_kind=0.9, mix_lambda=0.25), row(mix_kind=0.1, mix_lambda=0.75)))
    draws = drawn(Mixing(1.0, 1.0), rows)

    added, pasted = mix_pictures(own, partner, draws)

    assert added.flatten().tolist() == pytest.approx([0.5] * 64)
    assert torch.equal(pasted[0, 2:6, 2:6], partner[1, 0, 2:6, 2:6])
    assert (pasted == 0.8).sum() == 48


def test_labels_are_mixed_by_what_is_seen():
    own, partners = torch.eye(3)[[0, 1]], torch.eye(3)[[2, 1]]
    rows = torch.cat((row(mix_kind=0.9, mix_lambda=0.25), row(mix_kind=0.1, mix_lambda=0.75)))

    labels = mix_labels(own, partners, drawn(Mixing(1.0, 1.0), rows))

    assert labels.dtype == torch.float32
    assert labels.tolist() == [[0.25, 0.0, 0.75], [0.0, 1.0, 0.0]]


@given(seeds, st.floats(0, 10), st.floats(0, 10), st.floats(0, 1), st.integers(4, 40), st.integers(4, 40), st.data())
def test_draws_of_a_sample_are_the_same_in_every_batch(seed, mixup, cutmix, probability, height, width, data):
    mixing = Mixing(mixup or 0.1, cutmix, probability)
    rows = view_table(seed, 0, 12)
    chosen = torch.tensor(data.draw(st.lists(st.integers(0, 11), min_size=1, max_size=8)))

    whole = drawn(mixing, rows, num_samples=1000, height=height, width=width)
    some = drawn(mixing, rows[chosen], num_samples=1000, height=height, width=width)

    position = {place: i for i, place in enumerate(whole.indices.tolist())}
    expected = [position[i] for i in chosen.tolist() if i in position]
    assert chosen[some.indices].tolist() == [i for i in chosen.tolist() if i in position]
    for name in ("partners", "boxes", "weights", "shares"):
        assert torch.equal(getattr(some, name), getattr(whole, name)[expected])
    assert np.all((whole.shares.numpy() >= 0) & (whole.shares.numpy() <= 1))

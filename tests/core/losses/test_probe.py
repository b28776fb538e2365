"""Attention Probe: scores of unlabeled images, and the loss of the class token's relations."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.losses import attention_concentration, attention_probe, wild_scores

STEADY = settings(deadline=None, derandomize=True, max_examples=30)


def features(width, seed):
    return torch.randn(2, 3, 4, width, generator=torch.Generator().manual_seed(seed))


def test_the_score_is_the_cross_entropy_with_the_teachers_own_decision():
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]])

    assert wild_scores(logits).tolist() == pytest.approx([-math.log(0.75), math.log(2.0)])


def test_a_more_confident_teacher_gives_lower_scores():
    scores = wild_scores(torch.tensor([[1.0, 0.0, 0.0], [5.0, 0.0, 0.0]]))

    assert scores[1] < scores[0]


def test_concentration_ranges_from_one_patch_to_uniform_attention():
    attention = torch.tensor([[0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0]])

    assert attention_concentration(attention).tolist() == pytest.approx([1.0, 0.5])


@pytest.mark.parametrize("normalize", [True, False])
def test_the_probe_equals_the_literal_class_token_row(normalize):
    student, teacher = features(5, seed=1), features(5, seed=2)

    def row(tokens_TD):
        scaled = [tokens_TD[:, d] / tokens_TD[:, d].norm() for d in range(tokens_TD.shape[1])]
        tokens = list(torch.stack(scaled, dim=1))
        if normalize:
            tokens = [token / token.norm() for token in tokens]
        return torch.tensor([tokens[0] @ token for token in tokens[1:]])

    gaps = [(row(teacher[i, b]) - row(student[i, b])).square().mean() for i in range(2) for b in range(3)]

    value = attention_probe(student, teacher, normalize=normalize)

    torch.testing.assert_close(value, torch.stack(gaps).mean())


def test_only_the_official_probe_grows_with_the_width():
    narrow = features(5, seed=1)
    wide = torch.cat([narrow] * 4, dim=3)

    assert attention_probe(narrow, wide).item() == pytest.approx(0, abs=1e-10)
    assert attention_probe(narrow, wide, normalize=False) > 0.01


@STEADY
@given(st.floats(0.01, 100))
def test_losses_are_invariant_to_the_scale_of_the_features(scale):
    student, teacher = features(5, seed=1), features(7, seed=2)
    expected = attention_probe(student, teacher).item()

    assert attention_probe(scale * student, teacher).item() == pytest.approx(expected, rel=1e-3)


def test_the_probe_is_invariant_to_the_order_of_the_patches():
    student, teacher = features(5, seed=1), features(7, seed=2)
    order = torch.tensor([0, 3, 1, 2])

    torch.testing.assert_close(
        attention_probe(student[:, :, order], teacher[:, :, order]), attention_probe(student, teacher)
    )


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (3, 3, 4, 7), (3, 4, 7)])
def test_features_of_other_tokens_or_layers_are_rejected(shape):
    with pytest.raises(ValueError, match="same layers, images and tokens"):
        attention_probe(features(5, seed=1), torch.zeros(shape))


@pytest.mark.parametrize("score", [wild_scores, attention_concentration])
def test_scores_need_one_row_per_image(score):
    with pytest.raises(ValueError, match="must be"):
        score(torch.zeros(2, 3, 4))


@pytest.mark.parametrize("score", [wild_scores, attention_concentration])
def test_scores_have_no_gradient(score):
    assert not score(torch.ones(2, 3, requires_grad=True)).requires_grad

"""Proteus' three levels match the official code (golden values), and literal means."""

import pytest
import torch
from torch import nn

from core.losses import three_levels
from tests.support.golden import draw, fill

B, N, D, T = 4, 9, 6, 8


def head():
    return nn.Sequential(nn.LayerNorm(D), nn.Linear(D, T))


def inputs():
    generator = torch.Generator().manual_seed(3)
    token, patches, masked = (torch.randn(*shape, generator=generator) for shape in ((B, T), (B, N, T), (B, N, T)))
    teacher_token, teacher_patches = (torch.randn(*shape, generator=generator) for shape in ((B, T), (B, N, T)))
    return token, patches, masked, teacher_token, teacher_patches


def test_values_and_gradients_are_those_of_the_official_code():
    torch.manual_seed(0)
    token, patches, masked = (draw(*shape).requires_grad_() for shape in ((B, D), (B, N, D), (B, N, D)))
    teacher_token, teacher_patches = draw(B, T), draw(B, N, T)
    mask = torch.rand(B, N) < 0.5
    mask[B // 2 :] = False
    patch_head, token_head, feature_head = head(), head(), head()
    fill(patch_head, token_head, feature_head)

    terms = three_levels(
        token_head(token), feature_head(patches), patch_head(masked), teacher_token, teacher_patches, mask
    )
    sum(terms).backward()

    assert mask.sum() == 10
    assert [term.item() for term in terms] == pytest.approx([1.7546313, 1.5039157, 1.2636125], rel=1e-5)
    gradients = [tensor.grad.norm().item() for tensor in (token, patches, masked)]
    assert gradients == pytest.approx([0.38215846, 0.09073284, 0.16691611], rel=1e-5)


def test_weights_scale_each_level():
    mask = torch.ones(B, N, dtype=torch.bool)

    plain = three_levels(*inputs(), mask)
    weighted = three_levels(*inputs(), mask, weights=(2.0, 0.0, 3.0))

    assert [term.item() for term in weighted] == pytest.approx([2 * plain[0].item(), 0, 3 * plain[2].item()])


def test_without_masked_patches_the_last_level_is_zero():
    token, features, patches = three_levels(*inputs(), torch.zeros(B, N, dtype=torch.bool))

    assert patches == 0
    assert token > 0
    assert features > 0


@pytest.mark.parametrize(
    ("index", "shape", "message"),
    [(0, (B, T + 1), "as wide as"), (1, (B, N + 1, T), "same B and N"), (2, (B, N, T + 1), "as wide as")],
)
def test_other_shapes_are_rejected(index, shape, message):
    tensors = list(inputs())
    tensors[index] = torch.zeros(shape)

    with pytest.raises(ValueError, match=message):
        three_levels(*tensors, torch.ones(B, N, dtype=torch.bool))


@pytest.mark.parametrize("mask", [torch.ones(B, N), torch.ones(B, N + 1, dtype=torch.bool)])
def test_a_mask_is_boolean_and_has_an_entry_for_each_patch(mask):
    with pytest.raises(ValueError, match=r"boolean \(B, N\)"):
        three_levels(*inputs(), mask)

"""ScaleKD's attention projector matches the official code (golden values)."""

import pytest
import torch

from core.models.attention_projector import AttentionProjector, num_heads
from core.models.structure import FeatureLevel
from tests.support.golden import draw, fill, fingerprint

STUDENT, TEACHER = FeatureLevel(6, (4, 4)), FeatureLevel(8, (3, 3))


def projector(*, own_query=True, **options):
    torch.manual_seed(0)
    return AttentionProjector(STUDENT, TEACHER, softmax_scale=5.0, own_query=own_query, **options).eval()


def test_the_output_is_that_of_the_official_code():
    module = projector(heads=2)
    fill(module)
    torch.manual_seed(0)
    student = draw(2, 6, 4, 4).requires_grad_()

    output = module(student)
    output.square().mean().backward()

    assert output.shape == (2, 9, 8)
    assert output.sum().item() == pytest.approx(12.194465, rel=1e-5)
    assert fingerprint(output) == pytest.approx(-1.4740623, rel=1e-5)
    assert output.square().mean().item() == pytest.approx(14.288351, rel=1e-5)
    assert student.grad.norm().item() == pytest.approx(0.030722285, rel=1e-4)


def test_given_queries_replace_the_learned_ones():
    module = projector()
    student, learned = torch.randn(2, 6, 4, 4), module.query.weight
    without = projector(own_query=False)
    without.load_state_dict(module.state_dict(), strict=False)

    torch.testing.assert_close(without(student, learned.expand(2, -1, -1)), module(student))
    assert not torch.allclose(module(student, torch.randn(2, 9, 8)), module(student), atol=1e-4)
    assert without.query is None


def test_all_parameters_learn():
    module = projector().train()

    module(torch.randn(2, 6, 4, 4)).square().sum().backward()

    assert not [name for name, p in module.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]


@pytest.mark.parametrize(("width", "heads"), [(1536, 8), (768, 8), (20, 5), (7, 7), (13, 1), (12, 6)])
def test_the_number_of_heads_is_the_largest_divisor_up_to_8(width, heads):
    assert num_heads(width) == heads

"""Knowledge review: the official code's number through the fusions, and the chain of levels."""

import pytest
import torch

from core.errors import InvalidSpec
from core.methods.review import Fusions
from core.models.taps import FeatureRequest


def test_the_fusions_give_the_value_of_the_official_code(filled):
    torch.manual_seed(0)
    mine = [torch.randn(shape).requires_grad_() for shape in ((2, 6, 8, 8), (2, 8, 4, 4), (2, 7, 1, 1))]
    guide = [torch.randn(shape) for shape in ((2, 5, 8, 8), (2, 9, 4, 4), (2, 9, 1, 1))]

    loss = filled(Fusions([(6, 5), (8, 9), (7, 9)], 7))(mine, guide)
    slopes = torch.autograd.grad(loss, mine)

    expected = [0.0018515463452786207, 0.004736221861094236, 0.004858688917011023]
    assert loss.item() == pytest.approx(2.358987808227539, rel=1e-5)
    assert [slope.norm().item() for slope in slopes] == pytest.approx(expected, rel=1e-4)


def test_maps_are_brought_to_the_teachers_grid():
    maps = torch.randn(2, 6, 4, 4), torch.randn(2, 7, 1, 1)
    guides = torch.randn(2, 5, 2, 8), torch.randn(2, 9, 1, 1)

    assert Fusions([(6, 5), (7, 9)], 3)(maps, guides).isfinite()


def test_deep_features_reach_the_shallow_comparison():
    fusions = Fusions([(6, 5), (7, 9)], 7)
    first, deepest = torch.randn(2, 6, 4, 4), torch.randn(2, 7, 1, 1).requires_grad_()

    _, behind = fusions.from_deepest[0](deepest, None, (1, 1))
    shallow, _ = fusions.from_deepest[1](first, behind, (4, 4))

    assert torch.autograd.grad(shallow.square().sum(), deepest)[0].abs().sum() > 0


def test_four_levels_and_the_embedding_are_reviewed(lesson):
    method = lesson("review").method

    assert method.student_taps == FeatureRequest(levels=(0, 1, 2, 3), embedding=True)
    assert method.teacher_taps == FeatureRequest(levels=(1, 2, 4, 5), embedding=True)


def test_the_chain_goes_from_the_deepest_level_whatever_the_order_of_the_pairs(lesson):
    assert lesson("review", layers=[(3, 5), (0, 1)]).method.pairs == ((0, 1), (3, 5))


def test_the_width_of_the_fused_features_is_that_of_the_embedding_or_as_asked(lesson):
    widths = [
        lesson("review", **given).method.fusions.from_deepest[0].widen[0].in_channels for given in ({}, {"width": 5})
    ]

    assert widths == [16, 5]


@pytest.mark.parametrize(("student", "teacher"), [("transformer", "cnn"), ("cnn", "transformer"), ("cnn", "cnn")])
def test_networks_of_any_kind_are_reviewed(lesson, batch, student, teacher):
    assert lesson("review", student=student, teachers=(teacher,)).terms(batch)["review"] > 0


def test_single_samples_have_no_statistics_and_are_refused(lesson):
    with pytest.raises(InvalidSpec, match="/training/batch_size"):
        lesson("review", num_samples=1)

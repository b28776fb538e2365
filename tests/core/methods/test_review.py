"""Knowledge review: official value of the fusions, and the chain of levels."""

import pytest
import torch

from core.errors import InvalidSpec
from core.methods import StepInfo
from core.methods.review import Fusions
from core.models.taps import FeatureRequest


def test_the_fusions_match_the_official_code(filled):
    torch.manual_seed(0)
    student = [torch.randn(shape).requires_grad_() for shape in ((2, 6, 8, 8), (2, 8, 4, 4), (2, 7, 1, 1))]
    teacher = [torch.randn(shape) for shape in ((2, 5, 8, 8), (2, 9, 4, 4), (2, 9, 1, 1))]

    loss = filled(Fusions([(6, 5), (8, 9), (7, 9)], 7))(student, teacher)
    gradients = torch.autograd.grad(loss, student)

    expected = [0.0018515463452786207, 0.004736221861094236, 0.004858688917011023]
    assert loss.item() == pytest.approx(2.358987808227539, rel=1e-5)
    assert [gradient.norm().item() for gradient in gradients] == pytest.approx(expected, rel=1e-4)


def test_maps_are_resampled_to_the_teachers_grid():
    maps = torch.randn(2, 6, 4, 4), torch.randn(2, 7, 1, 1)
    guides = torch.randn(2, 5, 2, 8), torch.randn(2, 9, 1, 1)

    assert Fusions([(6, 5), (7, 9)], 3)(maps, guides).isfinite()


def test_shallow_comparisons_have_gradients_in_deep_features():
    fusions = Fusions([(6, 5), (7, 9)], 7)
    first, deepest = torch.randn(2, 6, 4, 4), torch.randn(2, 7, 1, 1).requires_grad_()

    _, behind = fusions.from_deepest[0](deepest, None, (1, 1))
    shallow, _ = fusions.from_deepest[1](first, behind, (4, 4))

    assert torch.autograd.grad(shallow.square().sum(), deepest)[0].abs().sum() > 0


def test_four_levels_and_the_embedding_are_used(make_harness):
    method = make_harness("review").method

    assert method.student_taps == FeatureRequest(levels=(0, 1, 2, 3), embedding=True)
    assert method.teacher_taps == FeatureRequest(levels=(1, 2, 4, 5), embedding=True)


@pytest.mark.parametrize(
    ("params", "step", "factor"),
    [
        ({}, 0, 0.1),
        ({}, 4, 0.5),
        ({}, 9, 1),
        ({}, 60, 1),
        ({"warmup_epochs": 2}, 4, 5 / 20),
        ({"warmup_epochs": 0}, 0, 1),
    ],
)
def test_the_term_warms_up_over_a_twelfth_of_the_run(params, step, factor, make_harness):
    """12 epochs of 10 steps: 20 / 240 of them are 10 steps."""
    info = StepInfo(step=step, total_steps=120, epoch=step / 10, epochs=12)

    assert make_harness("review", weight=3.0, **params).method.feature_weight(info) == pytest.approx(3 * factor)


def test_the_warmup_is_applied_to_the_term(make_harness, batch):
    first, warm = (
        make_harness("review").terms(batch, StepInfo(step=step, total_steps=120, epoch=step / 10, epochs=12))["review"]
        for step in (0, 60)
    )

    assert first.item() == pytest.approx(warm.item() / 10, rel=1e-5)


def test_pairs_are_sorted_from_the_first_level(make_harness):
    assert make_harness("review", layers=[(3, 5), (0, 1)]).method.pairs == ((0, 1), (3, 5))


def test_the_fused_width_is_that_of_the_embedding_or_as_requested(make_harness):
    widths = [
        make_harness("review", **given).method.fusions.from_deepest[0].widen[0].in_channels
        for given in ({}, {"width": 5})
    ]

    assert widths == [16, 5]


@pytest.mark.parametrize(("student", "teacher"), [("transformer", "cnn"), ("cnn", "transformer"), ("cnn", "cnn")])
def test_networks_of_any_family_are_supported(make_harness, batch, student, teacher):
    assert make_harness("review", student=student, teachers=(teacher,)).terms(batch)["review"] > 0


def test_batches_of_a_single_sample_are_rejected(make_harness):
    with pytest.raises(InvalidSpec, match="/training/batch_size"):
        make_harness("review", num_samples=1)

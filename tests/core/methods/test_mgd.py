"""Masked generative distillation: official value and masks."""

import pytest
import torch
from torch import nn

from core.methods.mgd import MaskedGenerator
from core.models.taps import FeatureRequest


def test_the_generator_matches_the_official_code_with_its_weight_times_the_entries_of_a_map(filled):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 6, 4, 4).requires_grad_(), torch.randn(2, 9, 4, 4)
    mask = (torch.rand(2, 9, 1, 1) >= 0.15).float()

    loss = 7e-5 * (9 * 4 * 4) * filled(MaskedGenerator(6, 9))(student, teacher, mask)

    assert loss.item() == pytest.approx(0.011006972797095642, rel=1e-5)
    assert torch.autograd.grad(loss, student)[0].norm().item() == pytest.approx(1.1684383859241793e-05, rel=1e-4)


def test_maps_of_one_width_need_no_aligner():
    assert isinstance(MaskedGenerator(6, 6).align, nn.Identity)


@pytest.mark.parametrize(("mask", "shape"), [("channels", (6, 24, 1, 1)), ("positions", (6, 1, 4, 4))])
def test_a_part_of_the_channels_or_of_the_positions_is_masked(make_harness, mask, shape):
    method = make_harness("mgd", mask=mask, masked=0.5).method
    target = torch.zeros(6, 24, 4, 4)

    drawn = torch.stack([method._mask(target) for _ in range(20)])

    assert drawn.shape[1:] == shape
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.1)
    assert len({tuple(image.flatten().tolist()) for image in drawn[0]}) > 1  # each image has its own


def test_nothing_is_masked_at_zero(make_harness):
    assert make_harness("mgd", masked=0).method._mask(torch.zeros(6, 24, 4, 4)).all()


def test_the_last_levels_are_paired_and_a_larger_map_is_averaged(make_harness, batch):
    harness = make_harness("mgd", teachers=("cnn",), masked=0, layers=[(3, 3)], weight=3.0)
    student, teacher = harness.student_outputs(batch.images), harness.teachers[0](batch.images)
    (generator,) = harness.method.generators
    teacher_values = teacher.levels[3].map

    found = harness.terms(batch)["generation"].item()

    own = nn.functional.adaptive_avg_pool2d(student.levels[3].map, teacher_values.shape[2:])
    error = (generator.generate(generator.align(own)) - teacher_values).square().mean().item()
    assert found == pytest.approx(3 * error, rel=1e-5)
    assert make_harness("mgd").method.teacher_taps == FeatureRequest(levels=(5,))


def test_the_default_weight_is_that_of_the_official_cifar_recipe_per_entry(make_harness):
    assert make_harness("mgd").method.params.weight == pytest.approx(0.0012 * 512 * 4 * 4, rel=1e-3)


@pytest.mark.parametrize("size", [4, 8])
def test_the_term_does_not_depend_on_the_size_of_the_map(size):
    torch.manual_seed(0)
    generator = MaskedGenerator(16, 16)
    generator.generate = nn.Identity()
    student, teacher = torch.randn(64, 16, size, size), torch.randn(64, 16, size, size)

    assert generator(student, teacher, torch.ones(64, 16, 1, 1)).item() == pytest.approx(2, rel=0.05)

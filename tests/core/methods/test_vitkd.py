"""ViTKD: official values, networks of different depths, and errors."""

import pytest
import torch
from torch import nn

from core.errors import InvalidSpec
from core.methods import Outputs
from core.methods.vitkd import TokenGenerator
from core.models.taps import Feature, FeatureRequest

STUDENT = ("vit_tiny_patch16_224", {"patch_size": 4, "embed_dim": 6, "depth": 2, "num_heads": 2})
TEACHER = ("vit_tiny_patch16_224", {"patch_size": 4, "embed_dim": 9, "depth": 3, "num_heads": 3})
COARSER = ("vit_tiny_patch16_224", {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2})
SWIN = ("swin_tiny_patch4_window7_224", {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2})
GRID = (4, 4)


@pytest.fixture
def inputs():
    """Tokens of two blocks, the last tokens and noise, drawn in the order of the official values."""
    torch.manual_seed(0)
    student_blocks, teacher_blocks = torch.randn(2, 2, 16, 6), torch.randn(2, 2, 16, 9)
    student, teacher, noise = torch.randn(2, 16, 6), torch.randn(2, 16, 9), torch.rand(2, 16)
    return student_blocks.requires_grad_(), teacher_blocks, student.requires_grad_(), teacher, noise


def outputs(low, last):
    blocks = {block: Feature(low[:, block], GRID) for block in range(2)}
    return Outputs(torch.zeros(2, 4), levels=blocks, last=Feature(last, GRID))


@torch.no_grad()
def fill(parameters):
    """The golden values' weights, in the order of the official module's parameters."""
    for number, parameter in enumerate(parameters):
        parameter.copy_((0.1 * (torch.arange(parameter.numel()) + number).sin()).view_as(parameter))


def test_both_terms_match_the_official_code(make_harness, batch, inputs, monkeypatch):
    student_blocks, teacher_blocks, student, teacher, noise = inputs
    entries = 16 * 9  # the official code sums over these
    weights = {"imitation_weight": 3e-5 * entries, "generation_weight": 3e-6 * entries}
    method = make_harness("vitkd", student=STUDENT, teachers=(TEACHER,), logits="none", **weights).method
    generator = method.generator
    fill([generator.mask_token, *method.imitations.parameters(), *list(generator.parameters())[1:]])
    monkeypatch.setattr(torch, "rand", lambda *_shape, **_options: noise)

    terms = method.feature_terms(batch, outputs(student_blocks, student), [outputs(teacher_blocks, teacher)])
    gradients = torch.autograd.grad(sum(terms.values()), (student_blocks, student))

    assert list(terms) == ["imitation", "generation"]
    assert sum(terms.values()).item() == pytest.approx(0.010898816399276257, rel=1e-5)
    assert terms["generation"].item() == pytest.approx(0.0004872840072494, rel=1e-5)
    assert [s.norm().item() for s in gradients] == pytest.approx(
        [0.00012907858763355762, 5.098087854094047e-07], rel=1e-4
    )


def test_the_error_is_computed_at_masked_positions(inputs):
    *_, student, teacher, noise = inputs
    generator = TokenGenerator(6, 9, masked=0.25)
    generator.generate = nn.Identity()

    loss = generator(Feature(student, GRID), Feature(teacher, GRID), noise)

    masked = noise.argsort(dim=1)[:, 12:]  # the four tokens of each image with the most noise
    errors = [teacher[b, n].square().mean().item() for b in range(2) for n in masked[b].tolist()]
    assert loss.item() == pytest.approx(sum(errors) / len(errors), rel=1e-5)
    assert len(errors) == 8


def test_networks_of_one_width_are_imitated_without_a_projection(make_harness):
    method = make_harness(
        "vitkd", teachers=(("vit_tiny_patch16_224", {**TEACHER[1], "embed_dim": 16, "num_heads": 2}),)
    ).method

    assert [type(align) for align in (*method.imitations, method.generator.align)] == [nn.Identity] * 3


def test_a_teacher_of_one_block_and_a_coarser_grid_is_supported(make_harness, batch):
    harness = make_harness("vitkd", teachers=(COARSER,))

    terms = harness.terms(batch)

    assert harness.method.student_taps == harness.method.teacher_taps == FeatureRequest(levels=(0,), last=True)
    assert terms["imitation"] > 0
    assert terms["generation"] > 0


def test_the_imitated_blocks_can_be_set(make_harness):
    method = make_harness("vitkd", layers=[(1, 2), (2, 4)]).method

    assert (method.student_taps.levels, method.teacher_taps.levels) == ((1, 2), (2, 4))


def test_networks_with_stages_are_rejected(make_harness):
    with pytest.raises(InvalidSpec, match="compares the blocks of plain ViTs, and swin_tiny") as caught:
        make_harness("vitkd", teachers=(SWIN,))

    assert [error.pointer for error in caught.value.errors] == ["/teachers/0/architecture"]


def test_the_default_weights_are_those_of_the_official_recipe_per_entry(make_harness):
    params = make_harness("vitkd").method.params

    assert params.imitation_weight == pytest.approx(3e-5 * 196 * 384, rel=2e-3)
    assert params.generation_weight == pytest.approx(3e-6 * 196 * 384, rel=2e-3)


def test_at_least_one_token_is_masked(inputs):
    *_, student, teacher, noise = inputs
    generator = TokenGenerator(6, 9, masked=1e-17)  # rounds to no token

    assert generator(Feature(student, GRID), Feature(teacher, GRID), noise) > 0

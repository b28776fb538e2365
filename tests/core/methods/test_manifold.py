"""Manifold distillation: golden values, pairs of blocks, and errors."""

import pytest
import torch

from core.errors import InvalidSpec
from core.methods import Batch, Outputs, StepInfo
from core.methods.manifold import end_pairs
from core.models.taps import Feature

NARROW = ("vit_tiny_patch16_224", {"patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2})
TWO_PREFIXES = (
    "deit_tiny_distilled_patch16_224",
    {"patch_size": 4, "embed_dim": 24, "depth": 6, "num_heads": 3, "img_size": 16},
)
FINER = ("vit_tiny_patch16_224", {"patch_size": 2, "embed_dim": 8, "depth": 2, "num_heads": 2})


def tapped(logits, *levels):
    """Outputs with (B, 9, D) tokens on 3 × 3 patches, after a constant class token."""
    return Outputs(
        logits,
        levels={
            index: Feature(tokens, (3, 3), torch.full_like(tokens[:, :1], 100.0)) for index, tokens in enumerate(levels)
        },
    )


def test_the_default_recipe_matches_the_official_code(make_harness):
    torch.manual_seed(0)
    student, teacher, labels = torch.randn(4, 10), torch.randn(4, 10), torch.randint(0, 10, (4,))
    s0, s1, t0, t1 = (torch.randn(4, 9, width) for width in (8, 8, 12, 12))
    method = make_harness("manifold", student=NARROW, teachers=(NARROW,), layers=[(0, 0), (1, 1)], num_random=10).method
    batch = Batch(torch.zeros(4, 1, 16, 16), labels, torch.arange(4))
    s0.requires_grad_()

    torch.manual_seed(123)
    terms = method.loss(batch, tapped(student, s0, s1), [tapped(teacher, t0, t1)], StepInfo())

    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {"distillation": 0.776041746, "sample": 0.015737647, "patch": 0.671711087, "random": 0.037032738}, rel=1e-5
    )
    (gradient,) = torch.autograd.grad(sum(terms.values()), s0)
    assert gradient.norm().item() == pytest.approx(0.072202989, rel=1e-5)


def test_labels_are_a_term_if_requested(make_harness, batch):
    assert "label" in make_harness("manifold", label_weight=1.0).terms(batch)


def test_a_teacher_with_more_prefix_tokens_is_compared_patch_by_patch(make_harness, batch):
    harness = make_harness("manifold", teachers=(TWO_PREFIXES,))
    terms = harness.terms(batch)

    assert all(term.isfinite() for term in terms.values())
    tokens = [
        harness.student_outputs(batch.images).levels[0].tokens,
        harness.teachers[0](batch.images).levels[0].tokens,
    ]
    assert [t.shape[1] for t in tokens] == [16, 16]


@pytest.mark.parametrize(
    ("student", "teacher", "pairs"),
    [
        (12, 24, ((0, 0), (1, 1), (2, 2), (3, 3), (8, 20), (9, 21), (10, 22), (11, 23))),
        (4, 6, ((0, 0), (1, 1), (2, 4), (3, 5))),
        (24, 3, ((0, 0), (23, 2))),
        (1, 12, ((0, 0), (0, 11))),
        (1, 1, ((0, 0),)),
    ],
)
def test_the_first_and_last_blocks_are_paired(student, teacher, pairs):
    assert end_pairs(student, teacher) == pairs


def test_each_kind_of_relation_has_a_gradient_in_the_student(make_harness, batch):
    harness = make_harness("manifold")
    terms = harness.terms(batch)
    weight = harness.student.module.patch_embed.proj.weight

    for name in ("patch", "sample", "random"):
        (gradient,) = torch.autograd.grad(terms[name], weight, retain_graph=True)
        assert gradient.abs().sum() > 0, name


def test_another_grid_is_rejected_with_a_suitable_patch_size(make_harness):
    with pytest.raises(InvalidSpec, match="set the student's patch_size to 2, for the teacher's 8 × 8 patches"):
        make_harness("manifold", teachers=(FINER,))


def test_a_swin_is_rejected_with_suitable_levels(make_harness):
    swin = ("swin_tiny_patch4_window7_224", {"patch_size": 4, "window_size": 2, "depths": [2, 2], "num_heads": [2, 2]})

    with pytest.raises(InvalidSpec, match="choose layers with the same grid, or ViTs for student and teacher"):
        make_harness("manifold", teachers=(swin,))


def test_more_draws_than_patches_are_rejected(make_harness):
    with pytest.raises(InvalidSpec, match="/method/num_random: a batch has 96 patches"):
        make_harness("manifold", num_random=97)


def test_a_missing_block_is_rejected(make_harness):
    with pytest.raises(InvalidSpec, match="levels 0 to 3; level 4 does not exist"):
        make_harness("manifold", layers=[(4, 0)])

"""Patch manifolds: golden terms, which blocks are paired, and what is refused."""

import pytest
import torch

from core.errors import InvalidSpec
from core.methods import Batch, Outputs, StepInfo
from core.methods.manifold import both_ends
from core.models.taps import Feature

NARROW = ("vit_tiny_patch16_224", {"patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2})
TWO_PREFIXES = (
    "deit_tiny_distilled_patch16_224",
    {"patch_size": 4, "embed_dim": 24, "depth": 6, "num_heads": 3, "img_size": 16},
)
FINER = ("vit_tiny_patch16_224", {"patch_size": 2, "embed_dim": 8, "depth": 2, "num_heads": 2})


def tapped(logits, *levels):
    """Outputs with (B, 9, D) tokens on 3 × 3 patches behind a class token that says nothing."""
    return Outputs(
        logits,
        levels={
            index: Feature(tokens, (3, 3), torch.full_like(tokens[:, :1], 100.0)) for index, tokens in enumerate(levels)
        },
    )


def test_the_authors_recipe_gives_the_terms_of_the_authors_code(lesson):
    torch.manual_seed(0)
    mine, theirs, labels = torch.randn(4, 10), torch.randn(4, 10), torch.randint(0, 10, (4,))
    s0, s1, t0, t1 = (torch.randn(4, 9, width) for width in (8, 8, 12, 12))
    method = lesson("manifold", student=NARROW, teachers=(NARROW,), layers=[(0, 0), (1, 1)], num_random=10).method
    batch = Batch(torch.zeros(4, 1, 16, 16), labels, torch.arange(4))
    s0.requires_grad_()

    torch.manual_seed(123)
    terms = method.loss(batch, tapped(mine, s0, s1), [tapped(theirs, t0, t1)], StepInfo())

    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {"distillation": 0.776041746, "sample": 0.015737647, "patch": 0.671711087, "random": 0.037032738}, rel=1e-5
    )
    (slope,) = torch.autograd.grad(sum(terms.values()), s0)
    assert slope.norm().item() == pytest.approx(0.072202989, rel=1e-5)


def test_labels_count_where_they_are_asked_for(lesson, batch):
    assert "label" in lesson("manifold", label_weight=1.0).terms(batch)


def test_a_teacher_with_more_prefix_tokens_is_compared_patch_by_patch(lesson, batch):
    made = lesson("manifold", teachers=(TWO_PREFIXES,))
    terms = made.terms(batch)

    assert all(term.isfinite() for term in terms.values())
    tokens = [made.ask(batch.images).levels[0].tokens, made.teachers[0](batch.images).levels[0].tokens]
    assert [t.shape[1] for t in tokens] == [16, 16]


@pytest.mark.parametrize(
    ("mine", "theirs", "pairs"),
    [
        (12, 24, ((0, 0), (1, 1), (2, 2), (3, 3), (8, 20), (9, 21), (10, 22), (11, 23))),
        (4, 6, ((0, 0), (1, 1), (2, 4), (3, 5))),
        (24, 3, ((0, 0), (23, 2))),
        (1, 12, ((0, 0), (0, 11))),
        (1, 1, ((0, 0),)),
    ],
)
def test_the_first_and_last_blocks_are_paired(mine, theirs, pairs):
    assert both_ends(mine, theirs) == pairs


def test_each_kind_of_relation_teaches_the_student(lesson, batch):
    made = lesson("manifold")
    terms = made.terms(batch)
    weight = made.student.module.patch_embed.proj.weight

    for name in ("patch", "sample", "random"):
        (slope,) = torch.autograd.grad(terms[name], weight, retain_graph=True)
        assert slope.abs().sum() > 0, name


def test_another_grid_is_refused_with_the_patch_size_that_would_do(lesson):
    with pytest.raises(InvalidSpec, match="set the student's patch_size to 2, for the teacher's 8 × 8 patches"):
        lesson("manifold", teachers=(FINER,))


def test_a_swin_is_refused_with_the_levels_that_would_do(lesson):
    swin = ("swin_tiny_patch4_window7_224", {"patch_size": 4, "window_size": 2, "depths": [2, 2], "num_heads": [2, 2]})

    with pytest.raises(InvalidSpec, match="choose layers that have one grid, or ViTs on both sides"):
        lesson("manifold", teachers=(swin,))


def test_more_draws_than_patches_are_refused(lesson):
    with pytest.raises(InvalidSpec, match="/method/num_random: a batch has 96 patches"):
        lesson("manifold", num_random=97)


def test_a_block_that_is_not_there_is_refused(lesson):
    with pytest.raises(InvalidSpec, match="levels 0 to 3, there is no 4"):
        lesson("manifold", layers=[(4, 0)])

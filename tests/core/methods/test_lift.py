"""Lift: students that end at the teacher's width, what is compared, and what is refused."""

from dataclasses import replace

import pytest
import torch

from core.errors import InvalidSpec
from core.methods.lift import Lift, wide_heads
from core.models.structure import structure_of
from core.spec.methods.lift import LiftParams


@pytest.mark.parametrize(("form", "argument"), [("lift", "lift_width"), ("wide_last", "wide_last")])
def test_the_student_ends_at_the_teachers_width_and_keeps_that(form, argument, lesson):
    built = lesson("lift", form=form).student

    assert (built.module.embed_dim, built.module.head.in_features) == (16, 24)
    assert structure_of(built).last.width == 24
    assert built.arguments[argument] == 24


@pytest.mark.parametrize("form", ["lift", "wide_last"])
def test_class_and_patch_tokens_of_two_vits_are_compared_entry_by_entry(form, lesson, batch):
    made = lesson("lift", form=form, weight=2.0)
    mine, theirs = made.ask(batch.images).last, made.teachers[0](batch.images).last

    gaps = [
        (mine.prefix[i, 0, c] - theirs.prefix[i, 0, c]) ** 2
        if n < 0
        else (mine.tokens[i, n, c] - theirs.tokens[i, n, c]) ** 2
        for i in range(6)
        for n in range(-1, 16)
        for c in range(24)
    ]
    assert made.terms(batch)["last"].item() == pytest.approx(2 * torch.stack(gaps).mean().item(), rel=1e-4)


def test_patches_are_compared_on_the_coarser_grid_and_without_a_class_token_that_only_one_has(lesson, batch):
    made = lesson("lift", teachers=("cnn",))
    mine, theirs = made.ask(batch.images).last, made.teachers[0](batch.images).last

    assert theirs.grid == (1, 1)
    expected = (mine.tokens.mean(dim=1) - theirs.tokens[:, 0]).square().mean()
    assert made.terms(batch)["last"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_last_tokens_teach_body_and_lift_but_not_the_head(lesson, batch):
    made = lesson("lift")
    module = made.student.module
    weights = (module.blocks[0].attn.qkv.weight, module.lift.weight, module.head.weight)

    body, lift, head = torch.autograd.grad(made.terms(batch)["last"], weights, allow_unused=True)

    assert body.abs().sum() > 0
    assert lift.abs().sum() > 0
    assert head is None


def test_a_wide_block_has_heads_of_the_students_size_where_that_divides(lesson):
    student = structure_of(lesson("kd").student)  # heads of 8

    assert [wide_heads(student, width) for width in (24, 50, 7, 512)] == [3, 5, 1, 64]


def test_a_student_that_is_no_plain_vit_is_refused(lesson):
    swin = ("swin_tiny_patch4_window7_224", {"patch_size": 4, "window_size": 2, "depths": [1], "num_heads": [2]})

    with pytest.raises(InvalidSpec, match="needs a plain ViT"):
        lesson("lift", student=swin)


def test_a_teacher_that_does_not_show_its_last_tokens_is_refused(lesson):
    made = lesson("kd")
    student, teacher = structure_of(made.student), structure_of(made.teachers[0].built)

    with pytest.raises(InvalidSpec, match="/teachers/0/architecture: lift compares the last tokens"):
        Lift.student_variant(LiftParams(name="lift"), student, [replace(teacher, last=None)])

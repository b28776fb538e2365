"""Lift: student variants, comparison of last tokens, and errors."""

from dataclasses import replace

import pytest
import torch

from core.errors import InvalidSpec
from core.methods.lift import Lift, num_wide_heads
from core.models.structure import structure_of
from core.spec.methods.lift import LiftParams


@pytest.mark.parametrize(("form", "argument"), [("lift", "lift_width"), ("wide_last", "wide_last")])
def test_the_student_ends_at_the_teachers_width(form, argument, make_harness):
    built = make_harness("lift", form=form).student

    assert (built.module.embed_dim, built.module.head.in_features) == (16, 24)
    assert structure_of(built).last.width == 24
    assert built.arguments[argument] == 24


@pytest.mark.parametrize("form", ["lift", "wide_last"])
def test_class_and_patch_tokens_of_two_vits_are_compared_entry_by_entry(form, make_harness, batch):
    harness = make_harness("lift", form=form, weight=2.0)
    student, teacher = harness.student_outputs(batch.images).last, harness.teachers[0](batch.images).last

    gaps = [
        (student.prefix[i, 0, c] - teacher.prefix[i, 0, c]) ** 2
        if n < 0
        else (student.tokens[i, n, c] - teacher.tokens[i, n, c]) ** 2
        for i in range(6)
        for n in range(-1, 16)
        for c in range(24)
    ]
    assert harness.terms(batch)["last"].item() == pytest.approx(2 * torch.stack(gaps).mean().item(), rel=1e-4)


def test_patches_are_compared_on_the_coarser_grid_without_class_tokens_if_one_network_has_none(make_harness, batch):
    harness = make_harness("lift", teachers=("cnn",))
    student, teacher = harness.student_outputs(batch.images).last, harness.teachers[0](batch.images).last

    assert teacher.grid == (1, 1)
    expected = (student.tokens.mean(dim=1) - teacher.tokens[:, 0]).square().mean()
    assert harness.terms(batch)["last"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_last_tokens_train_backbone_and_lift_but_not_the_head(make_harness, batch):
    harness = make_harness("lift")
    module = harness.student.module
    weights = (module.blocks[0].attn.qkv.weight, module.lift.weight, module.head.weight)

    body, lift, head = torch.autograd.grad(harness.terms(batch)["last"], weights, allow_unused=True)

    assert body.abs().sum() > 0
    assert lift.abs().sum() > 0
    assert head is None


def test_a_wide_block_keeps_the_students_head_dimension_if_it_divides_the_width(make_harness):
    student = structure_of(make_harness("kd").student)  # heads of 8

    assert [num_wide_heads(student, width) for width in (24, 50, 7, 512)] == [3, 5, 1, 64]


def test_a_student_that_is_no_plain_vit_is_rejected(make_harness):
    swin = ("swin_tiny_patch4_window7_224", {"patch_size": 4, "window_size": 2, "depths": [1], "num_heads": [2]})

    with pytest.raises(InvalidSpec, match="needs a plain ViT"):
        make_harness("lift", student=swin)


def test_a_teacher_without_last_tokens_is_rejected(make_harness):
    harness = make_harness("kd")
    student, teacher = structure_of(harness.student), structure_of(harness.teachers[0].built)

    with pytest.raises(InvalidSpec, match="/teachers/0/architecture: lift compares the last features"):
        Lift.student_variant(LiftParams(name="lift"), student, [replace(teacher, last=None)])

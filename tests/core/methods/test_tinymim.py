"""TinyMIM: relations between the tokens of one block, and the number of heads in both stages."""

from dataclasses import replace

import pytest
import timm
import torch

from core.errors import InvalidSpec
from core.losses import relation_transfer
from core.methods import Batch, plan_student_variant
from core.methods.tinymim import block_pair
from core.models.build import build_student
from core.models.plan import plan_student
from core.models.safetensors_header import read_model_info
from core.models.structure import inspect_structure, structure_of
from core.models.weights import save_folder
from core.spec import StudentSpec
from core.spec.info import InputInfo
from core.spec.methods.tinymim import TinymimParams

VIT = "vit_tiny_patch16_224"
SIZES = {"patch_size": 4, "embed_dim": 24, "num_heads": 2}


def vit(depth, **more):
    return VIT, {**SIZES, "depth": depth, **more}


def structure(depth, heads=2, **more):
    arguments = {**SIZES, "depth": depth, "num_heads": heads, "img_size": 16, "in_chans": 1, "num_classes": 4, **more}
    return inspect_structure(VIT, arguments, 16)


def params(**fields):
    return TinymimParams(name="tinymim", **fields)


def test_the_terms_are_the_relations_of_the_blocks(make_harness, batch):
    harness = make_harness("tinymim", student=vit(2), teachers=[vit(6, num_heads=3)])
    student = harness.student_outputs(batch.images).attentions[1]
    teacher = harness.teachers[0](batch.images).attentions[4]

    terms = harness.terms(batch)

    query_key, value_value = relation_transfer(student.qkv, teacher.qkv, heads=3)
    assert student.query.shape == (6, 17, 24)
    assert {n: t.item() for n, t in terms.items()} == pytest.approx(
        {"query_key": query_key.item(), "value_value": value_value.item()}
    )


def test_nothing_behind_queries_keys_and_values_learns(make_harness, batch):
    harness = make_harness("tinymim", student=vit(2), teachers=[vit(2, num_heads=3)])

    sum(harness.terms(batch).values()).backward()

    last = harness.student.module.blocks[1]
    assert last.attn.qkv.weight.grad.abs().sum() > 0
    assert harness.student.module.blocks[0].mlp.fc1.weight.grad.abs().sum() > 0
    assert last.attn.proj.weight.grad is None
    assert last.mlp.fc1.weight.grad is None


@pytest.mark.parametrize(
    ("student", "teacher", "fields", "pair"),
    [
        (12, 12, {}, (11, 11)),
        (12, 24, {}, (11, 17)),
        (4, 6, {}, (3, 4)),
        (4, 6, {"teacher_level": 5, "student_level": 1}, (1, 5)),
    ],
)
def test_blocks_by_default_are_the_last_or_at_three_quarters_of_the_teacher(student, teacher, fields, pair):
    assert block_pair(params(**fields), structure(student), structure(teacher)) == pair


@pytest.mark.parametrize(("name", "message"), [("student_level", "blocks 0 to 3"), ("teacher_level", "blocks 0 to 5")])
def test_a_missing_block_is_rejected(name, message):
    with pytest.raises(InvalidSpec, match=message) as caught:
        block_pair(params(**{name: 6}), structure(4), structure(6))

    assert [error.pointer for error in caught.value.errors] == [f"/method/{name}"]


@pytest.mark.parametrize(
    ("fields", "heads"), [({}, [2, 2, 3]), ({"heads": 6}, [2, 2, 6]), ({"student_level": 0}, [3, 2, 2])]
)
def test_only_the_compared_block_has_the_teachers_heads(make_harness, fields, heads):
    harness = make_harness("tinymim", student=vit(3), teachers=[vit(3, num_heads=3)], **fields)

    assert [block.attn.num_heads for block in harness.student.module.blocks] == heads
    assert harness.student.arguments["heads_per_block"] == heads


def test_a_student_with_the_teachers_heads_is_unchanged(make_harness):
    harness = make_harness("tinymim", student=vit(2), teachers=[vit(2)])

    assert harness.student.architecture == VIT


def test_registers_are_left_out_of_the_relations(make_harness, batch):
    harness = make_harness("tinymim", student=vit(2), teachers=[vit(2, reg_tokens=3)])
    teacher = harness.teachers[0](batch.images).attentions[1]
    without_registers = [torch.cat((t[:, :1], t[:, 4:]), dim=1) for t in teacher.qkv]

    terms = harness.terms(batch)

    query_key, _ = relation_transfer(
        harness.student_outputs(batch.images).attentions[1].qkv, without_registers, heads=2
    )
    assert terms["query_key"].item() == pytest.approx(query_key.item())


def test_a_network_without_class_token_is_compared_patch_by_patch(make_harness, batch):
    harness = make_harness("tinymim", student=vit(2, class_token=False, global_pool="avg"), teachers=[vit(2)])
    student = harness.student_outputs(batch.images).attentions[1].qkv
    teacher = [tokens[:, 1:] for tokens in harness.teachers[0](batch.images).attentions[1].qkv]

    terms = harness.terms(batch)

    assert terms["query_key"].item() == pytest.approx(relation_transfer(student, teacher, heads=2)[0].item())


def test_labels_are_not_used(make_harness, batch):
    unlabeled = Batch(batch.images, torch.full((6,), -1), batch.indices)

    known, unknown = make_harness("tinymim").terms(batch), make_harness("tinymim").terms(unlabeled)

    assert {n: t.item() for n, t in known.items()} == {n: t.item() for n, t in unknown.items()}


@pytest.mark.parametrize(
    ("options", "pointer", "message"),
    [
        ({"teachers": [vit(2, num_heads=5, embed_dim=30)]}, "/method/heads", "heads to one of 1, 2, 3, 6, or change"),
        ({"heads": 5}, "/method/heads", "5 heads do not divide"),
        ({"teachers": [vit(2, patch_size=8)]}, "/student/architecture", "set the student's patch_size to 8"),
        ({"teachers": ["cnn"]}, "/teachers/0/architecture", "queries, keys and values"),
        ({"student": "cnn"}, "/student/architecture", "use a vit_"),
    ],
)
def test_an_unsupported_pair_is_rejected_with_a_fix(make_harness, options, pointer, message):
    with pytest.raises(InvalidSpec, match=message) as caught:
        make_harness("tinymim", **{"student": vit(2), "teachers": [vit(2)], **options})

    assert [error.pointer for error in caught.value.errors] == [pointer]


def test_the_second_stage_keeps_weights_and_heads(make_harness, tmp_path):
    harness = make_harness("tinymim", student=vit(2), teachers=[vit(2, num_heads=3)])
    first = harness.student
    save_folder(
        first.module,
        tmp_path,
        architecture=first.architecture,
        arguments=first.arguments,
        preprocessing=first.preprocessing,
    )
    spec = StudentSpec(architecture=first.architecture, weights="job_first")

    plan = plan_student(spec, InputInfo(7, 1, 16), models={"job_first": read_model_info(tmp_path)})
    second = build_student(plan, folders={"job_first": tmp_path})

    assert [block.attn.num_heads for block in second.module.blocks] == [2, 3]
    assert second.module.head.out_features == 7
    assert second.module.blocks[1].attn.qkv.weight.equal(first.module.blocks[1].attn.qkv.weight)
    assert timm.create_model(f"local-dir:{tmp_path}", pretrained=True).blocks[1].attn.num_heads == 3


def test_pretrained_weights_of_the_student_fit_other_heads(tmp_path):
    spec = StudentSpec(architecture=VIT, arguments={**SIZES, "depth": 2})
    plain = plan_student(spec, InputInfo(4, 1, 16), image_size=16)
    built = build_student(plain)
    save_folder(
        built.module,
        tmp_path,
        architecture=built.architecture,
        arguments=built.arguments,
        preprocessing=built.preprocessing,
    )
    stored = plan_student(
        StudentSpec(architecture=VIT, weights="job_plain"),
        InputInfo(4, 1, 16),
        models={"job_plain": read_model_info(tmp_path)},
    )
    teacher = replace(
        structure_of(built), attentions=tuple(replace(a, heads=3) for a in structure_of(built).attentions)
    )

    plan = plan_student_variant(params(), stored, teachers=lambda: [teacher])
    variant = build_student(plan, folders={"job_plain": tmp_path})

    assert [block.attn.num_heads for block in variant.module.blocks] == [2, 3]
    assert variant.module.blocks[1].attn.qkv.weight.equal(built.module.blocks[1].attn.qkv.weight)

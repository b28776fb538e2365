"""MiniViT: official values, pairs of layers, shared students, and errors."""

import pytest
import torch
from pydantic import ValidationError

from core.errors import InvalidSpec
from core.methods import Batch, Outputs, StepInfo
from core.methods.minivit import num_prefix_tokens, pair_by_shape
from core.models.structure import structure_of
from core.models.taps import Attention, Feature
from core.spec.methods.minivit import MinivitParams

NARROW = ("vit_tiny_patch16_224", {"patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2})
WIDER = ("vit_tiny_patch16_224", {"patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 2})
FINER = ("vit_tiny_patch16_224", {"patch_size": 2, "embed_dim": 12, "depth": 2, "num_heads": 2})
CAIT = ("cait_xxs24_224", {"patch_size": 4, "embed_dim": 16, "depth": 4, "num_heads": 2})
SWIN = (
    "swin_tiny_patch4_window7_224",
    {"patch_size": 4, "window_size": 2, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2]},
)
ONE_WINDOW = (SWIN[0], SWIN[1] | {"window_size": 4})
ONE_STAGE = (SWIN[0], SWIN[1] | {"depths": [2], "num_heads": [2]})
SWIN_TEACHER = (SWIN[0], SWIN[1] | {"embed_dim": 12, "depths": [2, 4]})
ONLY_LOSSES = {"repeats": 1, "head_transforms": False}


def with_class_token(tokens):
    """The tokens after a constant class token."""
    return torch.cat((torch.full_like(tokens[:, :1], 50.0), tokens), dim=1)


def test_relations_of_two_layers_match_the_official_code(make_harness, batch):
    torch.manual_seed(0)
    student = [[torch.randn(6, 9, 8).requires_grad_() for _ in "qkv"] for _ in range(2)]
    teacher = [[torch.randn(6, 9, 12) for _ in "qkv"] for _ in range(2)]
    method = make_harness("minivit", student=NARROW, teachers=(WIDER,), layers=[(0, 0), (1, 1)], hidden_weight=0).method

    def outputs(layers):
        attentions = {i: Attention(*map(with_class_token, qkv), heads=2, weights=None) for i, qkv in enumerate(layers)}
        return Outputs(torch.zeros(6, 4), attentions=attentions)

    term = method.loss(batch, outputs(student), [outputs(teacher)], StepInfo())["relation"]
    gradients = torch.autograd.grad(term, (student[0][0], student[1][2]))

    assert term.item() == pytest.approx(2.321107388, rel=1e-5)
    assert [gradient.norm().item() for gradient in gradients] == pytest.approx([0.015125615, 0.012582041], rel=1e-4)


@pytest.mark.parametrize(("temperature", "value"), [(1.0, 2.709875345), (4.0, 2.331712484)])
def test_soft_labels_match_the_official_cross_entropy(temperature, value, make_harness):
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 10), torch.randn(4, 10)
    method = make_harness("minivit", temperature=temperature, relation_weight=0, hidden_weight=0).method
    batch = Batch(torch.zeros(4, 1, 16, 16), torch.zeros(4, dtype=torch.int64), torch.arange(4))

    terms = method.loss(batch, Outputs(student), [Outputs(teacher)], StepInfo())

    assert {name: term.item() for name, term in terms.items()} == pytest.approx({"distillation": value}, rel=1e-5)


def test_hidden_states_are_compared_by_the_cosines_of_their_patches(make_harness, batch):
    method = make_harness("minivit", layers=[(1, 2), (3, 5)], relation_weight=0, hidden_weight=0.2).method
    generator = torch.Generator().manual_seed(0)
    student = {i: torch.randn(6, 16, 16, generator=generator) for i in (1, 3)}
    teacher = {i: torch.randn(6, 16, 24, generator=generator) for i in (2, 5)}

    def outputs(levels):
        return Outputs(torch.zeros(6, 4), levels={i: Feature(t, (4, 4), t[:, :1]) for i, t in levels.items()})

    def cosines(image):
        return [[torch.cosine_similarity(a, b, dim=0) for b in image] for a in image]

    term = method.loss(batch, outputs(student), [outputs(teacher)], StepInfo())["hidden"]

    gaps = [
        (torch.tensor(cosines(one)) - torch.tensor(cosines(other))).square().mean()
        for s, t in ((1, 2), (3, 5))
        for one, other in zip(student[s], teacher[t], strict=True)
    ]
    assert term.item() == pytest.approx(0.2 * 49 * torch.stack(gaps).mean().item(), rel=1e-4)


def test_the_student_stores_each_block_once_for_two_runs_with_their_own_transforms(make_harness):
    module = make_harness("minivit").student.module

    assert [len(block.runs) for block in module.blocks] == [2, 2]
    assert all(run.mixing.conv_l is not None for block in module.blocks for run in block.runs)


def test_each_term_has_a_gradient_in_shared_weights(make_harness, batch):
    harness = make_harness("minivit", label_weight=1.0)
    terms = harness.terms(batch)
    weight = harness.student.module.blocks[0].attn.qkv.weight

    assert list(terms) == ["label", "distillation", "relation", "hidden"]
    for name, term in terms.items():
        (gradient,) = torch.autograd.grad(term, weight, retain_graph=True)
        assert gradient.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("student", "teacher", "pairs"),
    [
        ([12], [24], [(1, 3), (3, 7), (5, 11), (7, 15), (9, 19), (11, 23)]),
        ([2, 2, 6, 2], [2, 2, 18, 2], [(1, 1), (3, 3), (5, 9), (7, 15), (9, 21), (11, 23)]),
        ([1], [3], [(0, 2)]),
        ([24], [24], [(3, 3), (7, 7), (11, 11), (15, 15), (19, 19), (23, 23)]),
    ],
)
def test_layers_of_one_shape_are_paired_as_in_the_authors_lists(student, teacher, pairs):
    def shapes(depths):
        return [(1, stage) for stage, depth in enumerate(depths) for _ in range(depth)]

    assert pair_by_shape(shapes(student), shapes(teacher)) == tuple(pairs)


def test_layers_without_a_match_are_left_out():
    assert pair_by_shape([(1, 16), (1, 4)], [(4, 4), (1, 4)]) == ((1, 1),)


@pytest.mark.parametrize(("teacher", "count"), [(WIDER, 1), (CAIT, 0), (SWIN, 0)])
def test_prefix_tokens_are_counted_if_attention_sees_them(teacher, count, make_harness):
    harness = make_harness("minivit", teachers=(teacher,), relation_weight=0, hidden_weight=0)

    assert num_prefix_tokens(structure_of(harness.teachers[0].built)) == count


@pytest.mark.parametrize("teacher", [CAIT, ONE_WINDOW])
def test_a_teacher_without_prefix_tokens_is_supported(teacher, make_harness, batch):
    terms = make_harness("minivit", teachers=(teacher,)).terms(batch)

    assert terms["relation"].isfinite()
    assert terms["hidden"].isfinite()


def test_a_swin_learns_the_relations_of_a_swin_window_by_window(make_harness, batch):
    terms = make_harness("minivit", student=SWIN, teachers=(SWIN,), **ONLY_LOSSES).terms(batch)

    assert list(terms) == ["distillation", "relation", "hidden"]


def test_a_vit_learns_hidden_relations_of_a_windowed_swin(make_harness, batch):
    terms = make_harness("minivit", teachers=(SWIN,), relation_weight=0).terms(batch)

    assert terms["hidden"].isfinite()


def test_windows_that_no_attention_of_the_student_shares_are_rejected(make_harness):
    with pytest.raises(
        InvalidSpec, match=r"sees 16 patches, of the teacher 4 patches in each of 4 windows or 4 patches"
    ):
        make_harness("minivit", teachers=(SWIN,))


def test_another_number_of_tokens_is_rejected_with_a_suitable_patch_size(make_harness):
    with pytest.raises(InvalidSpec, match="set the student's patch_size to 2, for the teacher's 8 × 8 patches"):
        make_harness("minivit", teachers=(FINER,))


def test_hidden_states_on_other_grids_are_rejected(make_harness):
    with pytest.raises(InvalidSpec, match="grids 4 × 4 and the teacher's on 8 × 8; set the student's patch_size to 2"):
        make_harness("minivit", teachers=(FINER,), relation_weight=0)


def test_a_cnn_teacher_supports_only_the_logit_term(make_harness, batch):
    with pytest.raises(InvalidSpec, match=r"resnet10t exposes none.*set relation_weight and hidden_weight to 0"):
        make_harness("minivit", teachers=("cnn",))

    assert list(make_harness("minivit", teachers=("cnn",), relation_weight=0, hidden_weight=0).terms(batch)) == [
        "distillation"
    ]


def test_a_depth_not_divisible_by_repeats_is_rejected(make_harness):
    with pytest.raises(
        InvalidSpec, match="/method/repeats: 4 blocks cannot be split into runs of 3; set repeats to one of 1, 2, 4"
    ):
        make_harness("minivit", repeats=3)


def test_a_swin_stores_each_pair_of_blocks_once_with_their_own_transforms(make_harness):
    harness = make_harness("minivit", student=SWIN, teachers=(SWIN_TEACHER,))
    stages = harness.student.module.layers

    assert harness.student.architecture == "potstill_swin"
    assert [[len(block.runs) for block in stage.blocks] for stage in stages] == [[2], [2]]
    assert all(run.mixing and run.local for stage in stages for block in stage.blocks for run in block.runs)


def test_each_term_has_a_gradient_in_shared_weights_of_a_swin(make_harness, batch):
    harness = make_harness("minivit", student=SWIN, teachers=(SWIN_TEACHER,), label_weight=1.0)
    terms = harness.terms(batch)
    weight = harness.student.module.layers[0].blocks[0].attn.qkv.weight

    assert harness.method.relations == ((1, 1), (3, 5))
    assert harness.method.hidden == ((0, 0), (1, 1))
    assert list(terms) == ["label", "distillation", "relation", "hidden"]
    for name, term in terms.items():
        (gradient,) = torch.autograd.grad(term, weight, retain_graph=True)
        assert gradient.abs().sum() > 0, name


def test_the_relation_of_a_later_run_trains_that_runs_norm(make_harness, batch):
    """Block 1 is the second run of the first stored block: its own norm is trained, and nothing after q, k and v."""
    harness = make_harness("minivit", student=SWIN, teachers=(SWIN_TEACHER,), layers=[(1, 1)], hidden_weight=0)
    run = harness.student.module.layers[0].blocks[0].runs[1]
    before, behind = torch.autograd.grad(
        harness.terms(batch)["relation"], (run.norm1.weight, run.norm2.weight), allow_unused=True
    )

    assert before.abs().sum() > 0
    assert behind is None


@pytest.mark.parametrize(
    ("params", "form"),
    [
        ({}, (2, True, True)),
        ({"local_convolution": False}, (2, True, False)),
        ({"repeats": 1}, (1, True, False)),
        ({"repeats": 1, "head_transforms": False, "local_convolution": True}, (1, False, True)),
    ],
)
def test_a_swin_has_the_requested_transforms(params, form, make_harness):
    harness = make_harness("minivit", student=SWIN, teachers=(SWIN_TEACHER,), **params).student.module.options

    assert (harness.repeats, harness.head_transforms, harness.local_convolution) == form


@pytest.mark.parametrize(("params", "expected"), [({}, True), ({"transform_start": "random"}, False)])
def test_transforms_of_a_student_start_at_identity_unless_random(params, expected, make_harness):
    vit = make_harness("minivit", **params).student.module
    swin = make_harness("minivit", student=SWIN, teachers=(SWIN_TEACHER,), **params).student.module
    runs = [run for block in vit.blocks for run in block.runs]
    windowed = [run for stage in swin.layers for block in stage.blocks for run in block.runs]

    transforms = [conv.weight[:, :, 0, 0] for run in runs + windowed for conv in (run.mixing.conv_l, run.mixing.conv_w)]
    assert all(weight.equal(torch.eye(len(weight))) == expected for weight in transforms)
    assert all((run.local.conv.weight == 0).all() == expected for run in windowed)


def test_attention_learns_from_the_first_step_only_if_transforms_start_at_identity(make_harness, batch):
    def gradient(start):
        harness = make_harness("minivit", transform_start=start, relation_weight=0, hidden_weight=0)
        weight = harness.student.module.blocks[0].attn.qkv.weight
        return torch.autograd.grad(sum(harness.terms(batch).values()), weight)[0].norm().item()

    assert gradient("random") < 0.2 * gradient("identity")


def test_windows_of_a_single_stage_have_no_prefix_tokens(make_harness, batch):
    harness = make_harness("minivit", student=ONE_STAGE, teachers=(SWIN_TEACHER,), layers=[(1, 1)], hidden_weight=0)

    assert harness.method.num_prefix_tokens == (0, 0)
    assert harness.terms(batch)["relation"].isfinite()


def test_only_a_vit_or_a_swin_of_the_first_version_shares_its_blocks(make_harness):
    second = ("swinv2_tiny_window8_256", {"window_size": 2, "depths": [2, 2], "num_heads": [2, 2]})

    with pytest.raises(
        InvalidSpec, match=r"swinv2_tiny_window8_256 is none; choose a vit_\*, deit_\* or swin_\*, or set"
    ):
        make_harness("minivit", student=second, teachers=(SWIN,))


def test_stages_of_a_swin_not_divisible_by_repeats_are_rejected(make_harness):
    deep = (SWIN[0], SWIN[1] | {"depths": [2, 6]})

    with pytest.raises(
        InvalidSpec, match=r"/method/repeats: .*stages of 2, 6 blocks.*set repeats to one of 1, 2, 3, 6"
    ):
        make_harness("minivit", student=deep, teachers=(SWIN_TEACHER,), repeats=4)


def test_transforms_of_the_other_family_are_rejected(make_harness):
    with pytest.raises(InvalidSpec, match=r"/method/relative_position: .*leave it out"):
        make_harness("minivit", student=SWIN, teachers=(SWIN_TEACHER,), relative_position=True)
    with pytest.raises(InvalidSpec, match=r"/method/local_convolution: .*leave it out"):
        make_harness("minivit", local_convolution=True)


def test_missing_or_different_blocks_are_rejected(make_harness):
    with pytest.raises(InvalidSpec, match="the teacher has blocks 0 to 5; block 6 does not exist"):
        make_harness("minivit", layers=[(0, 6)])
    with pytest.raises(InvalidSpec, match="the student's block 0 sees 16 patches and the teacher's block 0 64 patches"):
        make_harness("minivit", teachers=(FINER,), layers=[(0, 0)])


def test_relation_heads_that_do_not_divide_a_width_are_rejected(make_harness):
    with pytest.raises(InvalidSpec, match="3 heads do not divide a width of 16"):
        make_harness("minivit", relation_heads=3)


def test_weights_that_are_all_zero_are_rejected():
    with pytest.raises(ValidationError, match="nothing would be learned"):
        MinivitParams(name="minivit", logits_weight=0, relation_weight=0, hidden_weight=0)

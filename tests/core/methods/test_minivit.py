"""Weight multiplexing: the authors' numbers, which places are paired, shared students, and what is refused."""

import pytest
import torch
from pydantic import ValidationError

from core.errors import InvalidSpec
from core.methods import Batch, Outputs, StepInfo
from core.methods.minivit import alike, num_prefixes
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
LOSSES_ALONE = {"repeats": 1, "head_transforms": False}


def noised(tokens):
    """The tokens behind a class token that says nothing."""
    return torch.cat((torch.full_like(tokens[:, :1], 50.0), tokens), dim=1)


def test_relations_of_two_layers_give_the_value_of_the_authors_code(lesson, batch):
    torch.manual_seed(0)
    mine = [[torch.randn(6, 9, 8).requires_grad_() for _ in "qkv"] for _ in range(2)]
    theirs = [[torch.randn(6, 9, 12) for _ in "qkv"] for _ in range(2)]
    method = lesson("minivit", student=NARROW, teachers=(WIDER,), layers=[(0, 0), (1, 1)], hidden_weight=0).method

    def outputs(layers):
        attentions = {i: Attention(*map(noised, qkv), heads=2, weights=None) for i, qkv in enumerate(layers)}
        return Outputs(torch.zeros(6, 4), attentions=attentions)

    term = method.loss(batch, outputs(mine), [outputs(theirs)], StepInfo())["relation"]
    slopes = torch.autograd.grad(term, (mine[0][0], mine[1][2]))

    assert term.item() == pytest.approx(2.321107388, rel=1e-5)
    assert [slope.norm().item() for slope in slopes] == pytest.approx([0.015125615, 0.012582041], rel=1e-4)


@pytest.mark.parametrize(("temperature", "value"), [(1.0, 2.709875345), (4.0, 2.331712484)])
def test_soft_labels_are_the_authors_cross_entropy(temperature, value, lesson):
    torch.manual_seed(0)
    mine, theirs = torch.randn(4, 10), torch.randn(4, 10)
    method = lesson("minivit", temperature=temperature, relation_weight=0, hidden_weight=0).method
    batch = Batch(torch.zeros(4, 1, 16, 16), torch.zeros(4, dtype=torch.int64), torch.arange(4))

    terms = method.loss(batch, Outputs(mine), [Outputs(theirs)], StepInfo())

    assert {name: term.item() for name, term in terms.items()} == pytest.approx({"distillation": value}, rel=1e-5)


def test_hidden_states_are_compared_by_the_cosines_of_their_patches(lesson, batch):
    method = lesson("minivit", layers=[(1, 2), (3, 5)], relation_weight=0, hidden_weight=0.2).method
    generator = torch.Generator().manual_seed(0)
    mine = {i: torch.randn(6, 16, 16, generator=generator) for i in (1, 3)}
    theirs = {i: torch.randn(6, 16, 24, generator=generator) for i in (2, 5)}

    def outputs(levels):
        return Outputs(torch.zeros(6, 4), levels={i: Feature(t, (4, 4), t[:, :1]) for i, t in levels.items()})

    def cosines(picture):
        return [[torch.cosine_similarity(a, b, dim=0) for b in picture] for a in picture]

    term = method.loss(batch, outputs(mine), [outputs(theirs)], StepInfo())["hidden"]

    gaps = [
        (torch.tensor(cosines(one)) - torch.tensor(cosines(other))).square().mean()
        for s, t in ((1, 2), (3, 5))
        for one, other in zip(mine[s], theirs[t], strict=True)
    ]
    assert term.item() == pytest.approx(0.2 * 49 * torch.stack(gaps).mean().item(), rel=1e-4)


def test_the_student_stores_each_block_once_for_two_runs_with_their_own_transforms(lesson):
    module = lesson("minivit").student.module

    assert [len(block.runs) for block in module.blocks] == [2, 2]
    assert all(run.mixing.conv_l is not None for block in module.blocks for run in block.runs)


def test_each_term_teaches_what_the_runs_share(lesson, batch):
    made = lesson("minivit", label_weight=1.0)
    terms = made.terms(batch)
    weight = made.student.module.blocks[0].attn.qkv.weight

    assert list(terms) == ["label", "distillation", "relation", "hidden"]
    for name, term in terms.items():
        (slope,) = torch.autograd.grad(term, weight, retain_graph=True)
        assert slope.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("mine", "theirs", "pairs"),
    [
        ([12], [24], [(1, 3), (3, 7), (5, 11), (7, 15), (9, 19), (11, 23)]),
        ([2, 2, 6, 2], [2, 2, 18, 2], [(1, 1), (3, 3), (5, 9), (7, 15), (9, 21), (11, 23)]),
        ([1], [3], [(0, 2)]),
        ([24], [24], [(3, 3), (7, 7), (11, 11), (15, 15), (19, 19), (23, 23)]),
    ],
)
def test_places_of_one_shape_are_paired_as_in_the_authors_lists(mine, theirs, pairs):
    def shapes(depths):
        return [(1, stage) for stage, depth in enumerate(depths) for _ in range(depth)]

    assert alike(shapes(mine), shapes(theirs)) == tuple(pairs)


def test_places_without_a_like_are_left_out():
    assert alike([(1, 16), (1, 4)], [(4, 4), (1, 4)]) == ((1, 1),)


@pytest.mark.parametrize(("teacher", "count"), [(WIDER, 1), (CAIT, 0), (SWIN, 0)])
def test_prefix_tokens_are_counted_where_attention_sees_them(teacher, count, lesson):
    made = lesson("minivit", teachers=(teacher,), relation_weight=0, hidden_weight=0)

    assert num_prefixes(structure_of(made.teachers[0].built)) == count


@pytest.mark.parametrize("teacher", [CAIT, ONE_WINDOW])
def test_a_teacher_without_prefix_tokens_teaches_relations(teacher, lesson, batch):
    terms = lesson("minivit", teachers=(teacher,)).terms(batch)

    assert terms["relation"].isfinite()
    assert terms["hidden"].isfinite()


def test_a_swin_learns_the_relations_of_a_swin_window_by_window(lesson, batch):
    terms = lesson("minivit", student=SWIN, teachers=(SWIN,), **LOSSES_ALONE).terms(batch)

    assert list(terms) == ["distillation", "relation", "hidden"]


def test_a_vit_learns_hidden_relations_of_a_windowed_swin(lesson, batch):
    terms = lesson("minivit", teachers=(SWIN,), relation_weight=0).terms(batch)

    assert terms["hidden"].isfinite()


def test_windows_that_no_attention_of_the_student_shares_are_refused(lesson):
    with pytest.raises(
        InvalidSpec, match=r"sees 16 patches, of the teacher 4 patches in each of 4 windows or 4 patches"
    ):
        lesson("minivit", teachers=(SWIN,))


def test_another_number_of_tokens_is_refused_with_the_patch_size_that_would_do(lesson):
    with pytest.raises(InvalidSpec, match="set the student's patch_size to 2, for the teacher's 8 × 8 patches"):
        lesson("minivit", teachers=(FINER,))


def test_hidden_states_on_other_grids_are_refused(lesson):
    with pytest.raises(InvalidSpec, match="grids 4 × 4 and the teacher's on 8 × 8; set the student's patch_size to 2"):
        lesson("minivit", teachers=(FINER,), relation_weight=0)


def test_a_cnn_teaches_by_its_logits_alone(lesson, batch):
    with pytest.raises(InvalidSpec, match=r"resnet10t shows none.*set relation_weight and hidden_weight to 0"):
        lesson("minivit", teachers=("cnn",))

    assert list(lesson("minivit", teachers=("cnn",), relation_weight=0, hidden_weight=0).terms(batch)) == [
        "distillation"
    ]


def test_a_depth_that_runs_do_not_divide_is_refused(lesson):
    with pytest.raises(
        InvalidSpec, match="/method/repeats: 4 blocks cannot be runs of 3 each; set repeats to one of 1, 2, 4"
    ):
        lesson("minivit", repeats=3)


def test_a_swin_stores_each_pair_of_blocks_once_with_their_own_transforms(lesson):
    made = lesson("minivit", student=SWIN, teachers=(SWIN_TEACHER,))
    stages = made.student.module.layers

    assert made.student.architecture == "potstill_swin"
    assert [[len(block.runs) for block in stage.blocks] for stage in stages] == [[2], [2]]
    assert all(run.mixing and run.local for stage in stages for block in stage.blocks for run in block.runs)


def test_each_term_teaches_what_the_runs_of_a_swin_share(lesson, batch):
    made = lesson("minivit", student=SWIN, teachers=(SWIN_TEACHER,), label_weight=1.0)
    terms = made.terms(batch)
    weight = made.student.module.layers[0].blocks[0].attn.qkv.weight

    assert made.method.relations == ((1, 1), (3, 5))
    assert made.method.hidden == ((0, 0), (1, 1))
    assert list(terms) == ["label", "distillation", "relation", "hidden"]
    for name, term in terms.items():
        (slope,) = torch.autograd.grad(term, weight, retain_graph=True)
        assert slope.abs().sum() > 0, name


def test_a_later_run_of_a_swins_block_is_read_where_it_runs(lesson, batch):
    """Block 1 is the second run of the first stored block: its own norm counts, and nothing behind q, k and v."""
    made = lesson("minivit", student=SWIN, teachers=(SWIN_TEACHER,), layers=[(1, 1)], hidden_weight=0)
    run = made.student.module.layers[0].blocks[0].runs[1]
    before, behind = torch.autograd.grad(
        made.terms(batch)["relation"], (run.norm1.weight, run.norm2.weight), allow_unused=True
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
def test_a_swin_has_the_transforms_that_are_asked_for(params, form, lesson):
    made = lesson("minivit", student=SWIN, teachers=(SWIN_TEACHER,), **params).student.module.form

    assert (made.repeats, made.head_transforms, made.local_convolution) == form


def test_windows_of_a_single_stage_have_no_prefix(lesson, batch):
    made = lesson("minivit", student=ONE_STAGE, teachers=(SWIN_TEACHER,), layers=[(1, 1)], hidden_weight=0)

    assert made.method.prefixes == (0, 0)
    assert made.terms(batch)["relation"].isfinite()


def test_only_a_vit_or_a_swin_of_the_first_version_shares_its_blocks(lesson):
    second = ("swinv2_tiny_window8_256", {"window_size": 2, "depths": [2, 2], "num_heads": [2, 2]})

    with pytest.raises(
        InvalidSpec, match=r"swinv2_tiny_window8_256 is none; choose a vit_\*, deit_\* or swin_\*, or set"
    ):
        lesson("minivit", student=second, teachers=(SWIN,))


def test_runs_that_do_not_divide_a_swins_stages_are_refused(lesson):
    deep = (SWIN[0], SWIN[1] | {"depths": [2, 6]})

    with pytest.raises(
        InvalidSpec, match=r"/method/repeats: .*stages of 2, 6 blocks.*set repeats to one of 1, 2, 3, 6"
    ):
        lesson("minivit", student=deep, teachers=(SWIN_TEACHER,), repeats=4)


def test_transforms_of_the_other_family_are_refused(lesson):
    with pytest.raises(InvalidSpec, match=r"/method/relative_position: .*leave it out"):
        lesson("minivit", student=SWIN, teachers=(SWIN_TEACHER,), relative_position=True)
    with pytest.raises(InvalidSpec, match=r"/method/local_convolution: .*leave it out"):
        lesson("minivit", local_convolution=True)


def test_blocks_that_are_not_there_or_not_alike_are_refused(lesson):
    with pytest.raises(InvalidSpec, match="the teacher has blocks 0 to 5, there is no 6"):
        lesson("minivit", layers=[(0, 6)])
    with pytest.raises(InvalidSpec, match="the student's block 0 sees 16 patches and the teacher's block 0 64 patches"):
        lesson("minivit", teachers=(FINER,), layers=[(0, 0)])


def test_relation_heads_that_do_not_divide_a_width_are_refused(lesson):
    with pytest.raises(InvalidSpec, match="3 heads do not divide a width of 16"):
        lesson("minivit", relation_heads=3)


def test_weights_that_leave_nothing_to_learn_are_refused():
    with pytest.raises(ValidationError, match="nothing would be learnt"):
        MinivitParams(name="minivit", logits_weight=0, relation_weight=0, hidden_weight=0)

"""One-for-all distillation: positions of the exits, their losses, and the unchanged student."""

from dataclasses import replace

import pytest
import torch

from core.errors import InvalidSpec
from core.losses import one_for_all
from core.methods import Batch, StepInfo, build_method
from core.models.early_exits import ConvExit, TokenExit
from core.models.taps import Outputs
from core.spec.methods.ofa import OfaParams

CNN = {"student": "cnn", "teachers": ("transformer",)}
VIT = ("vit_tiny_patch16_224", {"patch_size": 4, "embed_dim": 16, "num_heads": 2})
SWIN = (
    "swin_tiny_patch4_window7_224",
    {"patch_size": 1, "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1], "window_size": 2},
)


def vit(depth):
    return VIT[0], {**VIT[1], "depth": depth}


def build(context, **params):
    return build_method(OfaParams(name="ofa", **params), context)


@pytest.mark.parametrize(("epsilon", "expected"), [(1.0, 2.590020857), (3.0, 1.259438919)])
def test_the_distance_matches_the_official_value(epsilon, expected, context):
    torch.manual_seed(0)
    student, teacher = 3 * torch.randn(4, 7), 3 * torch.randn(4, 7)
    batch = Batch(torch.zeros(4, 1, 1, 1), torch.randint(0, 7, (4,)), torch.arange(4))

    assert build(context, epsilon=epsilon).distance(student, teacher, batch).item() == pytest.approx(expected, rel=1e-5)


def test_each_exit_and_the_student_match_the_teacher(make_harness, batch):
    harness = make_harness("ofa", label_weight=0.5, weight=2.0, exit_weight=3.0, epsilon=1.5)
    student = harness.student_outputs(batch.images)
    teacher = harness.teachers[0](batch.images).logits

    terms = harness.method.loss(batch, student, [Outputs(teacher)], StepInfo())

    def distance(answer):
        return one_for_all(answer, teacher, batch.labels, epsilon=1.5, temperature=1.0).item()

    answers = [head(student.levels[i]) for i, head in zip(harness.method.stages, harness.method.exits, strict=True)]
    assert list(terms) == ["label", "distillation", "exits"]
    assert terms["label"].item() == pytest.approx(
        0.5 * harness.method.label_loss(student.logits, batch).item(), rel=1e-6
    )
    assert terms["distillation"].item() == pytest.approx(2 * distance(student.logits), rel=1e-5)
    assert terms["exits"].item() == pytest.approx(3 * sum(distance(answer) for answer in answers), rel=1e-5)


@pytest.mark.parametrize(
    ("depth", "stages"), [(1, (0,)), (3, (0, 1, 2)), (4, (0, 1, 2, 3)), (6, (0, 1, 4, 5)), (12, (1, 3, 9, 11))]
)
def test_a_vit_has_its_exits_at_the_papers_relative_depths(depth, stages, make_harness):
    method = make_harness("ofa", student=vit(depth)).method

    assert method.stages == stages == method.student_taps.levels


@pytest.mark.parametrize(
    ("student", "stages", "kind"),
    [("cnn", (1, 2, 3, 4), ConvExit), (SWIN, (0, 1, 2, 3), TokenExit), (vit(6), (0, 1, 4, 5), TokenExit)],
)
def test_each_family_of_students_gets_suitable_exits(student, stages, kind, make_harness, batch):
    harness = make_harness("ofa", student=student, teachers=("cnn",))
    terms = harness.terms(batch)

    assert harness.method.stages == stages
    assert all(isinstance(head, kind) for head in harness.method.exits)
    assert terms["exits"].isfinite()


@pytest.mark.parametrize(("depth", "blocks"), [(12, [3, 2, 1, 1]), (4, [3, 2, 1, 1])])
def test_earlier_exits_of_a_vit_have_more_blocks(depth, blocks, make_harness):
    assert [len(head.blocks) for head in make_harness("ofa", student=vit(depth)).method.exits] == blocks


def test_earlier_exits_of_a_cnn_halve_their_map_more_often(make_harness):
    exits = make_harness("ofa", **CNN).method.exits

    assert [sum(isinstance(p, torch.nn.BatchNorm2d) for p in head.modules()) // 2 for head in exits] == [3, 2, 1, 0]


def test_an_exit_has_gradients_only_in_earlier_stages(make_harness, batch):
    """An exit has a gradient at its own level, and none at later levels."""
    harness = make_harness("ofa", stages=[0], label_weight=0.0, weight=0.0)
    blocks = harness.student.module.blocks

    sum(harness.terms(batch).values()).backward()

    assert blocks[0].mlp.fc1.weight.grad.abs().sum() > 0
    assert blocks[1].mlp.fc1.weight.grad is None or blocks[1].mlp.fc1.weight.grad.abs().sum() == 0


def test_the_student_contains_no_exits(make_harness, batch):
    harness = make_harness("ofa")
    names = set(harness.student.module.state_dict())
    harness.terms(batch)

    assert set(harness.student.module.state_dict()) == names
    assert harness.method.finalize(harness.student, None) is harness.student
    assert any(name.startswith("exits.") for name in harness.method.state_dict())


def test_a_missing_stage_is_rejected(context):
    with pytest.raises(InvalidSpec, match="levels 0 to 3; level 4 does not exist") as caught:
        build(context, stages=[1, 4])

    assert [error.pointer for error in caught.value.errors] == ["/method/stages"]


@pytest.mark.parametrize("stages", [[3, 1], [1, 1]])
def test_stages_must_be_unique_and_in_order(stages):
    with pytest.raises(ValueError, match="from the first to the last"):
        OfaParams(name="ofa", stages=stages)


@pytest.mark.parametrize(("num_samples", "batch_size"), [(24, 1), (3, 2)])
def test_batches_of_one_image_are_rejected_if_exits_have_batch_norms(num_samples, batch_size, make_harness, context):
    small = replace(context, num_samples=num_samples, batch_size=batch_size)
    build(small)

    with pytest.raises(InvalidSpec, match=r"training\.batch_size"):
        build(replace(small, student=make_harness("ofa", **CNN).student))

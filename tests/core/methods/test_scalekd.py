"""ScaleKD: the last features of a strong teacher, directly and through its frozen last stage."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from core.errors import InvalidSpec
from core.losses import kd, unit_difference
from core.models.last_stage import run_last_stage

VIT = "vit_tiny_patch16_224"
SWIN = (
    "swin_tiny_patch4_window7_224",
    {"patch_size": 2, "window_size": 2, "embed_dim": 8, "depths": [1, 1, 1], "num_heads": [1, 2, 2]},
)
SIZES = {"patch_size": 4, "embed_dim": 24, "depth": 1, "num_heads": 3}
VIEWS = ["through_teacher_direct", "direct", "through_teacher_without_mean", "without_mean"]


def map_of(tokens, grid):
    return tokens.mT.reshape(len(tokens), -1, *grid)


@pytest.mark.parametrize("teacher", ["transformer", "cnn", SWIN], ids=["vit", "resnet", "swin"])
@pytest.mark.parametrize("student", ["transformer", "cnn"])
def test_the_terms_match_their_definitions(make_harness, batch, student, teacher):
    harness = make_harness("scalekd", student=student, teachers=(teacher,), weights=(0.5, 0.25), alpha=0.25)
    method, module = harness.method.eval(), harness.teachers[0].built.module
    harness.student.module.eval()
    outputs, target = harness.student_outputs(batch.images), harness.teachers[0](batch.images)
    previous, grid = outputs.levels[method.previous_level].map, target.last.grid
    factor = 49 / (grid[0] * grid[1])

    terms = {name: term.item() for name, term in harness.terms(batch).items()}

    assert list(terms) == ["label", "distillation", *VIEWS]
    assert terms["label"] == pytest.approx(0.75 * F.cross_entropy(outputs.logits, batch.labels).item(), rel=1e-5)
    assert terms["distillation"] == pytest.approx(
        0.25 * kd(outputs.logits, target.logits, temperature=1.0).item(), rel=1e-4
    )
    for view, (weight, remove_mean) in enumerate(((0.5, False), (0.25, True))):
        projected = map_of(method.stage_projectors[str(view)](previous), method.stage_input.grid)
        through = run_last_stage(module, projected)
        last = method.projectors[str(view)](outputs.last.map, through.flatten(2).mT)
        expected = [
            factor * weight * unit_difference(student_map, target.last.map, remove_mean=remove_mean).item()
            for student_map in (through, map_of(last, grid))
        ]
        assert [terms[VIEWS[2 * view]], terms[VIEWS[2 * view + 1]]] == pytest.approx(expected, rel=1e-4)


def test_gradients_reach_the_student_through_the_frozen_stage(make_harness, batch):
    harness = make_harness("scalekd", teachers=(SWIN,))
    frozen = list(harness.teachers[0].built.module.parameters())

    harness.terms(batch)["through_teacher_direct"].backward()

    assert harness.student.module.patch_embed.proj.weight.grad.abs().sum() > 0
    assert not harness.teachers[0].built.module.training
    assert not [p for p in frozen if p.requires_grad or p.grad is not None]
    assert not {id(p) for p in frozen} & {id(p) for p in harness.method.parameters()}


def test_without_the_teachers_stage_any_teacher_is_supported(make_harness, batch):
    harness = make_harness("scalekd", through_teacher=False, teachers=((VIT, SIZES),))

    assert list(harness.terms(batch)) == ["label", "distillation", "direct", "without_mean"]
    assert not hasattr(harness.method, "stage_projectors")
    assert harness.method.student_taps.levels == ()


@pytest.mark.parametrize(
    ("params", "names"),
    [
        ({"weights": (0.1, 0)}, ["label", "distillation", *VIEWS[:2]]),
        ({"logits": "none"}, ["label", *VIEWS]),
        ({"alpha": 0}, ["label", *VIEWS]),
        ({"alpha": 1}, ["distillation", *VIEWS]),
    ],
)
def test_a_term_of_weight_zero_is_left_out(make_harness, batch, params, names):
    assert list(make_harness("scalekd", **params).terms(batch)) == names


def test_without_a_logit_term_labels_have_their_full_weight(make_harness, batch):
    harness = make_harness("scalekd", logits="none")
    logits = harness.student_outputs(batch.images).logits

    assert harness.terms(batch)["label"].item() == pytest.approx(F.cross_entropy(logits, batch.labels).item())
    assert not harness.method.reads_teacher_logits


@pytest.mark.parametrize(
    ("params", "balanceable"), [({}, True), ({"alpha": 1}, False), ({"alpha": 1, "logits": "none"}, True)]
)
def test_terms_can_be_balanced_if_one_is_of_the_labels(make_harness, params, balanceable):
    assert make_harness("scalekd", **params).method.balanceable is balanceable


def test_a_student_of_a_single_block_is_supported(make_harness, batch):
    student = (VIT, {**SIZES, "embed_dim": 16, "num_heads": 2})

    assert all(term.isfinite() for term in make_harness("scalekd", student=student).terms(batch).values())


def test_a_logit_method_that_compares_samples_needs_one_device(make_harness):
    assert make_harness("scalekd").method.per_sample
    assert not make_harness("scalekd", logits="dist").method.per_sample


@pytest.mark.parametrize(
    "teacher",
    [(VIT, SIZES), ("mobilenetv3_small_050", {})],
    ids=["one block", "mobilenet"],
)
def test_a_teacher_whose_last_stage_cannot_run_alone_is_rejected_with_a_fix(make_harness, teacher):
    with pytest.raises(InvalidSpec, match="through_teacher to false") as caught:
        make_harness("scalekd", teachers=(teacher,))

    assert [error.pointer for error in caught.value.errors] == ["/teachers/0/architecture"]


def test_the_stage_runs_in_the_precision_of_the_student(make_harness, batch):
    harness = make_harness("scalekd")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = harness.student_outputs(batch.images)
    dtypes = []
    harness.teachers[0].built.module.blocks[-1].mlp.fc1.register_forward_hook(
        lambda _module, _inputs, output: dtypes.append(output.dtype)
    )

    terms = harness.method.terms(batch, replace(harness.step_context(), student=lambda _images: outputs))

    assert dtypes[0] == torch.float32  # the teacher's own outputs, here in full precision
    assert set(dtypes[1:]) == {torch.bfloat16}
    assert all(term.dtype == torch.float32 for term in terms.values())

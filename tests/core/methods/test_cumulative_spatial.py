"""Patch tokens learn a CNN's predictions at their places."""

import pytest
import torch
import torch.nn.functional as F

from core.errors import InvalidSpec, SpecCannotRun
from core.methods import StepInfo
from core.methods.cumulative_spatial import local_share
from core.models.taps import Feature

WITH_A_MAP = ("resnet10t", {"output_stride": 8})  # 2 × 2 places of a picture of 16 × 16


def reference(made, batch, *, share, soft_at=None):
    """The spatial term place by place: patches of the square, teacher's map, both heads."""
    student = made.ask(batch.images)
    teacher = made.teachers[0]
    guide, head = teacher(batch.images), made.student.module.head_dist
    classify = teacher.built.module.fc
    terms = []
    for picture in range(len(batch.images)):
        for row in range(2):
            for column in range(2):
                patches = [4 * y + x for y in (2 * row, 2 * row + 1) for x in (2 * column, 2 * column + 1)]
                mine = torch.stack([head(student.last.tokens[picture, patch]) for patch in patches]).mean(dim=0)
                local = classify(guide.last.map[picture, :, row, column])
                target = share * local + (1 - share) * guide.logits[picture]
                if soft_at is None:
                    terms.append(-F.log_softmax(mine, dim=0)[target.argmax()])
                else:
                    p, log_q = F.softmax(target / soft_at, dim=0), F.log_softmax(mine / soft_at, dim=0)
                    terms.append(soft_at**2 * (p * (p.log() - log_q)).sum())
    return torch.stack(terms).mean()


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_each_place_learns_the_mixture_of_its_own_and_the_global_prediction(kind, lesson, batch):
    made = lesson("cumulative_spatial", teachers=(WITH_A_MAP,), spatial_type=kind, weight=2.0, temperature=3.0)

    terms = made.terms(batch, StepInfo(step=3, total_steps=10))

    wanted = reference(made, batch, share=0.7, soft_at=3.0 if kind == "soft" else None)
    assert list(terms) == ["label", "distillation", "spatial"]
    assert terms["spatial"].item() == pytest.approx(2 * wanted.item(), rel=1e-4)


def test_the_mean_of_the_local_predictions_is_the_global_one(lesson, batch):
    teacher = lesson("cumulative_spatial", teachers=(WITH_A_MAP,)).teachers[0]
    guide = teacher(batch.images)

    local = teacher.built.module.fc(guide.last.tokens)

    assert guide.last.grid == (2, 2)
    torch.testing.assert_close(local.mean(dim=1), guide.logits, rtol=1e-4, atol=1e-5)


def test_labels_and_token_learn_as_in_deit(lesson, batch):
    made = lesson("cumulative_spatial", alpha=0.3)

    terms = made.terms(batch)

    student, decision = made.ask(batch.images), made.teachers[0](batch.images).logits.argmax(dim=1)
    (token,) = student.token_logits
    assert terms["label"].item() == pytest.approx(0.7 * F.cross_entropy(student.logits, batch.labels).item(), rel=1e-5)
    assert terms["distillation"].item() == pytest.approx(0.3 * F.cross_entropy(token, decision).item(), rel=1e-5)


def test_the_local_share_falls_from_one_to_zero():
    assert [local_share(decay, 0.0) for decay in ("linear", "quadratic", "cosine")] == [1.0, 1.0, 1.0]
    assert [local_share(decay, 1.0) for decay in ("linear", "quadratic", "cosine")] == pytest.approx([0, 0, 0])
    assert [local_share(decay, 0.5) for decay in ("linear", "quadratic", "cosine")] == pytest.approx(
        [0.5, 0.25, 0.5**0.5]
    )


def test_the_distillation_head_of_the_student_itself_reads_the_patches(lesson, batch):
    made = lesson("cumulative_spatial")
    head = made.student.module.head_dist

    (gradient,) = torch.autograd.grad(made.terms(batch)["spatial"], head.weight)

    assert gradient.abs().sum() > 0
    assert not list(made.method.parameters())


def test_a_finer_map_of_the_teacher_is_averaged(lesson):
    method = lesson("cumulative_spatial").method
    student = lesson("cumulative_spatial").ask(torch.rand(6, 1, 16, 16))
    whole = Feature(torch.rand(6, 64, 4), (8, 8))
    pooled = Feature(F.avg_pool2d(whole.map, 2).flatten(2).transpose(1, 2), (4, 4))
    logits = torch.zeros(6, 4)

    assert method.spatial(student, whole, logits, share=0.9) == method.spatial(student, pooled, logits, share=0.9)


@pytest.mark.parametrize("teacher", [("convnext_atto", {}), ("resnet10t", {"global_pool": "max"})])
def test_a_teacher_whose_head_is_more_than_a_mean_and_a_linear_layer_is_refused(teacher, lesson):
    with pytest.raises(InvalidSpec, match="global average pooling") as refused:
        lesson("cumulative_spatial", teachers=(teacher,))

    assert refused.value.errors[0].pointer == "/teachers/0/architecture"


@pytest.mark.parametrize("teacher", ["resnet10t", "regnety_002", "efficientnet_b0", "mobilenetv1_100"])
def test_teachers_that_end_in_a_mean_and_a_linear_layer_are_taken(teacher, lesson):
    assert lesson("cumulative_spatial", teachers=((teacher, {}),)).method


def test_a_student_without_a_distillation_token_is_refused(lesson):
    with pytest.raises(SpecCannotRun, match="distillation token"):
        lesson("cumulative_spatial").method.prepare_student(torch.nn.Linear(1, 1))

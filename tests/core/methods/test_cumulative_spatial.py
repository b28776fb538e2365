"""Cumulative spatial distillation: patch tokens learn a CNN's predictions at their positions."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from core.errors import InvalidSpec, SpecCannotRun
from core.methods import Batch, Outputs, StepContext, StepInfo
from core.methods.cumulative_spatial import local_share
from core.models.taps import Feature


def reference(harness, batch, *, share, soft_at=None):
    """The spatial term position by position: patches of each square, teacher's map, both heads."""
    student = harness.student_outputs(batch.images)
    teacher = harness.teachers[0]
    teacher_values, head = teacher(batch.images), harness.student.module.heads_dist[0]
    classify = teacher.built.module.fc
    terms = []
    for image in range(len(batch.images)):
        for row in range(2):
            for column in range(2):
                patches = [4 * y + x for y in (2 * row, 2 * row + 1) for x in (2 * column, 2 * column + 1)]
                student_values = torch.stack([head(student.last.tokens[image, patch]) for patch in patches]).mean(dim=0)
                local = classify(teacher_values.last.map[image, :, row, column])
                target = share * local + (1 - share) * teacher_values.logits[image]
                if soft_at is None:
                    terms.append(-F.log_softmax(student_values, dim=0)[target.argmax()])
                else:
                    p, log_q = F.softmax(target / soft_at, dim=0), F.log_softmax(student_values / soft_at, dim=0)
                    terms.append(soft_at**2 * (p * (p.log() - log_q)).sum())
    return torch.stack(terms).mean()


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_each_position_learns_the_mixture_of_local_and_global_prediction(kind, make_harness, batch):
    harness = make_harness("cumulative_spatial", spatial_type=kind, weight=2.0, temperature=3.0)

    terms = harness.terms(batch, StepInfo(step=3, total_steps=10))

    expected = reference(harness, batch, share=0.7, soft_at=3.0 if kind == "soft" else None)
    assert list(terms) == ["label", "distillation", "spatial"]
    assert terms["spatial"].item() == pytest.approx(2 * expected.item(), rel=1e-4)


def identity(count):
    """A linear layer that returns its input, so that given logits are those of a head."""
    layer = nn.Linear(count, count, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(count))
    return layer


def golden_terms(method):
    """The terms on the inputs of the golden value: seed 0, all drawn in this order."""
    torch.manual_seed(0)
    class_logits, token_logits, patch_logits = torch.randn(2, 5), torch.randn(2, 5), torch.randn(2, 196, 5)
    teacher_map, labels = torch.randn(2, 5, 7, 7) * 2, torch.randn(2, 5).softmax(dim=1)
    assert patch_logits.sum().item() == pytest.approx(36.8719, abs=1e-3)
    assert teacher_map.sum().item() == pytest.approx(-30.1843, abs=1e-3)
    student = SimpleNamespace(heads_dist=[identity(5)], set_distilled_training=lambda _enable: None)
    method.prepare_student(student)
    outputs = Outputs(class_logits, (token_logits,), last=Feature(patch_logits, (14, 14)))
    local = Feature(teacher_map.flatten(2).transpose(1, 2), (7, 7))
    teacher = SimpleNamespace(built=SimpleNamespace(module=SimpleNamespace(get_classifier=lambda: identity(5))))
    step = StepContext(
        lambda _images: outputs,
        [teacher],
        StepInfo(step=90, total_steps=300),
        cached_outputs=lambda _batch: [Outputs(local.tokens.mean(dim=1), last=local)],
    )
    return method.terms(Batch(torch.zeros(2, 1, 16, 16), labels, torch.arange(2)), step)


def test_terms_with_default_parameters_match_the_official_code(make_harness):
    """CSKDLoss of Zzzzz1/CSKD: alpha 0.5, weight 1, both hard, linear decay, epoch 90 of 300."""
    terms = golden_terms(make_harness("cumulative_spatial").method)

    assert sum(terms.values()).item() == pytest.approx(3.794379981906978, rel=1e-6)


def test_official_soft_terms_divide_by_classes_and_sum_over_positions(make_harness):
    soft = {"token_type": "soft", "spatial_type": "soft", "temperature": 2.0}

    sample = golden_terms(make_harness("cumulative_spatial", **soft).method)
    official = golden_terms(make_harness("cumulative_spatial", **soft, reduction="official").method)

    assert official["distillation"].item() == pytest.approx(sample["distillation"].item() / 5, rel=1e-5)
    assert official["spatial"].item() == pytest.approx(sample["spatial"].item() * 49, rel=1e-5)
    assert official["label"] == sample["label"]


def test_the_exported_student_averages_class_head_token_head_and_the_patches_votes(make_harness, batch):
    harness = make_harness("cumulative_spatial")
    with torch.no_grad():
        for head in harness.student.module.get_classifier():
            nn.init.normal_(head.weight)
    exported = harness.method.finalize(harness.student, None).module.eval()
    images = harness.student.preprocessing(batch.images)
    tokens = exported.forward_features(images)
    votes = [
        exported.head(tokens[:, 0]),
        exported.heads_dist[0](tokens[:, 1]),
        exported.heads_dist[0](tokens[:, 2:]).mean(dim=1),  # the head at every patch, as in the official code
    ]

    assert tokens.shape[1] == 2 + 16
    torch.testing.assert_close(exported(images), sum(votes) / 3)


def test_the_mean_of_the_local_predictions_is_the_global_one(make_harness, batch):
    teacher = make_harness("cumulative_spatial").teachers[0]
    teacher_values = teacher(batch.images)

    local = teacher.built.module.fc(teacher_values.last.tokens)

    assert teacher_values.last.grid == (2, 2)
    torch.testing.assert_close(local.mean(dim=1), teacher_values.logits, rtol=1e-4, atol=1e-5)


def test_label_and_token_terms_equal_those_of_deit(make_harness, batch):
    harness = make_harness("cumulative_spatial", alpha=0.3)

    terms = harness.terms(batch)

    student, decision = harness.student_outputs(batch.images), harness.teachers[0](batch.images).logits.argmax(dim=1)
    (token,) = student.token_logits
    assert terms["label"].item() == pytest.approx(0.7 * F.cross_entropy(student.logits, batch.labels).item(), rel=1e-5)
    assert terms["distillation"].item() == pytest.approx(0.3 * F.cross_entropy(token, decision).item(), rel=1e-5)


def test_the_local_share_falls_from_one_to_zero():
    assert [local_share(decay, 0.0) for decay in ("linear", "quadratic", "cosine")] == [1.0, 1.0, 1.0]
    assert [local_share(decay, 1.0) for decay in ("linear", "quadratic", "cosine")] == pytest.approx([0, 0, 0])
    assert [local_share(decay, 0.5) for decay in ("linear", "quadratic", "cosine")] == pytest.approx(
        [0.5, 0.25, 0.5**0.5]
    )


def test_the_students_own_distillation_head_reads_the_patches(make_harness, batch):
    harness = make_harness("cumulative_spatial")
    head = harness.student.module.heads_dist[0]

    (gradient,) = torch.autograd.grad(harness.terms(batch)["spatial"], head.weight)

    assert gradient.abs().sum() > 0
    assert not list(harness.method.parameters())


def test_a_finer_map_of_the_teacher_is_averaged(make_harness):
    harness = make_harness("cumulative_spatial")
    method, student = harness.method, harness.student_outputs(torch.rand(6, 1, 16, 16))
    finer = Feature(torch.rand(6, 64, 4), (8, 8))
    pooled = Feature(F.avg_pool2d(finer.map, 2).flatten(2).transpose(1, 2), (4, 4))
    logits = torch.zeros(6, 4)

    assert method.spatial(student, finer, logits, share=0.9) == method.spatial(student, pooled, logits, share=0.9)


@pytest.mark.parametrize("teacher", [("convnext_atto", {}), ("resnet10t", {"global_pool": "max"})])
def test_a_teacher_with_another_head_than_mean_and_linear_layer_is_rejected(teacher, make_harness):
    with pytest.raises(InvalidSpec, match="global average pooling") as caught:
        make_harness("cumulative_spatial", teachers=(teacher,))

    assert caught.value.errors[0].pointer == "/teachers/0/architecture"


@pytest.mark.parametrize("teacher", ["resnet10t", "regnety_002", "efficientnet_b0", "mobilenetv1_100"])
def test_teachers_with_a_head_of_mean_and_linear_layer_are_accepted(teacher, make_harness):
    assert make_harness("cumulative_spatial", teachers=((teacher, {"output_stride": 8}),)).method


def test_a_teacher_whose_last_map_has_one_position_is_rejected_with_fixes(make_harness):
    with pytest.raises(InvalidSpec, match=r"single position for images of 16 pixels.*output_stride") as caught:
        make_harness("cumulative_spatial", teachers=("cnn",))

    assert caught.value.errors[0].pointer == "/teachers/0/architecture"


def test_a_student_without_a_distillation_token_is_rejected(make_harness):
    with pytest.raises(SpecCannotRun, match="distillation token"):
        make_harness("cumulative_spatial").method.prepare_student(torch.nn.Linear(1, 1))

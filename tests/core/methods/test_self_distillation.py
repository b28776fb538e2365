"""Self-distillation: exits that learn from the last layer, or a moving average of the student."""

import math

import pytest
import torch
import torch.nn.functional as F

from core.errors import InvalidSpec
from core.methods import Batch, StepInfo

ONE_BLOCK = ("vit_tiny_patch16_224", {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2})
TWELVE_BLOCKS = ("vit_tiny_patch16_224", {"patch_size": 4, "embed_dim": 16, "depth": 12, "num_heads": 2})


def soft(student, teacher, temperature):
    """T² · KL(teacher ‖ student), row by row as defined."""
    rows = []
    for student_values, teacher_values in zip(student / temperature, teacher / temperature, strict=True):
        p, q = teacher_values.softmax(dim=0), student_values.softmax(dim=0)
        rows.append((p * (p / q).log()).sum())
    return temperature**2 * sum(rows) / len(rows)


def test_the_exits_terms_match_the_paper(make_harness, batch):
    harness = make_harness("self_distillation", alpha=0.2, temperature=2.0, hint_weight=0.5)
    student, method = harness.student_outputs(batch.images), harness.method

    terms = harness.terms(batch)

    outputs = [exit_(student.levels[level]) for level, exit_ in zip(method.exit_levels, method.exits, strict=True)]
    labels = sum(F.cross_entropy(logits, batch.labels) for logits, _ in outputs)
    divergences = sum(soft(logits, student.logits, 2.0) for logits, _ in outputs)
    errors = sum((tokens - student.last.tokens).square().mean() for _, tokens in outputs)
    assert terms["label"].item() == pytest.approx(F.cross_entropy(student.logits, batch.labels).item(), rel=1e-5)
    assert terms["exits_label"].item() == pytest.approx(0.8 * labels.item(), rel=1e-5)
    assert terms["exits_distillation"].item() == pytest.approx(0.2 * divergences.item(), rel=1e-4)
    assert terms["exits_hint"].item() == pytest.approx(0.5 * errors.item(), rel=1e-5)


def test_targets_are_detached_from_the_last_layer(make_harness, batch):
    harness = make_harness("self_distillation")
    terms = harness.terms(batch)
    taught = terms["exits_label"] + terms["exits_distillation"] + terms["exits_hint"]
    module = harness.student.module

    late = torch.autograd.grad(taught, list(module.blocks[-1].parameters()), allow_unused=True, retain_graph=True)
    early = torch.autograd.grad(taught, list(module.blocks[0].parameters()), allow_unused=True)

    assert all(gradient is None for gradient in late)
    assert all(gradient is not None for gradient in early)


@pytest.mark.parametrize(
    ("student", "exit_levels"), [("transformer", (0, 2)), (TWELVE_BLOCKS, (3, 7)), ("cnn", (1, 2))]
)
def test_exits_are_placed_at_a_third_and_two_thirds_of_the_depth(make_harness, student, exit_levels):
    assert make_harness("self_distillation", student=student).method.exit_levels == exit_levels


def test_requested_exits_are_used(make_harness):
    assert make_harness("self_distillation", exits=[1]).method.exit_levels == (1,)


def test_an_exit_at_the_last_level_is_rejected(make_harness):
    with pytest.raises(InvalidSpec, match=r"/method/exits: .* levels 0 to 2 before its last one"):
        make_harness("self_distillation", exits=[0, 3])


def test_exits_reject_a_student_of_one_block_with_a_hint_at_the_other_variant(make_harness):
    with pytest.raises(InvalidSpec, match=r"/student/architecture: .*ema_teacher"):
        make_harness("self_distillation", student=ONE_BLOCK)


def test_the_average_gives_soft_labels_of_mirrored_images(make_harness, batch):
    harness = make_harness("self_distillation", variant="ema_teacher", view="flip", student=ONE_BLOCK)
    with torch.no_grad():
        for parameter in harness.method.average.network.parameters():
            parameter.mul_(1.5)
    student = harness.student_outputs(batch.images)
    average = harness.method.average.network
    teacher = average(harness.student.preprocessing(batch.images.flip(-1)))

    terms = harness.terms(batch)

    assert list(terms) == ["label", "distillation"]
    assert terms["label"].item() == pytest.approx(0.7 * F.cross_entropy(student.logits, batch.labels).item(), rel=1e-5)
    assert terms["distillation"].item() == pytest.approx(0.3 * soft(student.logits, teacher, 3.0).item(), rel=1e-4)


@pytest.mark.parametrize("view", ["crop", "flip", "same"])
def test_only_the_student_has_gradients_from_its_average(make_harness, batch, view):
    harness = make_harness("self_distillation", variant="ema_teacher", view=view)

    sum(harness.terms(batch).values()).backward()

    assert all(parameter.grad is not None for parameter in harness.student.module.parameters())
    assert not any(parameter.requires_grad for parameter in harness.method.parameters())


def test_the_average_sees_a_different_crop_at_each_step(make_harness, batch):
    method = make_harness("self_distillation", variant="ema_teacher").method

    one, other = method._view(batch.images), method._view(batch.images)

    assert one.shape == batch.images.shape
    assert not one.equal(batch.images)
    assert not one.equal(other)


def test_the_average_follows_the_student_and_slows_down(make_harness):
    harness = make_harness("self_distillation", variant="ema_teacher", momentum=0.9)
    average, before = harness.method.average, harness.student.module.head.weight.detach().clone()
    with torch.no_grad():
        harness.student.module.head.weight.add_(1.0)

    harness.method.after_step(harness.student.module, StepInfo(step=500, total_steps=1000))

    moved = average.network.head.weight - before
    assert average.momentum_at(500, 1000) == pytest.approx(1 - 0.1 * (math.cos(math.pi / 2) + 1) / 2)
    assert moved.mean().item() == pytest.approx(1 - average.momentum_at(500, 1000), rel=1e-4)


def test_mixed_labels_are_learned_by_every_exit(make_harness, batch):
    harness = make_harness("self_distillation")
    probabilities = F.one_hot(batch.labels, 4).float()

    hard, mixed = harness.terms(batch), harness.terms(Batch(batch.images, probabilities, batch.indices))

    assert mixed["exits_label"].item() == pytest.approx(hard["exits_label"].item(), rel=1e-5)

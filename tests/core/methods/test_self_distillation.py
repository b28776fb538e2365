"""The student as its own teacher: exits taught by the last layer, or the average of its past."""

import math

import pytest
import torch
import torch.nn.functional as F

from core.errors import InvalidSpec
from core.methods import Batch, StepInfo

ONE_BLOCK = ("vit_tiny_patch16_224", {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2})
TWELVE_BLOCKS = ("vit_tiny_patch16_224", {"patch_size": 4, "embed_dim": 16, "depth": 12, "num_heads": 2})


def soft(student, teacher, temperature):
    """T² · KL(teacher ‖ student), row by row as the definition has it."""
    rows = []
    for mine, theirs in zip(student / temperature, teacher / temperature, strict=True):
        p, q = theirs.softmax(dim=0), mine.softmax(dim=0)
        rows.append((p * (p / q).log()).sum())
    return temperature**2 * sum(rows) / len(rows)


def test_the_exits_terms_are_those_of_the_paper(lesson, batch):
    made = lesson("self_distillation", alpha=0.2, temperature=2.0, hint_weight=0.5)
    student, method = made.ask(batch.images), made.method

    terms = made.terms(batch)

    answers = [leave(student.levels[place]) for place, leave in zip(method.places, method.exits, strict=True)]
    labels = sum(F.cross_entropy(logits, batch.labels) for logits, _ in answers)
    divergences = sum(soft(logits, student.logits, 2.0) for logits, _ in answers)
    errors = sum((tokens - student.last.tokens).square().mean() for _, tokens in answers)
    assert terms["label"].item() == pytest.approx(F.cross_entropy(student.logits, batch.labels).item(), rel=1e-5)
    assert terms["exits_label"].item() == pytest.approx(0.8 * labels.item(), rel=1e-5)
    assert terms["exits_distillation"].item() == pytest.approx(0.2 * divergences.item(), rel=1e-4)
    assert terms["exits_hint"].item() == pytest.approx(0.5 * errors.item(), rel=1e-5)


def test_what_the_last_layer_teaches_does_not_flow_back_into_it(lesson, batch):
    made = lesson("self_distillation")
    terms = made.terms(batch)
    taught = terms["exits_label"] + terms["exits_distillation"] + terms["exits_hint"]
    module = made.student.module

    late = torch.autograd.grad(taught, list(module.blocks[-1].parameters()), allow_unused=True, retain_graph=True)
    early = torch.autograd.grad(taught, list(module.blocks[0].parameters()), allow_unused=True)

    assert all(gradient is None for gradient in late)
    assert all(gradient is not None for gradient in early)


@pytest.mark.parametrize(("student", "places"), [("transformer", (0, 2)), (TWELVE_BLOCKS, (3, 7)), ("cnn", (1, 2))])
def test_exits_leave_at_a_third_and_two_thirds_of_the_depth(lesson, student, places):
    assert lesson("self_distillation", student=student).method.places == places


def test_exits_that_are_asked_for_are_taken(lesson):
    assert lesson("self_distillation", exits=[1]).method.places == (1,)


def test_an_exit_at_the_last_level_is_refused(lesson):
    with pytest.raises(InvalidSpec, match=r"/method/exits: .* levels 0 to 2 before its last one"):
        lesson("self_distillation", exits=[0, 3])


def test_a_student_of_one_block_is_refused_for_exits_and_told_the_other_variant(lesson):
    with pytest.raises(InvalidSpec, match=r"/student/architecture: .*ema_teacher"):
        lesson("self_distillation", student=ONE_BLOCK)


def test_the_average_teaches_by_soft_labels_what_it_says_of_mirrored_pictures(lesson, batch):
    made = lesson("self_distillation", variant="ema_teacher", view="flip", student=ONE_BLOCK)
    with torch.no_grad():
        for parameter in made.method.average.network.parameters():
            parameter.mul_(1.5)
    student = made.ask(batch.images)
    average = made.method.average.network
    guide = average(made.student.preprocessing(batch.images.flip(-1)))

    terms = made.terms(batch)

    assert list(terms) == ["label", "distillation"]
    assert terms["label"].item() == pytest.approx(0.7 * F.cross_entropy(student.logits, batch.labels).item(), rel=1e-5)
    assert terms["distillation"].item() == pytest.approx(0.3 * soft(student.logits, guide, 3.0).item(), rel=1e-4)


@pytest.mark.parametrize("view", ["crop", "flip", "same"])
def test_only_the_student_learns_from_its_average(lesson, batch, view):
    made = lesson("self_distillation", variant="ema_teacher", view=view)

    sum(made.terms(batch).values()).backward()

    assert all(parameter.grad is not None for parameter in made.student.module.parameters())
    assert not any(parameter.requires_grad for parameter in made.method.parameters())


def test_the_average_sees_another_crop_at_each_step_of_the_same_size(lesson, batch):
    method = lesson("self_distillation", variant="ema_teacher").method

    one, other = method._view(batch.images), method._view(batch.images)

    assert one.shape == batch.images.shape
    assert not one.equal(batch.images)
    assert not one.equal(other)


def test_the_average_follows_the_student_and_slows_down(lesson):
    made = lesson("self_distillation", variant="ema_teacher", momentum=0.9)
    average, before = made.method.average, made.student.module.head.weight.detach().clone()
    with torch.no_grad():
        made.student.module.head.weight.add_(1.0)

    made.method.after_step(made.student.module, StepInfo(step=500, total_steps=1000))

    moved = average.network.head.weight - before
    assert average.kept(500, 1000) == pytest.approx(1 - 0.1 * (math.cos(math.pi / 2) + 1) / 2)
    assert moved.mean().item() == pytest.approx(1 - average.kept(500, 1000), rel=1e-4)


def test_mixed_labels_are_learned_by_every_exit(lesson, batch):
    made = lesson("self_distillation")
    probabilities = F.one_hot(batch.labels, 4).float()

    hard, mixed = made.terms(batch), made.terms(Batch(batch.images, probabilities, batch.indices))

    assert mixed["exits_label"].item() == pytest.approx(hard["exits_label"].item(), rel=1e-5)

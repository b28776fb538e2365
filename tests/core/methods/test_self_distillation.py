"""Self-distillation: exits that learn from the last layer, or a moving average of the student."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from core.errors import InvalidSpec
from core.methods import Batch, Outputs, StepInfo

ONE_BLOCK = ("vit_tiny_patch16_224", {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2})
TWELVE_BLOCKS = ("vit_tiny_patch16_224", {"patch_size": 4, "embed_dim": 16, "depth": 12, "num_heads": 2})


def soft(student, teacher, temperature):
    """T² · KL(teacher ‖ student), row by row as defined."""
    rows = []
    for student_values, teacher_values in zip(student / temperature, teacher / temperature, strict=True):
        p, q = teacher_values.softmax(dim=0), student_values.softmax(dim=0)
        rows.append((p * (p / q).log()).sum())
    return temperature**2 * sum(rows) / len(rows)


class GivenExit(nn.Module):
    """An exit with given pooled features and logits."""

    def __init__(self, features, logits):
        super().__init__()
        self.features, self.logits = features, logits

    def forward(self, _feature):
        return self.logits, self.features.unsqueeze(1)


@pytest.fixture
def official():
    """Labels, logits and features from the deepest classifier to the first, and the adaptations of all but the deepest.

    Weights of the golden values: 0.3 sin(0.7 j + i) for entry j of parameter i.
    """
    torch.manual_seed(0)
    labels = torch.randint(0, 7, (4,))
    logits = [2 * torch.randn(4, 7) for _ in range(4)]
    features = [torch.randn(4, width) for width in (8, 6, 8, 5)]
    adapt = nn.ModuleList(nn.Linear(width, 8) for width in (6, 8, 5))
    with torch.no_grad():
        for index, parameter in enumerate(adapt.parameters()):
            values = 0.3 * (0.7 * torch.arange(parameter.numel(), dtype=torch.float64) + index).sin()
            parameter.copy_(values.view_as(parameter))
    return labels, [z.requires_grad_() for z in logits], [f.requires_grad_() for f in features], adapt


def test_three_exits_match_the_official_code(make_harness, official):
    labels, logits, features, adapt = official
    method = make_harness("self_distillation").method
    method.exit_levels = (0, 1, 2)
    method.exits = nn.ModuleList(GivenExit(features[i], logits[i]) for i in (3, 2, 1))
    method.adaptations = nn.ModuleList([adapt[2], adapt[1]])  # none for the exit next to the deepest
    student = Outputs(logits[0], levels=dict.fromkeys(range(3)), embedding=features[0])

    loss = sum(method._exit_terms(Batch(torch.zeros(4, 1, 1, 1), labels, torch.arange(4)), student).values())
    gradients = torch.autograd.grad(loss, (logits[0], logits[1], features[2]))

    assert loss.item() == pytest.approx(13.395198822, rel=1e-5)
    norms = [gradient.norm().item() for gradient in gradients]
    assert norms == pytest.approx([0.545005932, 0.442507410, 0.020759740], rel=1e-4)


def test_each_term_has_its_weight(make_harness, batch):
    harness = make_harness("self_distillation", alpha=0.2, temperature=2.0, hint_weight=0.5)
    student, method = harness.student_outputs(batch.images), harness.method

    terms = harness.terms(batch)

    outputs = [exit_(student.levels[i]) for i, exit_ in zip(method.exit_levels, method.exits, strict=True)]
    labels = sum(F.cross_entropy(answer, batch.labels) for answer, _ in outputs)
    target = (student.logits / 2).softmax(dim=1)
    soft_labels = sum(-(target * (answer / 2).log_softmax(dim=1)).sum() / 6 for answer, _ in outputs)
    (adapt,), first = method.adaptations, outputs[0][1].mean(dim=1)
    distance = (adapt(first) - student.embedding).square().sum().sqrt()
    assert terms["label"].item() == pytest.approx(F.cross_entropy(student.logits, batch.labels).item(), rel=1e-5)
    assert terms["exits_label"].item() == pytest.approx(0.8 * labels.item(), rel=1e-5)
    assert terms["exits_distillation"].item() == pytest.approx(0.2 * soft_labels.item(), rel=1e-4)
    assert terms["exits_hint"].item() == pytest.approx(0.5 * distance.item(), rel=1e-5)


def test_a_mean_square_hint_compares_the_tokens_of_every_exit(make_harness, batch):
    harness = make_harness("self_distillation", hint="mean_square", hint_weight=0.5)
    student, method = harness.student_outputs(batch.images), harness.method

    found = harness.terms(batch)["exits_hint"].item()

    outputs = [exit_(student.levels[i])[1] for i, exit_ in zip(method.exit_levels, method.exits, strict=True)]
    pairs = zip(outputs, method.adaptations, strict=True)
    errors = sum((adapt(tokens) - student.last.tokens).square().mean() for tokens, adapt in pairs)
    assert found == pytest.approx(0.5 * errors.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("params", "exits", "hints"), [({}, 2, 1), ({"exits": [1]}, 1, 1), ({"hint": "mean_square"}, 2, 2)]
)
def test_with_norms_the_exit_next_to_the_last_layer_has_no_hint(params, exits, hints, make_harness):
    method = make_harness("self_distillation", **params).method

    assert (len(method.exits), len(method.adaptations)) == (exits, hints)


@pytest.mark.parametrize("hint", ["norm", "mean_square"])
def test_targets_are_detached_from_the_last_layer(hint, make_harness, batch):
    harness = make_harness("self_distillation", hint=hint)
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

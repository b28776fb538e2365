"""Normalized distillation: official value and weights of its terms."""

import pytest
import torch
import torch.nn.functional as F

from core.losses import normalized
from core.methods import Batch, Outputs, StepInfo, build_method
from core.spec.methods.nkd import NkdParams


def build(context, **params):
    return build_method(NkdParams(name="nkd", **params), context)


def test_nkd_matches_the_official_value(context):
    torch.manual_seed(0)
    student, teacher = 3 * torch.randn(4, 7), 3 * torch.randn(4, 7)
    batch = Batch(torch.zeros(4, 1, 1, 1), torch.randint(0, 7, (4,)), torch.arange(4))

    assert build(context, gamma=1.0).distance(student, teacher, batch).item() == pytest.approx(2.673235983, rel=1e-5)


def test_nkd_adds_its_terms_to_the_labels(context, batch, logits):
    terms = build(context, weight=0.5, label_weight=2.0).loss(
        batch, Outputs(logits(1)), [Outputs(logits(2))], StepInfo()
    )

    expected = normalized(logits(1), logits(2), batch.labels, gamma=1.5, temperature=1.0)
    assert terms["distillation"].item() == pytest.approx(0.5 * expected.item(), rel=1e-6)
    assert terms["label"].item() == pytest.approx(2 * F.cross_entropy(logits(1), batch.labels).item(), rel=1e-6)


def test_the_target_class_is_weighted_by_the_teachers_confidence(context, logits):
    """The weight of the label's class is the teacher's probability of it."""
    student = logits(1)[:1].requires_grad_()
    batch = Batch(torch.zeros(1, 1, 1, 1), torch.tensor([0]), torch.tensor([0]))
    sure, doubtful = torch.tensor([[5.0, 0, 0, 0]]), torch.tensor([[1.0, 0, 0, 0]])
    method = build(context, gamma=0.0)

    pulls = [torch.autograd.grad(method.distance(student, t, batch), student)[0][0, 0].item() for t in (sure, doubtful)]

    believed = [t.softmax(dim=1)[0, 0].item() for t in (sure, doubtful)]
    assert pulls[0] / pulls[1] == pytest.approx(believed[0] / believed[1], rel=1e-5)

"""DeiT: the class head learns from labels, the distillation head from the teacher."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from core.errors import SpecCannotRun
from core.losses import deit
from core.methods import Outputs, StepInfo, build_method
from core.spec.methods.deit import DeitParams


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_the_terms_sum_up_to_the_loss_function(kind, context, batch, logits):
    params = DeitParams(name="deit", distillation_type=kind, alpha=0.3, temperature=2.0, reduction="element")

    terms = build_method(params, context).loss(
        batch, Outputs(logits(1), (logits(2),)), [Outputs(logits(3))], StepInfo()
    )

    base = F.cross_entropy(logits(1), batch.labels)
    expected = deit(
        logits(1), logits(2), logits(3), base, distillation_type=kind, alpha=0.3, temperature=2.0, reduction="element"
    )
    assert list(terms) == ["label", "distillation"]
    assert sum(terms.values()).item() == pytest.approx(expected.item(), rel=1e-6)


def test_soft_labels_are_the_default_and_their_divergence_is_divided_by_the_batch_size(context, batch, logits):
    terms = build_method(DeitParams(name="deit"), context).loss(
        batch, Outputs(logits(1), (logits(2),)), [Outputs(logits(3))], StepInfo()
    )

    p, q = (logits(3) / 3).softmax(dim=1), (logits(2) / 3).softmax(dim=1)
    expected = 0.5 * 3**2 * (p * (p / q).log()).sum().item() / len(p)
    assert terms["distillation"].item() == pytest.approx(expected, rel=1e-4)


def test_labels_train_the_class_head_and_the_teacher_trains_the_token_head(context, batch, logits):
    method = build_method(DeitParams(name="deit"), context)
    class_logits, token_logits = logits(1).requires_grad_(), logits(2).requires_grad_()

    terms = method.loss(batch, Outputs(class_logits, (token_logits,)), [Outputs(logits(3))], StepInfo())

    assert torch.autograd.grad(terms["label"], token_logits, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(terms["distillation"], class_logits, allow_unused=True) == (None,)


def test_a_prepared_student_returns_both_heads_in_training_and_their_mean_in_evaluation(context, distilled_vit, batch):
    build_method(DeitParams(name="deit"), context).prepare_student(distilled_vit)

    heads = distilled_vit.train()(batch.images)
    mean = distilled_vit.eval()(batch.images)

    assert [tuple(h.shape) for h in heads] == [(6, 4), (6, 4)]
    torch.testing.assert_close(mean, (heads[0] + heads[1]) / 2)


def test_a_student_without_a_token_is_rejected(context):
    with pytest.raises(SpecCannotRun, match="distillation token"):
        build_method(DeitParams(name="deit"), context).prepare_student(nn.Linear(1, 4))

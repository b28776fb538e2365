"""Knowledge distillation: soft labels and labels, weighted."""

import pytest
import torch.nn.functional as F

from core.losses import kd
from core.methods import Outputs, StepInfo, build_method
from core.spec.methods.kd import KdParams


def test_kd_weighs_labels_and_teacher_by_alpha(context, batch, logits):
    method = build_method(KdParams(name="kd", temperature=2.0, alpha=0.7), context)

    terms = method.loss(batch, Outputs(logits(1)), [Outputs(logits(2))], StepInfo())

    assert list(terms) == ["label", "distillation"]
    assert terms["label"].item() == pytest.approx(0.3 * F.cross_entropy(logits(1), batch.labels).item(), rel=1e-6)
    assert terms["distillation"].item() == pytest.approx(
        0.7 * kd(logits(1), logits(2), temperature=2.0).item(), rel=1e-6
    )


def test_the_divergence_is_zero_if_student_and_teacher_agree(context, batch, logits):
    method = build_method(KdParams(name="kd"), context)

    terms = method.loss(batch, Outputs(logits(1)), [Outputs(logits(1))], StepInfo())

    assert terms["distillation"].item() == pytest.approx(0.0, abs=1e-6)

"""Labels alone."""

from dataclasses import replace

import torch.nn.functional as F

from core.methods import Outputs, StepInfo, build_method
from core.spec.methods import METHODS


def test_scratch_is_cross_entropy_whatever_a_teacher_says(setting, batch, logits):
    method = build_method(METHODS["scratch"].params(name="scratch"), setting)

    terms = method.loss(batch, Outputs(logits(1)), [], StepInfo())

    assert list(terms) == ["label"]
    assert terms["label"].equal(F.cross_entropy(logits(1), batch.labels))


def test_labels_are_smoothed_as_the_spec_says(setting, batch, logits):
    method = build_method(METHODS["scratch"].params(name="scratch"), replace(setting, label_smoothing=0.1))

    terms = method.loss(batch, Outputs(logits(1)), [], StepInfo())

    assert terms["label"].equal(F.cross_entropy(logits(1), batch.labels, label_smoothing=0.1))

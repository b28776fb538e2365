"""Training with labels only."""

from dataclasses import replace

import torch.nn.functional as F

from core.methods import Outputs, StepInfo, build_method
from core.spec.methods import METHODS


def test_scratch_is_cross_entropy(context, batch, logits):
    method = build_method(METHODS["scratch"].params(name="scratch"), context)

    terms = method.loss(batch, Outputs(logits(1)), [], StepInfo())

    assert list(terms) == ["label"]
    assert terms["label"].equal(F.cross_entropy(logits(1), batch.labels))


def test_label_smoothing_follows_the_spec(context, batch, logits):
    method = build_method(METHODS["scratch"].params(name="scratch"), replace(context, label_smoothing=0.1))

    terms = method.loss(batch, Outputs(logits(1)), [], StepInfo())

    assert terms["label"].equal(F.cross_entropy(logits(1), batch.labels, label_smoothing=0.1))

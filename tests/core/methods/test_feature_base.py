"""Common parts of feature methods: labels, any logit term, and the warm-up of the feature terms."""

from dataclasses import replace
from typing import get_args

import pytest
import torch

from core.methods import Outputs, StepInfo, build_method
from core.methods.base import warmup_factor
from core.methods.feature_base import FeatureMethod
from core.spec.methods import METHODS
from core.spec.methods.composition import FeatureParams, LogitTerm

EARLY = StepInfo(step=0, total_steps=20, epoch=0.0, epochs=10)
LATE = StepInfo(step=19, total_steps=20, epoch=9.5, epochs=10)
LOGIT_TERMS = [name for name in get_args(LogitTerm) if name != "none"]


class Distances(FeatureMethod):
    """Two constant terms."""

    def feature_terms(self, batch, student, teachers):
        return {"near": torch.tensor(2.0), "far": torch.tensor(5.0)}


def terms(context, batch, draw, info=LATE, /, **params):
    method = Distances(FeatureParams(name="distances", **params), context)
    teachers = [Outputs(draw(2 + index)) for index in range(len(context.teachers))]
    return method.loss(batch, Outputs(draw(1)), teachers, info)


def alone(name, context, batch, draw, /, **params):
    """The unweighted logit term of a logit method."""
    method = build_method(METHODS[name].params.model_validate({"name": name, **params}), context)
    teachers = [Outputs(draw(2 + index)) for index in range(len(context.teachers))]
    return method.distillation(draw(1), teachers, batch).item()


def test_feature_terms_share_one_weight_next_to_labels_and_soft_labels(context, batch, logits):
    found = terms(context, batch, logits, weight=3.0, label_weight=0.5, logits_weight=2.0)

    plain = terms(context, batch, logits)
    assert list(found) == ["label", "distillation", "near", "far"]
    assert (found["near"].item(), found["far"].item()) == (6.0, 15.0)
    assert found["label"].item() == pytest.approx(0.5 * plain["label"].item())
    assert found["distillation"].item() == pytest.approx(2 * alone("kd", context, batch, logits), rel=1e-6)


@pytest.mark.parametrize("name", LOGIT_TERMS)
def test_any_logit_method_can_be_the_logit_term(name, context, batch, logits):
    found = terms(context, batch, logits, logits=name)

    assert found["distillation"].item() == pytest.approx(alone(name, context, batch, logits), rel=1e-6)


@pytest.mark.parametrize("name", LOGIT_TERMS)
def test_the_temperature_applies_to_the_logit_term(name, context, batch, logits):
    found = terms(context, batch, logits, logits=name, temperature=7.0)["distillation"].item()

    softened = METHODS[name].params.temperature_fields(7.0)
    assert found == pytest.approx(alone(name, context, batch, logits, **softened), rel=1e-6)
    assert found != pytest.approx(alone(name, context, batch, logits), rel=1e-3)


@pytest.mark.parametrize(
    ("params", "names"),
    [
        ({"logits": "none"}, ["label", "near", "far"]),
        ({"logits_weight": 0}, ["label", "near", "far"]),
        ({"label_weight": 0}, ["distillation", "near", "far"]),
    ],
)
def test_terms_of_weight_zero_are_not_computed(params, names, context, batch, logits):
    assert list(terms(context, batch, logits, **params)) == names


def test_the_logit_term_uses_all_teachers(context, batch, logits):
    two = replace(context, teachers=context.teachers * 2)

    found = terms(two, batch, logits)["distillation"].item()

    assert found == pytest.approx(alone("kd", two, batch, logits), rel=1e-6)
    assert found != pytest.approx(alone("kd", context, batch, logits), rel=1e-3)


def test_the_warm_up_applies_only_to_feature_terms(context, batch, logits):
    early, late = (terms(context, batch, logits, info, warmup_epochs=5) for info in (EARLY, LATE))

    assert (early["near"].item(), late["near"].item()) == (pytest.approx(0.2), 2.0)
    assert early["label"].equal(late["label"])
    assert early["distillation"].equal(late["distillation"])


def test_a_logit_term_keeps_its_own_warm_up(context, batch, logits):
    early, late = (terms(context, batch, logits, info, logits="dkd")["distillation"].item() for info in (EARLY, LATE))

    share = 0.5 / (10 * 20 / 240)  # a step of half an epoch, of the warm-up's epochs
    assert early == pytest.approx(share * late, rel=1e-5)


@pytest.mark.parametrize(
    ("step", "epochs", "expected"), [(0, 0, 1.0), (0, 5, 0.1), (4, 5, 0.5), (9, 5, 1.0), (19, 5, 1.0), (19, 40, 0.25)]
)
def test_the_warm_up_counts_the_first_step_as_completed(step, epochs, expected):
    info = StepInfo(step=step, total_steps=20, epoch=step / 2, epochs=10)

    assert warmup_factor(info, epochs) == pytest.approx(expected)

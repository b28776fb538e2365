"""What feature methods have in common: labels, a logit term of any kind, and a warm-up of their own terms."""

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
    """Two terms that are known beforehand."""

    def feature_terms(self, batch, student, teachers):
        return {"near": torch.tensor(2.0), "far": torch.tensor(5.0)}


def terms(setting, batch, draw, moment=LATE, /, **params):
    method = Distances(FeatureParams(name="distances", **params), setting)
    teachers = [Outputs(draw(2 + index)) for index in range(len(setting.teachers))]
    return method.loss(batch, Outputs(draw(1)), teachers, moment)


def alone(name, setting, batch, draw, /, **params):
    """The unweighted logit term of a logit method."""
    method = build_method(METHODS[name].params.model_validate({"name": name, **params}), setting)
    teachers = [Outputs(draw(2 + index)) for index in range(len(setting.teachers))]
    return method.distillation(draw(1), teachers, batch).item()


def test_own_terms_are_weighted_alike_beside_labels_and_soft_labels(setting, batch, logits):
    found = terms(setting, batch, logits, weight=3.0, label_weight=0.5, logits_weight=2.0)

    plain = terms(setting, batch, logits)
    assert list(found) == ["label", "distillation", "near", "far"]
    assert (found["near"].item(), found["far"].item()) == (6.0, 15.0)
    assert found["label"].item() == pytest.approx(0.5 * plain["label"].item())
    assert found["distillation"].item() == pytest.approx(2 * alone("kd", setting, batch, logits), rel=1e-6)


@pytest.mark.parametrize("name", LOGIT_TERMS)
def test_any_logit_method_can_be_the_logit_term(name, setting, batch, logits):
    found = terms(setting, batch, logits, logits=name)

    assert found["distillation"].item() == pytest.approx(alone(name, setting, batch, logits), rel=1e-6)


@pytest.mark.parametrize("name", LOGIT_TERMS)
def test_the_temperature_is_that_of_the_logit_term(name, setting, batch, logits):
    found = terms(setting, batch, logits, logits=name, temperature=7.0)["distillation"].item()

    assert found == pytest.approx(alone(name, setting, batch, logits, temperature=7.0), rel=1e-6)
    assert found != pytest.approx(alone(name, setting, batch, logits), rel=1e-3)


@pytest.mark.parametrize(
    ("params", "names"),
    [
        ({"logits": "none"}, ["label", "near", "far"]),
        ({"logits_weight": 0}, ["label", "near", "far"]),
        ({"label_weight": 0}, ["distillation", "near", "far"]),
    ],
)
def test_what_is_left_out_is_not_computed(params, names, setting, batch, logits):
    assert list(terms(setting, batch, logits, **params)) == names


def test_the_logit_term_hears_all_teachers(setting, batch, logits):
    two = replace(setting, teachers=setting.teachers * 2)

    found = terms(two, batch, logits)["distillation"].item()

    assert found == pytest.approx(alone("kd", two, batch, logits), rel=1e-6)
    assert found != pytest.approx(alone("kd", setting, batch, logits), rel=1e-3)


def test_the_warm_up_is_of_the_own_terms_alone(setting, batch, logits):
    early, late = (terms(setting, batch, logits, moment, warmup_epochs=5) for moment in (EARLY, LATE))

    assert (early["near"].item(), late["near"].item()) == (pytest.approx(0.2), 2.0)
    assert early["label"].equal(late["label"])
    assert early["distillation"].equal(late["distillation"])


def test_a_logit_term_that_is_warmed_up_by_itself_stays_so(setting, batch, logits):
    early, late = (
        terms(setting, batch, logits, moment, logits="dkd")["distillation"].item() for moment in (EARLY, LATE)
    )

    share = 0.5 / (10 * 20 / 240)  # a step of half an epoch, of the warm-up's epochs
    assert early == pytest.approx(share * late, rel=1e-5)


@pytest.mark.parametrize(
    ("step", "epochs", "expected"), [(0, 0, 1.0), (0, 5, 0.1), (4, 5, 0.5), (9, 5, 1.0), (19, 5, 1.0), (19, 40, 0.25)]
)
def test_a_warm_up_counts_steps_and_takes_the_first_one_for_done(step, epochs, expected):
    moment = StepInfo(step=step, total_steps=20, epoch=step / 2, epochs=10)

    assert warmup_factor(moment, epochs) == pytest.approx(expected)

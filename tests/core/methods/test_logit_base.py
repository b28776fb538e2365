"""Several teachers of a logit method: the weighted mean of the distances."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from core.errors import InvalidSpec
from core.losses import kd
from core.methods import Outputs, StepInfo, build_method
from core.spec.methods import METHODS

LOGIT_METHODS = ["kd", "dkd", "nkd", "dist", "logit_standardization", "wsld", "tinyvit", "ofa"]


def with_teachers(context, count):
    return replace(context, teachers=context.teachers * count)


def build(name, context, **params):
    return build_method(METHODS[name].params.model_validate({"name": name, **params}), context)


def test_teachers_have_equal_weights_by_default(context, batch, logits):
    method = build("kd", with_teachers(context, 2), alpha=1.0, temperature=2.0)

    terms = method.loss(batch, Outputs(logits(1)), [Outputs(logits(2)), Outputs(logits(3))], StepInfo())

    each = [kd(logits(1), logits(seed), temperature=2.0).item() for seed in (2, 3)]
    assert terms["distillation"].item() == pytest.approx(sum(each) / 2, rel=1e-6)


def test_teacher_weights_are_normalized(context, batch, logits):
    method = build("kd", with_teachers(context, 3), alpha=1.0, temperature=2.0, teacher_weights=[3, 0, 1])

    teachers = [Outputs(logits(seed)) for seed in (2, 3, 4)]
    value = method.loss(batch, Outputs(logits(1)), teachers, StepInfo())["distillation"].item()

    first, _, third = (kd(logits(1), logits(seed), temperature=2.0).item() for seed in (2, 3, 4))
    assert value == pytest.approx(0.75 * first + 0.25 * third, rel=1e-6)


@pytest.mark.parametrize("name", LOGIT_METHODS)
def test_every_logit_method_averages_over_teachers(name, context, batch, logits):
    alone = build(name, context)
    shared = build(name, with_teachers(context, 2), teacher_weights=[1, 3])

    value = shared.distillation(logits(1), [Outputs(logits(2)), Outputs(logits(3))], batch).item()

    each = [alone.distillation(logits(1), [Outputs(logits(seed))], batch).item() for seed in (2, 3)]
    assert value == pytest.approx(0.25 * each[0] + 0.75 * each[1], rel=1e-5)
    assert each[0] != pytest.approx(each[1], rel=1e-3)


@pytest.mark.parametrize("weights", [[1.0], [1.0, 1.0, 1.0]])
def test_a_wrong_number_of_weights_is_rejected(weights, context):
    with pytest.raises(InvalidSpec, match=f"{len(weights)} weights are given for 2 teachers") as caught:
        build("kd", with_teachers(context, 2), teacher_weights=weights)

    assert [error.pointer for error in caught.value.errors] == ["/method/teacher_weights"]


@pytest.mark.parametrize("weights", [[0.0, 0.0], []])
def test_weights_that_sum_to_zero_are_rejected(weights):
    with pytest.raises(ValueError, match="at least one teacher must have a weight above 0"):
        METHODS["kd"].params.model_validate({"name": "kd", "teacher_weights": weights})


def test_a_teacher_of_weight_zero_has_no_influence(context, batch, logits):
    method = build("kd", with_teachers(context, 2), teacher_weights=[1, 0])
    student = logits(1).requires_grad_()

    def gradient(second):
        terms = method.loss(batch, Outputs(student), [Outputs(logits(2)), Outputs(second)], StepInfo())
        return torch.autograd.grad(sum(terms.values()), student)[0]

    torch.testing.assert_close(gradient(logits(3)), gradient(logits(4)))


def test_label_smoothing_follows_the_spec(context, batch, logits):
    smooth = replace(context, label_smoothing=0.3)

    terms = build("kd", smooth, alpha=0.0).loss(batch, Outputs(logits(1)), [Outputs(logits(2))], StepInfo())

    expected = F.cross_entropy(logits(1), batch.labels, label_smoothing=0.3)
    assert terms["label"].item() == pytest.approx(expected.item(), rel=1e-6)

"""Weighted transformed teacher matching: official values, weights of its terms, and its use as a logit term."""

import pytest
import torch
import torch.nn.functional as F

from core.errors import InvalidSpec
from core.losses import transformed_teacher
from core.methods import Batch, Outputs, StepInfo, build_method
from core.spec.methods.wttm import WttmParams


def build(context, **params):
    return build_method(WttmParams(name="wttm", **params), context)


def drawn(num_samples, num_classes):
    """Draws of the official values: 3 · randn for the student, then for the teacher."""
    torch.manual_seed(0)
    student = (3 * torch.randn(num_samples, num_classes)).requires_grad_()
    return student, 3 * torch.randn(num_samples, num_classes)


@pytest.mark.parametrize(
    ("shape", "exponent", "weighted", "value", "gradient"),
    [
        ((4, 7), 0.25, False, 1.4029833334071093, 0.3011226289638308),
        ((4, 7), 0.25, True, 4.320893989919255, 0.920799585800406),
        ((6, 10), 0.6, False, 2.4978869622626205, 0.26078936827641247),
    ],
)
def test_distance_and_gradient_match_the_official_code(context, shape, exponent, weighted, value, gradient):
    student, teacher = drawn(*shape)
    method = build(context, exponent=exponent, weighted=weighted)

    distance = method.distance(student, teacher, Batch(torch.zeros(1), torch.zeros(1), torch.zeros(1)))
    distance.backward()

    assert distance.item() == pytest.approx(value, rel=1e-5)
    assert student.grad.norm().item() == pytest.approx(gradient, rel=1e-5)


def test_the_weight_of_a_sample_is_between_1_and_that_of_uniform_probabilities():
    student, sure, uniform = torch.randn(1, 8), 100 * torch.eye(8)[:1], torch.zeros(1, 8)

    weights = [
        (transformed_teacher(student, t, exponent=0.5) / transformed_teacher(student, t, exponent=0.5, weighted=False))
        for t in (sure, uniform)
    ]

    assert [weight.item() for weight in weights] == pytest.approx([1.0, 8**0.5], rel=1e-5)


def test_wttm_adds_its_terms_to_the_labels(context, batch, logits):
    terms = build(context, weight=0.5, label_weight=2.0).loss(
        batch, Outputs(logits(1)), [Outputs(logits(2))], StepInfo()
    )

    expected = transformed_teacher(logits(1), logits(2), exponent=0.5)
    assert terms["distillation"].item() == pytest.approx(0.5 * expected.item(), rel=1e-6)
    assert terms["label"].item() == pytest.approx(2 * F.cross_entropy(logits(1), batch.labels).item(), rel=1e-6)


@pytest.mark.parametrize("name", ["vitkd", "masked_teacher"])
@pytest.mark.parametrize(("temperature", "exponent"), [(None, 0.5), (4.0, 0.25)])
def test_as_a_logit_term_it_has_the_exponent_of_the_temperature(name, temperature, exponent, make_harness, batch):
    harness = make_harness(name, logits="wttm", temperature=temperature)

    assert harness.terms(batch)["distillation"] > 0
    assert harness.method.logit_method.params.exponent == exponent


@pytest.mark.parametrize("name", ["vitkd", "masked_teacher"])
def test_a_temperature_below_1_is_rejected(name, make_harness):
    with pytest.raises(InvalidSpec, match="/method/temperature: wttm has a temperature of 1 or more"):
        make_harness(name, logits="wttm", temperature=0.5)

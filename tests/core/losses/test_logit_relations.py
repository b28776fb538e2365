"""Relations between logits: literal sums and invariances."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.losses import batch_correlation, class_correlation, decoupled, dist, kd, standardize

STEADY = settings(deadline=None, derandomize=True, max_examples=30)


def pair():
    generator = torch.Generator().manual_seed(5)
    return 2 * torch.randn(4, 6, generator=generator), 2 * torch.randn(4, 6, generator=generator)


@pytest.mark.parametrize(("beta", "gamma"), [(1.0, 0.0), (0.0, 1.0), (2.0, 3.0)])
def test_dist_is_one_minus_the_correlation_of_rows_and_of_columns(beta, gamma):
    student, teacher = pair()
    s, t = (logits.double().div(2).softmax(dim=1) for logits in (student, teacher))
    rows = sum(1 - torch.corrcoef(torch.stack([s[b], t[b]]))[0, 1] for b in range(4)) / 4
    columns = sum(1 - torch.corrcoef(torch.stack([s[:, c], t[:, c]]))[0, 1] for c in range(6)) / 6

    value = dist(student, teacher, beta=beta, gamma=gamma, temperature=2.0)

    assert value.item() == pytest.approx(4 * (beta * rows + gamma * columns).item(), rel=1e-4)


def test_dist_of_one_sample_is_finite_with_uncorrelated_columns():
    student, teacher = (logits[:1] for logits in pair())

    assert dist(student, teacher, beta=0.0, gamma=1.0, temperature=1.0).item() == 1


@STEADY
@given(st.floats(0.1, 10), st.floats(-20, 20))
def test_standardized_logits_are_invariant_to_scale_and_shift(scale, shift):
    logits, _ = pair()

    torch.testing.assert_close(standardize(scale * logits + shift), standardize(logits), rtol=1e-3, atol=1e-4)


def test_standardized_logits_have_mean_0_and_sample_deviation_1():
    standard = standardize(pair()[0])

    torch.testing.assert_close(standard.mean(dim=1), torch.zeros(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(standard.square().sum(dim=1), torch.full((4,), 5.0))  # C − 1


def test_standardization_composes_with_the_logit_losses():
    student, teacher = pair()
    s, t = ((z - z.mean(1, keepdim=True)) / (1e-7 + z.std(1, keepdim=True)) for z in (student, teacher))
    labels = torch.tensor([0, 1, 2, 3])
    options = {"alpha": 1.0, "beta": 8.0, "temperature": 2.0}

    assert kd(standardize(student), standardize(teacher), temperature=2.0).item() == pytest.approx(
        kd(s, t, temperature=2.0).item(), rel=1e-5
    )
    assert decoupled(standardize(student), standardize(teacher), labels, **options).item() == pytest.approx(
        decoupled(s, t, labels, **options).item(), rel=1e-5
    )


def test_constant_logits_standardize_to_zeros():
    assert standardize(torch.full((2, 5), 3.0)).tolist() == [[0.0] * 5] * 2


def test_a_single_class_cannot_be_standardized():
    with pytest.raises(ValueError, match="two or more classes"):
        standardize(torch.zeros(3, 1))


def test_correlations_equal_the_literal_double_sums():
    student, teacher = pair()
    s, t = (logits.div(2).softmax(dim=1).double() for logits in (student, teacher))
    classes = sum((t[:, i] @ t[:, j] - s[:, i] @ s[:, j]).item() ** 2 for i in range(6) for j in range(6)) / 6
    samples = sum((t[i] @ t[j] - s[i] @ s[j]).item() ** 2 for i in range(4) for j in range(4)) / 4

    assert class_correlation(student, teacher, temperature=2.0).item() == pytest.approx(classes, rel=1e-4)
    assert batch_correlation(student, teacher, temperature=2.0).item() == pytest.approx(samples, rel=1e-4)


@pytest.mark.parametrize("loss", [class_correlation, batch_correlation])
@STEADY
@given(shift=st.floats(-50, 50))
def test_correlations_are_invariant_to_a_constant_added_to_all_logits(loss, shift):
    student, teacher = pair()
    expected = loss(student, teacher, temperature=2.0).item()

    assert loss(student + shift, teacher - shift, temperature=2.0).item() == pytest.approx(expected, rel=1e-3)


def test_batch_correlation_is_invariant_to_the_order_of_classes():
    student, teacher = pair()
    order = torch.tensor([3, 1, 0, 5, 4, 2])

    reordered = batch_correlation(student[:, order], teacher, temperature=2.0)

    assert reordered.item() == pytest.approx(batch_correlation(student, teacher, temperature=2.0).item(), rel=1e-4)

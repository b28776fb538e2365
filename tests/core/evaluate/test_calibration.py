import math

import pytest
import torch

from core.evaluate.calibration import MIN_TEMPERATURE, NUM_BINS, calibration, fit_temperature


def logits_of(*probabilities):
    return torch.tensor(probabilities, dtype=torch.float64).log()


def test_the_error_is_the_mean_gap_between_confidence_and_accuracy():
    # Two images at confidence 0.8, one of them correct: a gap of 0.3; two at 0.6, both correct: a gap of 0.4.
    logits = logits_of([0.8, 0.2], [0.8, 0.2], [0.4, 0.6], [0.4, 0.6])
    result = calibration(logits, torch.tensor([0, 1, 1, 1]))

    assert result.ece == pytest.approx((2 * 0.3 + 2 * 0.4) / 4)
    assert result.nll == pytest.approx(-(math.log(0.8) + math.log(0.2) + 2 * math.log(0.6)) / 4)
    assert result.confidence == pytest.approx(0.7)
    filled = [(each.count, each.confidence, each.accuracy) for each in result.bins if each.count]
    assert [count for count, *_ in filled] == [2, 2]
    assert filled[0][1:] == pytest.approx((0.6, 1.0))
    assert filled[1][1:] == pytest.approx((0.8, 0.5))
    assert len(result.bins) == NUM_BINS


def test_a_confidence_on_a_border_belongs_to_the_bin_below_it_and_certainty_to_the_last():
    result = calibration(logits_of([0.6, 0.4], [1.0, 1e-300]), torch.tensor([0, 0]))

    assert [index for index, each in enumerate(result.bins) if each.count] == [round(0.6 * NUM_BINS) - 1, NUM_BINS - 1]
    assert result.ece == pytest.approx(0.2)


def test_the_fitted_temperature_is_that_by_which_the_logits_were_sharpened():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4_000, 5, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
    temperature = fit_temperature(3 * logits, labels)

    assert temperature == pytest.approx(3, rel=0.05)
    sharp = calibration(3 * logits, labels)
    scaled = calibration(3 * logits, labels, temperature=temperature)
    assert scaled.nll < sharp.nll
    assert scaled.ece < sharp.ece / 3
    # The minimum: neighbors are worse.
    for factor in (0.97, 1.03):
        assert calibration(3 * logits, labels, temperature=factor * temperature).nll > scaled.nll


def test_logits_that_are_always_right_get_the_lowest_temperature():
    assert fit_temperature(torch.eye(3), torch.arange(3)) == pytest.approx(MIN_TEMPERATURE)

"""What a step measured comes in order, and as late as was agreed."""

import pytest
import torch

from core.train.async_metrics import LAG_STEPS, MetricQueue, StepMetrics


def put(readings, step):
    readings.put(step, ("label",), torch.tensor([1.0, 2.0, 3.0 + step]), learning_rate=0.5)


def test_a_reading_has_terms_loss_norm_and_rate():
    readings = MetricQueue(0)
    put(readings, 4)

    (reading,) = readings.due()
    assert reading == StepMetrics(4, {"label": 1.0}, 2.0, 7.0, 0.5)
    assert reading.values() == {"loss": 2.0, "label": 1.0, "learning_rate": 0.5, "gradient_norm": 7.0}


@pytest.mark.parametrize("lag", [0, 1, 3])
def test_readings_are_due_once_so_many_more_were_put(lag):
    readings, seen = MetricQueue(lag), []
    for step in range(6):
        put(readings, step)
        seen.append([reading.step for reading in readings.due()])

    assert seen == [[]] * lag + [[step] for step in range(6 - lag)]
    assert [reading.step for reading in readings.rest()] == list(range(6 - lag, 6))
    assert list(readings.rest()) == []


def test_nothing_lags_on_a_cpu():
    assert LAG_STEPS["cpu"] == 0
    assert LAG_STEPS["cuda"] > 0

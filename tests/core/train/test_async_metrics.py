"""Metrics are returned in step order, with the configured lag."""

import pytest
import torch

from core.train.async_metrics import LAG_STEPS, MetricQueue, StepMetrics


def put(queue, step):
    queue.put(step, ("label",), torch.tensor([1.0, 2.0, 3.0 + step]), learning_rate=0.5)


def test_metrics_have_terms_loss_norm_and_rate():
    queue = MetricQueue(0)
    put(queue, 4)

    (metrics,) = queue.pop_due()
    assert metrics == StepMetrics(4, {"label": 1.0}, 2.0, 7.0, 0.5)
    assert metrics.values() == {"loss": 2.0, "label": 1.0, "learning_rate": 0.5, "gradient_norm": 7.0}


def test_other_metrics_follow_the_norm():
    queue = MetricQueue(0)
    queue.put(0, ("label",), torch.tensor([1.0, 2.0, 3.0]), learning_rate=0.5, others={"cosine": torch.tensor(-0.25)})

    (metrics,) = queue.pop_due()
    assert metrics == StepMetrics(0, {"label": 1.0}, 2.0, 3.0, 0.5, {"cosine": -0.25})
    assert metrics.values()["cosine"] == -0.25


@pytest.mark.parametrize("lag", [0, 1, 3])
def test_metrics_are_due_after_lag_more_steps(lag):
    queue, due = MetricQueue(lag), []
    for step in range(6):
        put(queue, step)
        due.append([metrics.step for metrics in queue.pop_due()])

    assert due == [[]] * lag + [[step] for step in range(6 - lag)]
    assert [metrics.step for metrics in queue.drain()] == list(range(6 - lag, 6))
    assert list(queue.drain()) == []


def test_the_lag_is_0_on_a_cpu():
    assert LAG_STEPS["cpu"] == 0
    assert LAG_STEPS["cuda"] > 0

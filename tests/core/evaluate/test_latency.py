import time

import pytest
import torch
from torch import nn

from core.evaluate import latency, measure_latency


class SlowModule(nn.Module):
    def forward(self, images):
        time.sleep(0.001 * len(images))
        return images


def test_each_batch_size_has_a_median():
    single, batch = measure_latency(SlowModule(), torch.rand(1, 2, 2), batch_sizes=(1, 8), seconds=0.05)

    assert (single.batch_size, batch.batch_size) == (1, 8)
    assert single.milliseconds >= 1
    assert batch.milliseconds >= 8
    assert single.threads == 1
    assert single.device == "cpu"
    assert single.to_json()["repeats"] == single.repeats


def test_repeats_have_a_minimum_and_a_maximum(monkeypatch):
    monkeypatch.setattr(latency, "MAX_REPEATS", 20)
    (slow,) = measure_latency(SlowModule(), torch.rand(1, 2, 2), batch_sizes=(1,), seconds=0)
    (fast,) = measure_latency(nn.Identity(), torch.rand(1, 2, 2), batch_sizes=(1,), seconds=5)

    assert (slow.repeats, fast.repeats) == (latency.MIN_REPEATS, 20)


def test_poll_can_interrupt():
    def poll():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_latency(nn.Identity(), torch.rand(1, 2, 2), poll=poll)

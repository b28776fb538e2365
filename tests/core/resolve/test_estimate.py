from dataclasses import replace

import pytest

from core.resolve.estimate import PROCESS_BYTES, Workload, estimate_memory, estimate_seconds
from core.resolve.model_profile import ModelProfile

SMALL = ModelProfile(parameters=10**6, flops=10**8, size_bytes=4 * 10**6, activations=10**6, calls=100, num_classes=10)


def load(*, steps=1000, batch_size=64, trains=True):
    return Workload(SMALL, batch_size, steps, trains=trains)


def seconds(*loads, threads=2, accelerator="cpu"):
    return estimate_seconds(list(loads), threads=threads, accelerator=accelerator)


def test_more_work_takes_longer_and_more_threads_take_less():
    assert seconds(load(steps=2000)) > seconds(load())
    assert seconds(load()) > seconds(load(trains=False))
    assert seconds(load(), threads=1) > seconds(load(), threads=4)
    assert seconds(load()) > seconds(load(), accelerator="cuda")


def test_a_measured_run_is_estimated_within_a_factor_of_two():
    """embed 96, depth 6, 32 px in patches of 4: about 250 images a second on two cores."""
    known = ModelProfile(684_000, 102_000_000, 2_700_000, 10**6, 123, 10)
    step = seconds(Workload(known, 64, 1000, trains=True)) - seconds()

    assert 0.5 < 250 / (64 * 1000 / step) < 2


def test_memory_is_that_of_the_largest_training():
    alone = estimate_memory(load(), [], [], ema=False)

    assert alone == PROCESS_BYTES + 16 * 10**6 + 4 * 64 * 10**6
    assert estimate_memory(load(), [], [], ema=True) == alone + 4 * 10**6
    assert estimate_memory(load(), [load(trains=False)], [], ema=False) > alone
    assert estimate_memory(load(), [], [load(batch_size=128)], ema=False) > alone
    assert estimate_memory(load(), [], [load(batch_size=8)], ema=False) == alone


def test_a_balance_of_gradients_takes_a_second_backward_pass_and_its_gradient():
    plain, balanced = load(), replace(load(), is_balanced=True)

    assert seconds(balanced) - seconds() == pytest.approx(5 / 3 * (seconds(plain) - seconds()))
    difference = estimate_memory(balanced, [], [], ema=False) - estimate_memory(plain, [], [], ema=False)
    assert difference == 12 * 10**6

"""Choice of device and precision."""

import pytest
import torch

from core.errors import SpecCannotRun
from core.train.precision import choose_compute, choose_device


def test_auto_is_fp32_on_a_cpu_and_bf16_on_cuda():
    assert choose_compute(torch.device("cpu"), "auto").precision == "fp32"
    assert choose_compute(torch.device("cuda"), "auto").precision == "bf16"


def test_a_requested_precision_is_used():
    assert choose_compute(torch.device("cpu"), "bf16").precision == "bf16"


def test_bf16_computes_matrix_products_in_bf16():
    with choose_compute(torch.device("cpu"), "bf16").forward_context():
        assert torch.nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == torch.bfloat16


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_unavailable_cuda_is_rejected():
    with pytest.raises(SpecCannotRun, match="use cpu or auto"):
        choose_device("cuda")


def test_cpu_is_selected():
    assert choose_device("cpu") == torch.device("cpu")


class TestSeveralDevices:
    def test_a_cpu_has_at_most_8_processes(self):
        assert choose_device("cpu", devices=8, rank=7) == torch.device("cpu")
        with pytest.raises(SpecCannotRun, match="at most 8 processes"):
            choose_device("cpu", devices=9)

    def test_cuda_needs_as_many_visible_devices(self, monkeypatch):
        chosen = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "set_device", chosen.append)

        assert choose_device("auto", devices=2, rank=1) == torch.device("cuda", 1) == chosen[0]
        with pytest.raises(SpecCannotRun, match=r"this process sees 2; .*CUDA_VISIBLE_DEVICES"):
            choose_device("cuda", devices=3)

"""Where and how precisely."""

import pytest
import torch

from core.errors import SpecCannotRun
from core.train.precision import choose_arithmetic, choose_device


def test_auto_is_fp32_on_a_cpu_and_bf16_on_cuda():
    assert choose_arithmetic(torch.device("cpu"), "auto").precision == "fp32"
    assert choose_arithmetic(torch.device("cuda"), "auto").precision == "bf16"


def test_what_is_asked_for_is_taken():
    assert choose_arithmetic(torch.device("cpu"), "bf16").precision == "bf16"


def test_bf16_computes_matrix_products_in_bf16():
    with choose_arithmetic(torch.device("cpu"), "bf16").forward_context():
        assert torch.nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == torch.bfloat16


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_that_is_not_there_is_said():
    with pytest.raises(SpecCannotRun, match="use cpu or auto"):
        choose_device("cuda")


def test_cpu_is_a_cpu():
    assert choose_device("cpu") == torch.device("cpu")

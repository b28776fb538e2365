"""Losses leave the caller's autocast as they found it."""

import pytest
import torch

from core.losses.precision import outside_autocast


@outside_autocast
def product(left, right, *, fails=False):
    """A product of matrices."""
    if fails:
        raise ArithmeticError
    return left @ right


def test_a_product_inside_is_float32_and_one_after_it_is_not():
    matrix = torch.ones(2, 2)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, after = product(matrix, matrix), matrix @ matrix

    assert inside.dtype == torch.float32
    assert after.dtype == torch.bfloat16


def test_autocast_comes_back_after_an_error_too():
    matrix = torch.ones(2, 2)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(ArithmeticError):
            product(matrix, matrix, fails=True)
        after = matrix @ matrix

    assert after.dtype == torch.bfloat16


def test_the_loss_keeps_its_name_and_story():
    assert product.__name__ == "product"
    assert product.__doc__ == "A product of matrices."

"""Losses restore the caller's autocast state."""

import pytest
import torch

from core.losses.precision import outside_autocast


@outside_autocast
def product(left, right, *, fails=False):
    """Multiply matrices."""
    if fails:
        raise ArithmeticError
    return left @ right


def test_autocast_is_disabled_only_inside_the_loss():
    matrix = torch.ones(2, 2)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, after = product(matrix, matrix), matrix @ matrix

    assert inside.dtype == torch.float32
    assert after.dtype == torch.bfloat16


def test_autocast_is_restored_after_an_error():
    matrix = torch.ones(2, 2)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(ArithmeticError):
            product(matrix, matrix, fails=True)
        after = matrix @ matrix

    assert after.dtype == torch.bfloat16


def test_the_decorated_loss_has_the_name_and_docstring_of_the_original():
    assert product.__name__ == "product"
    assert product.__doc__ == "Multiply matrices."

"""Sum of the smallest group norms, and its derivative with respect to their number."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.losses import smallest_groups

STEADY = settings(deadline=None, derandomize=True, max_examples=50)

NORMS = torch.tensor([4.0, 1.0, 3.0, 2.0])


@pytest.mark.parametrize(
    ("count", "total", "following"), [(0, 0, 1), (1, 1, 2), (1.2, 3, 3), (3, 6, 4), (4, 10, 4), (9, 10, 4), (-1, 0, 1)]
)
def test_the_count_is_rounded_up_and_clamped(count, total, following):
    assert [value.item() for value in smallest_groups(NORMS, count)] == [total, following]


@STEADY
@given(st.lists(st.floats(0, 100, width=32), min_size=2, max_size=8), st.data())
def test_the_derivative_is_the_difference_of_one_more_group(norms, data):
    count = data.draw(st.integers(0, len(norms) - 1))
    norms = torch.tensor(norms)

    total, following = smallest_groups(norms, count)

    assert total.item() == pytest.approx(sum(sorted(norms.tolist())[:count]), rel=1e-5)
    assert (smallest_groups(norms, count + 1)[0] - total).item() == pytest.approx(following.item(), rel=1e-3, abs=1e-3)


def test_each_row_has_its_own_count():
    total, following = smallest_groups(torch.stack([NORMS, 10 * NORMS]), torch.tensor([1.0, 2.5]))

    assert total.tolist() == [1, 60]
    assert following.tolist() == [2, 40]


def test_only_counted_groups_have_a_gradient():
    norms = NORMS.clone().requires_grad_()

    smallest_groups(norms, 2)[0].backward()

    assert norms.grad.tolist() == [0, 1, 0, 1]


def test_counts_and_norms_may_be_on_the_meta_device():
    total, _ = smallest_groups(torch.zeros(3, 4, device="meta"), torch.zeros(3, device="meta"))

    assert total.shape == (3,)


def test_norms_without_groups_are_rejected():
    with pytest.raises(ValueError, match="one group or more"):
        smallest_groups(torch.zeros(2, 0), 1)

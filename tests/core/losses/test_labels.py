"""Labels in either form, and what is left of a row without its label."""

import pytest
import torch

from core.losses.labels import hard_labels, of_label, of_others, require_labels

LOGITS = torch.zeros(2, 3)


def test_integers_are_themselves_and_probabilities_their_likeliest_class():
    assert hard_labels(torch.tensor([2, 0]), LOGITS).tolist() == [2, 0]
    assert hard_labels(torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]]), LOGITS).tolist() == [2, 0]


def test_a_row_falls_into_its_label_and_the_others_in_their_order():
    values, labels = torch.arange(9).view(3, 3), torch.tensor([0, 1, 2])

    assert of_label(values, labels).tolist() == [0, 4, 8]
    assert of_others(values, labels).tolist() == [[1, 2], [3, 5], [6, 7]]


@pytest.mark.parametrize(
    "target",
    [torch.zeros(2), torch.zeros(3, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 4)],
)
def test_anything_else_is_refused(target):
    with pytest.raises(ValueError, match="labels must be"):
        require_labels(target, LOGITS)

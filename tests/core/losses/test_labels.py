"""Hard and soft labels, and the split of a row into target and other classes."""

import pytest
import torch

from core.losses.labels import hard_labels, other_entries, require_labels, target_entries

LOGITS = torch.zeros(2, 3)


def test_hard_labels_are_integers_or_the_most_probable_class():
    assert hard_labels(torch.tensor([2, 0]), LOGITS).tolist() == [2, 0]
    assert hard_labels(torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]]), LOGITS).tolist() == [2, 0]


def test_a_row_is_split_into_target_and_other_entries():
    values, labels = torch.arange(9).view(3, 3), torch.tensor([0, 1, 2])

    assert target_entries(values, labels).tolist() == [0, 4, 8]
    assert other_entries(values, labels).tolist() == [[1, 2], [3, 5], [6, 7]]


@pytest.mark.parametrize(
    "target",
    [torch.zeros(2), torch.zeros(3, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 4)],
)
def test_other_targets_are_rejected(target):
    with pytest.raises(ValueError, match="labels must be"):
        require_labels(target, LOGITS)

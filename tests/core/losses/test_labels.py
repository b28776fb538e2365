"""Hard and soft labels, and the split of a row into target and other classes."""

import pytest
import torch
import torch.nn.functional as F

from core.losses.labels import hard_labels, labeled_cross_entropies, other_entries, require_labels, target_entries

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


def test_the_cross_entropy_of_an_image_without_a_label_is_zero_and_a_mixed_one_counts_its_labeled_part():
    logits = torch.tensor([[1.0, 2.0, -1.0], [0.5, 0.0, 0.2], [0.0, 3.0, 1.0]])
    labels = torch.tensor([1, -1, 0])
    mixed = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.25, 0.0, 0.0]])
    own = F.cross_entropy(logits, labels.clamp(min=0), reduction="none", label_smoothing=0.1)

    losses = labeled_cross_entropies(logits, labels, label_smoothing=0.1)
    losses_of_mixed = labeled_cross_entropies(logits, mixed, label_smoothing=0.1)

    torch.testing.assert_close(losses, own * torch.tensor([1.0, 0.0, 1.0]))
    torch.testing.assert_close(losses_of_mixed, own * torch.tensor([1.0, 0.0, 0.25]))

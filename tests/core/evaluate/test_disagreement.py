import pytest
import torch

from core.evaluate.disagreement import (
    Confusion,
    confusion_matrix,
    jensen_shannon,
    largest_confusions,
    most_different,
)


def test_rows_of_the_confusion_matrix_are_labels_and_columns_predictions():
    labels, predictions = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 1, 1, 1, 0])

    assert confusion_matrix(predictions, labels, 3).tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]


def test_the_largest_confusions_come_first_and_correct_images_are_none():
    labels = torch.tensor([2, 2, 2, 0, 1])
    predictions = torch.tensor([1, 1, 2, 2, 1])

    assert largest_confusions(predictions, labels, 3, 5) == [Confusion(2, 1, 2), Confusion(0, 2, 1)]
    assert largest_confusions(predictions, labels, 3, 1) == [Confusion(2, 1, 2)]


def test_the_divergence_is_0_for_equal_and_1_bit_for_disjoint_probabilities():
    first = torch.tensor([[0.0, 3.0], [200.0, -200.0], [0.0, 0.0]])
    second = torch.tensor([[5.0, 8.0], [-200.0, 200.0], [200.0, -200.0]])
    divergence = jensen_shannon(first, second)

    # The last: a fair coin against certainty, 0.311 bits: H(3/4) - H(1/2) / 2.
    assert divergence.tolist() == pytest.approx([0, 1, 0.311278], abs=1e-6)
    order, values = most_different(first, second, 2)
    assert order.tolist() == [1, 2]
    assert values.tolist() == pytest.approx([1, 0.311278], abs=1e-6)

"""Invalid shapes are rejected with an error that names them."""

import pytest
import torch

from core.losses.shapes import require_embeddings, require_logits, require_maps, require_tokens


@pytest.mark.parametrize(
    ("require", "student", "teacher"),
    [
        (require_logits, (4, 7), (4, 7)),
        (require_embeddings, (4, 7), (4, 9)),
        (require_embeddings, (4, 7, 2, 2), (4, 9)),
        (require_maps, (4, 7, 2, 2), (4, 9, 3, 3)),
        (require_tokens, (4, 5, 7), (4, 5, 9)),
    ],
)
def test_shapes_may_differ_where_allowed(require, student, teacher):
    require(torch.zeros(student), torch.zeros(teacher))


@pytest.mark.parametrize(
    ("require", "student", "teacher"),
    [
        (require_logits, (4, 7), (4, 1)),
        (require_logits, (4, 7), (1, 7)),
        (require_logits, (4, 7, 1), (4, 7, 1)),
        (require_embeddings, (4, 7), (1, 7)),
        (require_embeddings, (4,), (4,)),
        (require_maps, (4, 7, 2, 2), (1, 7, 2, 2)),
        (require_maps, (4, 7, 4), (4, 7, 4)),
        (require_tokens, (4, 5, 7), (4, 1, 7)),
        (require_tokens, (4, 5, 7), (1, 5, 7)),
    ],
)
def test_the_error_names_both_shapes(require, student, teacher):
    with pytest.raises(ValueError, match="not") as caught:
        require(torch.zeros(student), torch.zeros(teacher))

    assert f"{student} and {teacher}" in str(caught.value)


def test_too_few_samples_or_classes_are_rejected():
    with pytest.raises(ValueError, match="at least 2 samples and 1 classes"):
        require_logits(torch.zeros(1, 3), torch.zeros(1, 3), num_samples=2)
    with pytest.raises(ValueError, match="at least 1 samples and 2 classes"):
        require_logits(torch.zeros(3, 1), torch.zeros(3, 1), num_classes=2)
    with pytest.raises(ValueError, match="at least 2 samples"):
        require_embeddings(torch.zeros(1, 3), torch.zeros(1, 3), num_samples=2)

"""TinyViT: sparse soft labels, without labels."""

import pytest
import torch
import torch.nn.functional as F

from core.errors import InvalidSpec
from core.methods import Batch, Outputs, StepInfo, build_method
from core.spec.methods.tinyvit import TinyvitParams


def build(context, **params):
    return build_method(TinyvitParams(name="tinyvit", **params), context)


def test_the_most_probable_classes_are_exact_and_the_rest_is_spread_evenly(context, batch):
    probabilities = torch.tensor([[0.5, 0.1, 0.3, 0.1], [0.1, 0.7, 0.15, 0.05]])
    student = torch.tensor([[1.0, 0.0, -1.0, 2.0], [0.5, 0.5, 0.0, 0.0]])
    pair = Batch(batch.images[:2], batch.labels[:2], batch.indices[:2])

    value = build(context, top_k=2).distance(student, probabilities.log(), pair)

    sparse = torch.tensor([[0.5, 0.1, 0.3, 0.1], [0.075, 0.7, 0.15, 0.075]])
    assert value.item() == pytest.approx(F.cross_entropy(student, sparse).item(), rel=1e-5)


def test_the_distance_matches_the_official_value_up_to_half_precision(context):
    """The stored probabilities of the official value are rounded to half precision; here they are not."""
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 20), torch.randn(4, 20)
    batch = Batch(torch.zeros(4, 1, 1, 1), torch.zeros(4, dtype=torch.int64), torch.arange(4))

    assert build(context, top_k=3).distance(student, 2 * teacher, batch).item() == pytest.approx(3.683336258, rel=1e-4)


def test_all_but_one_class_is_the_complete_distribution(context, batch, logits):
    method = build(context)

    value = method.distance(logits(1), logits(2), batch)

    assert method.top_k == 3
    assert value.item() == pytest.approx(F.cross_entropy(logits(1), logits(2).softmax(dim=1)).item(), rel=1e-5)


def test_labels_are_never_used(context, batch, logits):
    method = build(context)
    others = Batch(batch.images, torch.full_like(batch.labels, -1), batch.indices)

    with_labels, without = (
        method.loss(seen, Outputs(logits(1)), [Outputs(logits(2))], StepInfo()) for seen in (batch, others)
    )

    assert list(without) == ["distillation"]
    assert without["distillation"].equal(with_labels["distillation"])


@pytest.mark.parametrize("top_k", [4, 100])
def test_top_k_of_all_classes_is_rejected(top_k, context):
    with pytest.raises(InvalidSpec, match="give at most 3") as caught:
        build(context, top_k=top_k)

    assert [error.pointer for error in caught.value.errors] == ["/method/top_k"]

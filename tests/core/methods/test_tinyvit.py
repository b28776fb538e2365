"""Sparse soft labels: what is kept of the teacher, and that labels are never looked at."""

import pytest
import torch
import torch.nn.functional as F

from core.errors import InvalidSpec
from core.methods import Batch, Outputs, StepInfo, build_method
from core.spec.methods.tinyvit import TinyvitParams


def build(setting, **params):
    return build_method(TinyvitParams(name="tinyvit", **params), setting)


def test_the_likeliest_classes_are_kept_and_the_rest_is_shared(setting, batch):
    probabilities = torch.tensor([[0.5, 0.1, 0.3, 0.1], [0.1, 0.7, 0.15, 0.05]])
    student = torch.tensor([[1.0, 0.0, -1.0, 2.0], [0.5, 0.5, 0.0, 0.0]])
    pair = Batch(batch.images[:2], batch.labels[:2], batch.indices[:2])

    value = build(setting, top_k=2).distance(student, probabilities.log(), pair)

    kept = torch.tensor([[0.5, 0.1, 0.3, 0.1], [0.075, 0.7, 0.15, 0.075]])
    assert value.item() == pytest.approx(F.cross_entropy(student, kept).item(), rel=1e-5)


def test_the_official_value_comes_out_up_to_its_rounding_to_half_precision(setting):
    """The stored probabilities of the official value are rounded to half precision; here they are not."""
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 20), torch.randn(4, 20)
    batch = Batch(torch.zeros(4, 1, 1, 1), torch.zeros(4, dtype=torch.int64), torch.arange(4))

    assert build(setting, top_k=3).distance(student, 2 * teacher, batch).item() == pytest.approx(3.683336258, rel=1e-4)


def test_all_but_one_class_kept_is_the_whole_distribution(setting, batch, logits):
    method = build(setting)

    value = method.distance(logits(1), logits(2), batch)

    assert method.top_k == 3
    assert value.item() == pytest.approx(F.cross_entropy(logits(1), logits(2).softmax(dim=1)).item(), rel=1e-5)


def test_labels_are_never_looked_at(setting, batch, logits):
    method = build(setting)
    others = Batch(batch.images, torch.full_like(batch.labels, -1), batch.indices)

    with_labels, without = (
        method.loss(seen, Outputs(logits(1)), [Outputs(logits(2))], StepInfo()) for seen in (batch, others)
    )

    assert list(without) == ["distillation"]
    assert without["distillation"].equal(with_labels["distillation"])


@pytest.mark.parametrize("top_k", [4, 100])
def test_more_classes_than_there_are_cannot_be_told_apart(top_k, setting):
    with pytest.raises(InvalidSpec, match="give at most 3") as caught:
        build(setting, top_k=top_k)

    assert [error.pointer for error in caught.value.errors] == ["/method/top_k"]

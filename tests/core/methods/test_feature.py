"""Feature distillation: a foundation model's embeddings and patch features, without labels."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from core.errors import InvalidSpec
from core.methods import Batch, build_method
from core.methods.feature import ChannelStatistics
from core.models.structure import structure_of
from core.spec.methods.feature import FoundationParams


@pytest.mark.parametrize(("more", "share", "beta"), [({}, 0.1, 1.0), ({"smooth_l1_share": 0.6, "beta": 0.5}, 0.6, 0.5)])
def test_both_terms_match_their_definitions(make_harness, batch, more, share, beta):
    harness = make_harness("feature", teachers=("cnn",), embedding_weight=2.0, patch_weight=3.0, **more)
    student, teacher = harness.student_outputs(batch.images), harness.teachers[0](batch.images)
    student_values = harness.method.embed(student.embedding)
    cosines = [(m @ t) / (m.norm() * t.norm()) for m, t in zip(student_values, teacher.embedding, strict=True)]
    tokens = teacher.last.tokens
    goal = (tokens - tokens.mean(dim=(0, 1))) / tokens.std(dim=(0, 1), correction=0).clamp(min=1e-5)
    guess = harness.method.translate(F.adaptive_avg_pool2d(student.last.map, teacher.last.grid).flatten(2).mT)

    terms = harness.terms(batch)

    assert list(terms) == ["embedding", "patches"]
    assert terms["embedding"].item() == pytest.approx(2 * (1 - sum(cosines) / 6).item(), rel=1e-5)
    gaps = (guess - goal).abs()
    smooth = torch.where(gaps < beta, gaps.square() / (2 * beta), gaps - beta / 2).mean()
    angles = ((guess * goal).sum(dim=2) / (guess.norm(dim=2) * goal.norm(dim=2))).mean()
    expected = (1 - share) * (1 - angles) + share * smooth
    assert terms["patches"].item() == pytest.approx(3 * expected.item(), rel=1e-2)


def test_labels_are_not_used(make_harness, batch):
    unlabelled = Batch(batch.images, torch.full((6,), -1), batch.indices)

    known, unknown = make_harness("feature").terms(batch), make_harness("feature").terms(unlabelled)

    assert {n: t.item() for n, t in known.items()} == {n: t.item() for n, t in unknown.items()}


@pytest.mark.parametrize(("left_out", "left"), [("embedding_weight", "patches"), ("patch_weight", "embedding")])
def test_a_term_of_weight_zero_is_left_out_with_its_projection(make_harness, batch, left_out, left):
    harness = make_harness("feature", **{left_out: 0.0})

    assert list(harness.terms(batch)) == [left]
    assert not hasattr(harness.method, {"embedding_weight": "embed", "patch_weight": "translate"}[left_out])


def test_channels_are_standardized_whatever_their_scale():
    torch.manual_seed(0)
    statistics = ChannelStatistics(3)
    sizes, shift = torch.tensor([1.0, 100.0, 0.01]), torch.tensor([0.0, 50.0, 3.0])

    for _ in range(40):
        standard = statistics(sizes * torch.randn(16, 9, 3) + shift)

    assert standard.std(dim=(0, 1)).tolist() == pytest.approx([1, 1, 1], rel=0.15)
    assert standard.mean(dim=(0, 1)).abs().max() < 0.3


def test_statistics_are_fixed_in_evaluation_mode():
    statistics = ChannelStatistics(2)
    statistics(torch.randn(4, 3, 2))
    before = {name: tensor.clone() for name, tensor in statistics.state_dict().items()}

    statistics.eval()(torch.randn(4, 3, 2) + 5)

    assert all(before[name].equal(tensor) for name, tensor in statistics.state_dict().items())


def test_a_teacher_without_last_features_is_rejected_with_a_fix(context, monkeypatch):
    monkeypatch.setattr(
        "core.methods.base.structure_of", lambda built: replace(structure_of(built), last=None, architecture="odd")
    )

    with pytest.raises(InvalidSpec, match="patch_weight"):
        build_method(FoundationParams(name="feature"), context)

"""Properties of every loss: float32, no teacher gradient, finite values, invariances, any device."""

import inspect

import pytest
import torch
from torch import nn

from core import losses

B, C, D, N, GRID = 4, 6, 8, 5, 4


def randn(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


LOGITS = randn(B, C, seed=1), randn(B, C, seed=2)
POOLED = randn(B, D, seed=3), randn(B, D, seed=4)
MAPS = randn(B, D, GRID, GRID, seed=5), randn(B, D, GRID, GRID, seed=6)
TOKENS = randn(B, N, D, seed=7), randn(B, N, D, seed=8)
LAYERS = randn(3, B, N, D, seed=9), randn(3, B, N, D, seed=10)
LABELS = torch.tensor([0, 3, 5, 2])
FREE = randn(C, C - 1, seed=11)
SOFT, POWERED = {"temperature": 2.0}, {"alpha": 1.0, "beta": 2.0, "temperature": 2.0}


def with_labels(loss, **options):
    return lambda s, t: loss(s, t, LABELS.to(s.device), **options)


def manifold(s, t):
    return torch.stack(losses.manifold(s, t, num_random=7, generator=torch.Generator().manual_seed(0))).sum()


def generated(s, t):
    scale = nn.Parameter(torch.ones((), device=s.device))
    keep = torch.ones(B, D, 1, 1, device=s.device, dtype=torch.bool)
    return losses.masked_generation(s, t, lambda x: x * scale, nn.Identity(), keep, alpha=0.1)


def deit(s, t):
    return losses.deit(s, s, t, s.float().sum() * 0, distillation_type="soft", alpha=1.0, temperature=2.0)


def wasserstein_logits(s, t):
    cost = (1 - torch.eye(C)).to(s.device)
    return losses.wasserstein_logits(s, t, LABELS.to(s.device), cost, weight=3.0, **SOFT)


def three_levels(s, t):
    mask = torch.arange(N - 1, device=s.device).expand(B, -1) % 2 == 0
    return sum(losses.three_levels(s[:, 0], s[:, 1:], s[:, 1:], t[:, 0], t[:, 1:], mask))


# Pair of inputs, loss of the pair, and whether it is zero if student and teacher are equal.
LOSSES = {
    "attention_probe": (LAYERS, losses.attention_probe, True),
    "attention_transfer": (MAPS, losses.attention_transfer, True),
    "batch_correlation": (LOGITS, lambda s, t: losses.batch_correlation(s, t, **SOFT), True),
    "binary_kd": (LOGITS, losses.binary_kd, False),
    "class_correlation": (LOGITS, lambda s, t: losses.class_correlation(s, t, **SOFT), True),
    "co_advise": (LOGITS, with_labels(lambda s, t, y: losses.co_advise(s, [s, s], [t, t.flip(0)], y)), False),
    "correlation": (POOLED, losses.correlation, True),
    "cross_entropy_kd": (LOGITS, lambda s, t: losses.cross_entropy_kd(s, t, **SOFT), False),
    "decoupled": (LOGITS, with_labels(losses.decoupled, **POWERED), True),
    "deit": (LOGITS, deit, True),
    "dist": (LOGITS, lambda s, t: losses.dist(s, t, beta=1.0, gamma=2.0, **SOFT), True),
    "embedding_match": (
        TOKENS,
        lambda s, t: losses.embedding_match(s, t, cosine_weight=0.9, smooth_l1_weight=0.1),
        True,
    ),
    "hidden_relation": (TOKENS, losses.hidden_relation, True),
    "hierarchical_context": (MAPS, losses.hierarchical_context, True),
    "kd": (LOGITS, lambda s, t: losses.kd(s, t, **SOFT), True),
    "manifold": (TOKENS, manifold, True),
    "masked_generation": (MAPS, generated, True),
    "neuron_selectivity": (MAPS, losses.neuron_selectivity, True),
    "noise_adaptation": (
        LOGITS,
        lambda s, t: losses.noise_adaptation(s, t, FREE.to(s.device), teacher_accuracy=0.9),
        False,
    ),
    "normalized": (LOGITS, with_labels(losses.normalized, gamma=1.5, **SOFT), False),
    "normalized_regression": (TOKENS, lambda s, t: losses.normalized_regression(s, t, normalization="layer"), False),
    "one_for_all": (LOGITS, with_labels(losses.one_for_all, epsilon=1.5, **SOFT), False),
    "probabilistic_transfer": (POOLED, losses.probabilistic_transfer, True),
    "qkv_relation": (TOKENS, lambda s, t: losses.qkv_relation((s, s, s), (t, t, t), relation_heads=2), False),
    "refined": (LOGITS, with_labels(losses.refined, beta=2.0, **SOFT), False),
    "relation_transfer": (TOKENS, lambda s, t: sum(losses.relation_transfer((s, s, s), (t, t, t), heads=2)), True),
    "relational_angle": (POOLED, losses.relational_angle, True),
    "relational_distance": (POOLED, losses.relational_distance, True),
    "similarity_preserving": (MAPS, losses.similarity_preserving, True),
    "sparse_soft_labels": (
        LOGITS,
        lambda s, t: losses.sparse_soft_labels(s, *reversed(t.softmax(dim=1).topk(3))),
        False,
    ),
    "spectral": (MAPS, losses.spectral, True),
    "target_aware": (MAPS, lambda s, t: losses.target_aware(s, t, s, t, heads=2), False),
    "three_levels": (TOKENS, three_levels, True),
    "token_divergence": (
        LOGITS,
        lambda s, t: losses.token_divergence(s, t, distillation_type="hard", temperature=1.0),
        False,
    ),
    "transformed_teacher": (LOGITS, lambda s, t: losses.transformed_teacher(s, t, exponent=1.0), True),
    "unit_difference": (MAPS, losses.unit_difference, True),
    "wasserstein_features": (MAPS, losses.wasserstein_features, True),
    "wasserstein_logits": (LOGITS, wasserstein_logits, False),
    "weighted_soft_labels": (LOGITS, with_labels(losses.weighted_soft_labels, alpha=2.0, **SOFT), False),
}
NOT_OF_A_PAIR = {
    "attention_concentration",
    "class_distances",
    "dense_soft_labels",
    "drop_teachers",
    "hadamard",
    "has_hadamard",
    "gradient_weights",
    "labeled_cross_entropies",
    "noise_matrix",
    "phi_s",
    "smallest_groups",
    "standardize",
    "wild_scores",
}

every_loss = pytest.mark.parametrize("name", LOSSES)


def leaf(tensor):
    return tensor.clone().requires_grad_()


def test_every_public_loss_is_tested():
    public = {name for name in losses.__all__ if inspect.isfunction(getattr(losses, name))}

    assert public == LOSSES.keys() | NOT_OF_A_PAIR


def test_options_are_keyword_only():
    tensors = {"student", "teacher", "target", "logits", "base", "index", "probability", "free", "norms", "count"}
    tensors |= {"query", "key", "value", "mask", "align", "generate", "teachers", "cls_attention"}
    tensors |= {"losses", "draws", "dimension", "covariance"}
    tensors |= {"task", "distillation"}
    tensors |= {"token", "patches", "masked", "teacher_token", "teacher_patches", "features", "cost"}
    positional = {
        f"{name}.{parameter.name}"
        for name in LOSSES.keys() | NOT_OF_A_PAIR
        for parameter in inspect.signature(getattr(losses, name)).parameters.values()
        if parameter.kind is not parameter.KEYWORD_ONLY
        and not parameter.name.endswith(("_logits", "_map", "_tokens", "_features", "_qkv"))
        and parameter.name not in tensors
    }

    assert positional == set()


@every_loss
def test_a_loss_is_a_scalar_with_a_gradient_only_for_the_student(name):
    (student, teacher), loss, _ = LOSSES[name]
    student, teacher = leaf(student), leaf(teacher)

    value = loss(student, teacher)
    value.backward()

    assert value.shape == ()
    assert student.grad.norm() > 0
    assert teacher.grad is None


@every_loss
def test_a_loss_is_computed_in_float32_under_autocast(name):
    (student, teacher), loss, _ = LOSSES[name]
    expected = loss(student, teacher)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(student, teacher)

    assert value.dtype == torch.float32
    assert value.item() == expected.item()


@pytest.mark.parametrize("name", sorted(LOSSES.keys() - {"sparse_soft_labels"}))  # its example rounds its own labels
def test_half_precision_inputs_are_converted_to_float32(name):
    (student, teacher), loss, _ = LOSSES[name]
    student, teacher = student.bfloat16(), teacher.bfloat16()

    assert loss(student, teacher).item() == pytest.approx(loss(student.float(), teacher.float()).item(), rel=1e-6)


@every_loss
def test_a_loss_is_minimal_if_student_and_teacher_agree(name):
    (_, teacher), loss, is_zero = LOSSES[name]
    student = leaf(teacher)

    value = loss(student, teacher)
    value.backward()

    assert student.grad.isfinite().all()
    if is_zero:
        assert value.item() == pytest.approx(0, abs=1e-4)  # DIST's floor in the denominator leaves 2e-5
        assert student.grad.norm().item() == pytest.approx(0, abs=1e-5)


@every_loss
@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_loss_and_gradient_are_finite_for_constant_inputs(name, constant):
    (student, teacher), loss, _ = LOSSES[name]
    student = leaf(torch.full_like(student, constant))

    for target in (torch.full_like(teacher, constant), teacher):
        value = loss(student, target)
        (gradient,) = torch.autograd.grad(value, student)
        assert value.isfinite()
        assert gradient.isfinite().all()


@every_loss
def test_loss_and_gradient_are_finite_for_very_confident_networks(name):
    (student, teacher), loss, _ = LOSSES[name]
    student = leaf(1e4 * student)

    value = loss(student, 1e4 * teacher)
    value.backward()

    assert value.isfinite()
    assert student.grad.isfinite().all()


@every_loss
def test_a_loss_runs_on_the_meta_device(name):
    (student, teacher), loss, _ = LOSSES[name]

    assert loss(student.to("meta"), teacher.to("meta")).shape == ()


@pytest.mark.parametrize("name", sorted(LOSSES.keys() - {"correlation", "manifold", "co_advise"}))
def test_a_loss_is_invariant_to_the_order_of_the_batch(name, monkeypatch):
    (student, teacher), loss, _ = LOSSES[name]
    expected = loss(student, teacher).item()
    axis = 1 if name == "attention_probe" else 0
    order = torch.tensor([2, 0, 3, 1])
    monkeypatch.setitem(globals(), "LABELS", LABELS[order])

    value = loss(student.index_select(axis, order), teacher.index_select(axis, order))

    assert value.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["decoupled", "normalized", "one_for_all", "weighted_soft_labels"])
def test_a_mixed_label_counts_as_its_most_probable_class(name, monkeypatch):
    (student, teacher), loss, _ = LOSSES[name]
    expected = loss(student, teacher).item()
    mixed = torch.full((B, C), 0.05).scatter(1, LABELS.unsqueeze(1), 0.75)
    monkeypatch.setitem(globals(), "LABELS", mixed)

    assert loss(student, teacher).item() == expected


@pytest.mark.parametrize("name", sorted(LOSSES.keys() - {"co_advise"}))
def test_a_teacher_of_another_batch_size_is_rejected(name):
    (student, teacher), loss, _ = LOSSES[name]
    fewer = teacher[:, :3] if name == "attention_probe" else teacher[:3]

    with pytest.raises(ValueError, match=r"\(4, |\(3, 4|labels"):
        loss(student, fewer)

"""Projection of a CNN's map to a ViT's attention and tokens."""

import math

import pytest
import torch
import torch.nn.functional as F

from core.models.cross_attention import Discriminator, GroupwiseProjector, PartialCrossAttention
from core.models.taps import Attention


def random_tensor(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def teacher(width=6, heads=2):
    return Attention(*(random_tensor(3, 4, width, seed=i) for i in range(3)), heads, None)


def reference(own, guide, heads):
    """Compute both terms of L_proj1 with loops. ``own`` and ``guide`` are three tensors (B, N, D) each."""
    outputs, relations = [], []
    (query, key, value), (guide_query, guide_key, guide_value), raw = own[:3], guide, own[3]
    d = value.shape[2] // heads
    for image in range(len(value)):
        for head in range(heads):
            part = slice(head * d, (head + 1) * d)

            def attend(q, k, v, *, image=image, part=part):
                scores = q[image, :, part] @ k[image, :, part].T / math.sqrt(d)
                return F.softmax(scores, dim=1) @ v[image, :, part]

            outputs.append((attend(query, key, value) - attend(guide_query, guide_key, guide_value)).square().mean())
            student_values, teacher_values = raw[image, :, part], guide_value[image, :, part]
            relations.append(
                ((student_values @ student_values.T - teacher_values @ teacher_values.T) / math.sqrt(d)).square().mean()
            )
    return torch.stack(outputs).mean() + torch.stack(relations).mean()


def projected(module, maps):
    return [conv(maps).flatten(2).transpose(1, 2) for conv in (module.query, module.key, module.value)]


def test_the_students_attention_is_compared_head_by_head():
    torch.manual_seed(0)
    module, maps, guide = (
        PartialCrossAttention(5, 6, teacher_fraction=0.0),
        random_tensor(3, 5, 2, 2, seed=9),
        teacher(),
    )

    own = projected(module, maps)

    assert module(maps, guide).item() == pytest.approx(reference([*own, own[2]], guide.qkv, 2).item(), rel=1e-5)


def test_the_teacher_replaces_some_images_but_not_in_the_relation_of_values():
    torch.manual_seed(0)
    module, maps, guide = (
        PartialCrossAttention(5, 6, teacher_fraction=0.5),
        random_tensor(3, 5, 2, 2, seed=9),
        teacher(),
    )

    torch.manual_seed(3)
    found = module(maps, guide)

    torch.manual_seed(3)
    own, mixed = projected(module, maps), []
    for student_values, teacher_values in zip(own, guide.qkv, strict=True):
        chosen = torch.rand(3) < 0.5
        mixed.append(torch.stack([teacher_values[i] if chosen[i] else student_values[i] for i in range(3)]))
    assert any(not mix.equal(student_values) for mix, student_values in zip(mixed, own, strict=True))
    assert found.item() == pytest.approx(reference([*mixed, own[2]], guide.qkv, 2).item(), rel=1e-5)


def test_neighboring_positions_share_a_linear_layer():
    torch.manual_seed(0)
    projector = GroupwiseProjector(5, 6, (5, 3), group_size=2, dropout=0.0)
    tokens = random_tensor(2, 15, 5, seed=1)

    found = projector(tokens)

    assert len(projector.linears) == 3 * 2
    for row in range(5):
        for column in range(3):
            linear = projector.linears[2 * (row // 2) + column // 2]
            torch.testing.assert_close(found[:, 3 * row + column], linear(tokens[:, 3 * row + column]))


def test_each_adversarial_loss_has_gradients_for_its_own_side_only():
    torch.manual_seed(0)
    discriminator = Discriminator(6)
    student, guide = random_tensor(3, 6, seed=1).requires_grad_(), random_tensor(3, 6, seed=2).requires_grad_()

    student_loss, own_loss = discriminator(student, guide)

    weights = list(discriminator.parameters())
    assert all(g is None for g in torch.autograd.grad(student_loss, weights, allow_unused=True, retain_graph=True))
    assert torch.autograd.grad(student_loss, student)[0].abs().sum() > 0
    assert torch.autograd.grad(own_loss, [student, guide], allow_unused=True, retain_graph=True) == (None, None)
    assert all(g is not None for g in torch.autograd.grad(own_loss, weights))


def test_the_losses_are_those_of_a_non_saturating_gan():
    torch.manual_seed(0)
    discriminator = Discriminator(6)
    student, guide = random_tensor(3, 6, seed=1), random_tensor(3, 6, seed=2)

    student_loss, own_loss = discriminator(student, guide)

    real, fake = torch.sigmoid(discriminator.layers(guide)), torch.sigmoid(discriminator.layers(student))
    assert student_loss.item() == pytest.approx(-fake.log().mean().item(), rel=1e-5)
    assert own_loss.item() == pytest.approx((-real.log() - (1 - fake).log()).mean().item(), rel=1e-5)

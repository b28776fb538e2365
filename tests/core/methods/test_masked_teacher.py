"""The student picks what its teacher sees."""

import pytest
import torch
import torch.nn.functional as F

from core.errors import InvalidSpec
from core.losses import decoupled, kd
from core.models.taps import Attention, Outputs

VIT = {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}


def attending(weights):
    """Outputs of a student whose last block attends like ``weights`` (B, h, T, T)."""
    nothing = torch.zeros(len(weights), weights.shape[-1], 2)
    attention = Attention(nothing, nothing, nothing, weights.shape[1], weights)
    return Outputs(torch.zeros(len(weights), 4), attentions={3: attention})


def test_the_teacher_sees_what_the_class_token_attends_to_in_the_mean_of_the_heads(lesson):
    method = lesson("masked_teacher", keep=0.25).method
    weights = torch.zeros(2, 2, 17, 17)
    weights[:, :, 1:] = 1.0  # what patches attend to plays no part
    weights[0, 0, 0, 1 + torch.tensor([0, 5, 6, 7])] = 0.2
    weights[0, 1, 0, 1 + torch.tensor([5, 6, 9, 15])] = torch.tensor([0.2, 0.2, 0.5, 0.5])
    weights[1, :, 0, 1:] = torch.arange(16) / 100.0
    weights[:, :, 0, 0] = 9.0  # nor what it attends to in itself

    places = method.chosen(attending(weights))

    assert [sorted(row) for row in places.tolist()] == [[5, 6, 9, 15], [12, 13, 14, 15]]


def test_another_patch_grid_gets_the_attention_at_its_places(lesson):
    coarse = ("vit_tiny_patch16_224", {**VIT, "patch_size": 8})
    method = lesson("masked_teacher", teachers=(coarse,), keep=0.5).method
    weights = torch.zeros(1, 1, 17, 17)
    weights[0, 0, 0, 1 + torch.tensor([10, 11, 14, 2])] = torch.tensor([0.1, 0.1, 0.1, 0.2])

    assert sorted(method.chosen(attending(weights)).tolist()[0]) == [1, 3]  # upper right, lower right


def test_a_teacher_that_sees_everything_is_the_logit_method(lesson, batch):
    made = lesson("masked_teacher", keep=1.0)

    terms = made.terms(batch)

    student, teacher = made.ask(batch.images).logits, made.teachers[0](batch.images).logits
    assert list(terms) == ["label", "distillation"]
    assert terms["label"].item() == pytest.approx(0.5 * F.cross_entropy(student, batch.labels).item(), rel=1e-5)
    assert terms["distillation"].item() == pytest.approx(0.5 * kd(student, teacher, temperature=1.0).item(), rel=1e-4)


def test_a_term_comes_from_the_teacher_of_the_chosen_patches(lesson, batch):
    made = lesson("masked_teacher", keep=0.25, logits="dkd", temperature=2.0, logits_weight=3.0)

    terms = made.terms(batch)

    student, vit = made.ask(batch.images), made.teachers[0].built
    with torch.no_grad():
        tokens = vit.module._pos_embed(vit.module.patch_embed(vit.preprocessing(batch.images)))
        places = student.attentions[3].weights.mean(dim=1)[:, 0, 1:].topk(4).indices
        rows = torch.stack([tokens[i, [0, *(1 + place for place in row)]] for i, row in enumerate(places.tolist())])
        guide = vit.module.forward_head(vit.module.norm(vit.module.blocks(rows)))
    wanted = decoupled(student.logits, guide, batch.labels, alpha=1.0, beta=1.0, temperature=2.0)
    assert terms["distillation"].item() == pytest.approx(3 * wanted.item(), rel=1e-4)


def test_a_student_without_a_class_token_is_refused(lesson):
    arguments = {**VIT, "class_token": False, "global_pool": "avg"}

    with pytest.raises(InvalidSpec, match="class token"):
        lesson("masked_teacher", student=("vit_tiny_patch16_224", arguments))


def test_a_teacher_that_is_no_plain_vit_is_refused(lesson):
    arguments = {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}

    with pytest.raises(InvalidSpec, match="plain ViT") as refused:
        lesson("masked_teacher", teachers=(("vit_relpos_small_patch16_224", arguments),))

    assert refused.value.errors[0].pointer == "/teachers/0/architecture"

"""MaskedKD: the student's attention selects the patches that its teacher sees."""

import pytest
import torch
import torch.nn.functional as F

from core.errors import InvalidSpec
from core.losses import decoupled, kd
from core.models.taps import Attention, Outputs

VIT = {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}


def attending(weights):
    """Outputs of a student whose last block has the attention ``weights`` (B, h, T, T)."""
    nothing = torch.zeros(len(weights), weights.shape[-1], 2)
    attention = Attention(nothing, nothing, nothing, weights.shape[1], weights)
    return Outputs(torch.zeros(len(weights), 4), attentions={3: attention})


def test_the_teacher_sees_the_patches_with_the_most_class_token_attention(make_harness):
    method = make_harness("masked_teacher", keep=0.25).method
    weights = torch.zeros(2, 2, 17, 17)
    weights[:, :, 1:] = 1.0  # the attention of patches is not used
    weights[0, 0, 0, 1 + torch.tensor([0, 5, 6, 7])] = 0.2
    weights[0, 1, 0, 1 + torch.tensor([5, 6, 9, 15])] = torch.tensor([0.2, 0.2, 0.5, 0.5])
    weights[1, :, 0, 1:] = torch.arange(16) / 100.0
    weights[:, :, 0, 0] = 9.0  # nor the class token's attention to itself

    indices = method.visible_patches(attending(weights))

    assert [sorted(row) for row in indices.tolist()] == [[5, 6, 9, 15], [12, 13, 14, 15]]


def test_attention_is_resampled_to_another_patch_grid(make_harness):
    coarse = ("vit_tiny_patch16_224", {**VIT, "patch_size": 8})
    method = make_harness("masked_teacher", teachers=(coarse,), keep=0.5).method
    weights = torch.zeros(1, 1, 17, 17)
    weights[0, 0, 0, 1 + torch.tensor([10, 11, 14, 2])] = torch.tensor([0.1, 0.1, 0.1, 0.2])

    assert sorted(method.visible_patches(attending(weights)).tolist()[0]) == [1, 3]  # upper right, lower right


def test_without_masking_the_terms_equal_the_logit_methods(make_harness, batch):
    harness = make_harness("masked_teacher", keep=1.0)

    terms = harness.terms(batch)

    student, teacher = harness.student_outputs(batch.images).logits, harness.teachers[0](batch.images).logits
    assert list(terms) == ["label", "distillation"]
    assert terms["label"].item() == pytest.approx(0.5 * F.cross_entropy(student, batch.labels).item(), rel=1e-5)
    assert terms["distillation"].item() == pytest.approx(0.5 * kd(student, teacher, temperature=1.0).item(), rel=1e-4)


def test_the_term_uses_the_teachers_logits_of_the_visible_patches(make_harness, batch):
    harness = make_harness("masked_teacher", keep=0.25, logits="dkd", temperature=2.0, logits_weight=3.0)

    terms = harness.terms(batch)

    student, vit = harness.student_outputs(batch.images), harness.teachers[0].built
    with torch.no_grad():
        tokens = vit.module._pos_embed(vit.module.patch_embed(vit.preprocessing(batch.images)))
        indices = student.attentions[3].weights.mean(dim=1)[:, 0, 1:].topk(4).indices
        rows = torch.stack([tokens[i, [0, *(1 + index for index in row)]] for i, row in enumerate(indices.tolist())])
        teacher = vit.module.forward_head(vit.module.norm(vit.module.blocks(rows)))
    expected = decoupled(student.logits, teacher, batch.labels, alpha=1.0, beta=1.0, temperature=2.0)
    assert terms["distillation"].item() == pytest.approx(3 * expected.item(), rel=1e-4)


def test_a_student_without_a_class_token_is_rejected(make_harness):
    arguments = {**VIT, "class_token": False, "global_pool": "avg"}

    with pytest.raises(InvalidSpec, match="class token"):
        make_harness("masked_teacher", student=("vit_tiny_patch16_224", arguments))


def test_a_teacher_that_is_no_plain_vit_is_rejected(make_harness):
    arguments = {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}

    with pytest.raises(InvalidSpec, match="plain ViT") as caught:
        make_harness("masked_teacher", teachers=(("vit_relpos_small_patch16_224", arguments),))

    assert caught.value.errors[0].pointer == "/teachers/0/architecture"

"""Cross-architecture distillation from a ViT to a CNN."""

import pytest
import torch

from core.errors import InvalidSpec
from core.methods import StepInfo
from core.models.align import resample

PLAIN = {"view_probability": 0.0, "dropout": 0.0, "teacher_share": 0.0}


def test_projected_tokens_are_compared_with_normalized_tokens_of_the_last_block(make_harness, batch):
    harness = make_harness("cross_architecture", **PLAIN, projection_weight=2.0)
    harness.student.module.eval()

    terms = harness.terms(batch)

    teacher = harness.teachers[0](batch.images).levels[5].tokens
    centred = teacher - teacher.mean(dim=2, keepdim=True)
    normal = centred / (centred.square().mean(dim=2, keepdim=True) + 1e-5).sqrt()
    own = resample(harness.student_outputs(batch.images).levels[4], (4, 4)).tokens
    guess = harness.method.projectors[0].linears[0](own)  # 4 × 4 patches are one group
    assert list(terms) == ["label", "attention", "projection", "adversarial", "discriminator"]
    assert terms["projection"].item() == pytest.approx(2 * (guess - normal).square().mean().item(), rel=1e-4)


def test_attention_is_compared_only_among_patches(make_harness, batch):
    harness = make_harness("cross_architecture", **PLAIN)
    harness.student.module.eval()

    terms = harness.terms(batch)

    attention = harness.teachers[0](batch.images).attentions[5]
    patches = attention.map_tensors(lambda t: t[:, 1:])
    expected = harness.method.attentions[0](
        resample(harness.student_outputs(batch.images).levels[4], (4, 4)).map, patches
    )
    assert attention.query.shape == (6, 17, 24)
    assert terms["attention"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_teacher_sees_the_image_and_the_student_a_view_of_it(make_harness, batch, monkeypatch):
    harness = make_harness("cross_architecture", view_probability=1.0, mask_share=0.3)
    seen = {}
    run_student, run_teacher = harness.student_outputs, type(harness.teachers[0]).__call__
    monkeypatch.setattr(harness, "student_outputs", lambda images: seen.update(student=images) or run_student(images))
    monkeypatch.setattr(
        type(harness.teachers[0]),
        "__call__",
        lambda self, images: seen.update(teacher=images) or run_teacher(self, images),
    )

    harness.terms(batch)

    assert seen["teacher"].equal(batch.images)
    assert not torch.allclose(seen["student"], batch.images, atol=0.05)


def test_teacher_features_are_transformed_like_the_view(make_harness, batch):
    harness = make_harness("cross_architecture")
    outputs = harness.teachers[0](batch.images)
    upside_down = torch.tensor([[-1.0, 0, 0], [0, -1, 0]]).expand(6, 2, 3)

    transformed = harness.method._transformed(outputs, upside_down)

    torch.testing.assert_close(transformed.levels[5].tokens, outputs.levels[5].tokens.flip(1))
    torch.testing.assert_close(transformed.attentions[5].key[:, 1:], outputs.attentions[5].key[:, 1:].flip(1))
    torch.testing.assert_close(transformed.attentions[5].key[:, :1], outputs.attentions[5].key[:, :1])
    assert transformed.logits.equal(outputs.logits)


def test_an_adversarial_weight_of_zero_removes_the_discriminator(make_harness, batch):
    harness = make_harness("cross_architecture", adversarial_weight=0.0, logits="kd")

    assert list(harness.terms(batch)) == ["label", "distillation", "attention", "projection"]
    assert not any("discriminator" in name for name, _ in harness.method.named_parameters())


def test_feature_terms_are_scaled_by_the_warmup(make_harness, batch):
    cold, warm = make_harness("cross_architecture", warmup_epochs=2.0), make_harness("cross_architecture")
    info = StepInfo(step=4, total_steps=10, epoch=0.8, epochs=2)

    assert cold.terms(batch, info)["projection"].item() == pytest.approx(
        0.5 * warm.terms(batch, info)["projection"].item(), rel=1e-5
    )


def test_each_term_except_the_discriminators_has_a_gradient_in_the_student(make_harness, batch):
    harness = make_harness("cross_architecture")
    weights = list(harness.student.module.parameters())
    for name, term in harness.terms(batch).items():
        found = torch.autograd.grad(term, weights, allow_unused=True, retain_graph=True)

        assert any(g is not None and g.abs().sum() > 0 for g in found) == (name != "discriminator"), name


def test_a_teacher_with_windows_is_rejected(make_harness):
    swin = ("swin_tiny_patch4_window7_224", {"embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2})

    with pytest.raises(InvalidSpec, match="plain ViT") as caught:
        make_harness("cross_architecture", teachers=(swin,))

    assert caught.value.errors[0].pointer == "/teachers/0/architecture"

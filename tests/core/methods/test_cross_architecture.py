"""A transformer teaches a CNN in its own spaces."""

import pytest
import torch

from core.errors import InvalidSpec
from core.methods import StepInfo
from core.models.align import resampled

PLAIN = {"view_probability": 0.0, "dropout": 0.0, "teacher_share": 0.0}


def test_tokens_learn_the_normalised_tokens_of_the_last_block(lesson, batch):
    made = lesson("cross_architecture", **PLAIN, projection_weight=2.0)
    made.student.module.eval()

    terms = made.terms(batch)

    guide = made.teachers[0](batch.images).levels[5].tokens
    centred = guide - guide.mean(dim=2, keepdim=True)
    normal = centred / (centred.square().mean(dim=2, keepdim=True) + 1e-5).sqrt()
    own = resampled(made.ask(batch.images).levels[4], (4, 4)).tokens
    guess = made.method.projectors[0].linears[0](own)  # 4 × 4 patches are one group
    assert list(terms) == ["label", "attention", "projection", "adversarial", "discriminator"]
    assert terms["projection"].item() == pytest.approx(2 * (guess - normal).square().mean().item(), rel=1e-4)


def test_attention_is_compared_among_patches_alone(lesson, batch):
    made = lesson("cross_architecture", **PLAIN)
    made.student.module.eval()

    terms = made.terms(batch)

    attention = made.teachers[0](batch.images).attentions[5]
    patches = attention.map_tensors(lambda t: t[:, 1:])
    wanted = made.method.attentions[0](resampled(made.ask(batch.images).levels[4], (4, 4)).map, patches)
    assert attention.query.shape == (6, 17, 24)
    assert terms["attention"].item() == pytest.approx(wanted.item(), rel=1e-4)


def test_the_teacher_sees_the_picture_and_the_student_a_view_of_it(lesson, batch, monkeypatch):
    made = lesson("cross_architecture", view_probability=1.0, mask_share=0.3)
    seen = {}
    ask, answer = made.ask, type(made.teachers[0]).__call__
    monkeypatch.setattr(made, "ask", lambda images: seen.update(student=images) or ask(images))
    monkeypatch.setattr(
        type(made.teachers[0]), "__call__", lambda self, images: seen.update(teacher=images) or answer(self, images)
    )

    made.terms(batch)

    assert seen["teacher"].equal(batch.images)
    assert not torch.allclose(seen["student"], batch.images, atol=0.05)


def test_what_the_teacher_saw_moves_like_the_view(lesson, batch):
    made = lesson("cross_architecture")
    said = made.teachers[0](batch.images)
    upside_down = torch.tensor([[-1.0, 0, 0], [0, -1, 0]]).expand(6, 2, 3)

    moved = made.method._seen_through(said, upside_down)

    torch.testing.assert_close(moved.levels[5].tokens, said.levels[5].tokens.flip(1))
    torch.testing.assert_close(moved.attentions[5].key[:, 1:], said.attentions[5].key[:, 1:].flip(1))
    torch.testing.assert_close(moved.attentions[5].key[:, :1], said.attentions[5].key[:, :1])
    assert moved.logits.equal(said.logits)


def test_without_its_weight_there_is_no_discriminator(lesson, batch):
    made = lesson("cross_architecture", adversarial_weight=0.0, logits="kd")

    assert list(made.terms(batch)) == ["label", "distillation", "attention", "projection"]
    assert not any("discriminator" in name for name, _ in made.method.named_parameters())


def test_the_feature_terms_grow_with_the_warmup(lesson, batch):
    cold, warm = lesson("cross_architecture", warmup_epochs=2.0), lesson("cross_architecture")
    moment = StepInfo(step=4, total_steps=10, epoch=0.8, epochs=2)

    assert cold.terms(batch, moment)["projection"].item() == pytest.approx(
        0.5 * warm.terms(batch, moment)["projection"].item(), rel=1e-5
    )


def test_each_term_but_the_discriminators_reaches_the_student(lesson, batch):
    made = lesson("cross_architecture")
    weights = list(made.student.module.parameters())
    for name, term in made.terms(batch).items():
        found = torch.autograd.grad(term, weights, allow_unused=True, retain_graph=True)

        assert any(g is not None and g.abs().sum() > 0 for g in found) == (name != "discriminator"), name


def test_a_teacher_with_windows_is_refused(lesson):
    swin = ("swin_tiny_patch4_window7_224", {"embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2})

    with pytest.raises(InvalidSpec, match="plain ViT") as refused:
        lesson("cross_architecture", teachers=(swin,))

    assert refused.value.errors[0].pointer == "/teachers/0/architecture"

"""Distillation tokens; official values of DeiT, UVC and Co-advise are in test_golden.py."""

import pytest
import torch
import torch.nn.functional as F

from core.losses import co_advise, deit, kd


def deit_inputs():
    torch.manual_seed(0)
    class_logits, token_logits, teacher = (torch.randn(4, 10) for _ in range(3))
    labels = torch.randint(0, 10, (4,))
    return class_logits.requires_grad_(), token_logits.requires_grad_(), teacher, labels


def test_deit_with_a_head_of_another_width_is_rejected():
    with pytest.raises(ValueError, match="same shape"):
        deit(
            torch.zeros(2, 10),
            torch.zeros(2, 10),
            torch.zeros(2, 9),
            torch.zeros(()),
            distillation_type="soft",
            alpha=0.5,
            temperature=1.0,
        )


def test_sample_reduction_matches_the_paper():
    class_logits, token_logits, teacher, _ = deit_inputs()
    base = torch.zeros(())

    def total(reduction):
        return deit(
            class_logits,
            token_logits,
            teacher,
            base,
            distillation_type="soft",
            alpha=1.0,
            temperature=3.0,
            reduction=reduction,
        ).item()

    assert total("sample") == pytest.approx(10 * total("element"), rel=1e-6)


def test_co_advise_adds_each_teachers_weighted_divergence_to_the_labels():
    class_logits, token_logits, teacher, labels = deit_inputs()
    tokens, teachers = [token_logits, token_logits * 2], [teacher, teacher.flip(0)]
    expected = F.cross_entropy(class_logits, labels) + sum(
        weight * kd(token, by, temperature=3.0) for weight, token, by in zip((0.5, 2), tokens, teachers, strict=True)
    )

    loss = co_advise(class_logits, tokens, teachers, labels, temperature=3.0, weights=[0.5, 2])

    torch.testing.assert_close(loss, expected)


def test_co_advise_accepts_hard_and_soft_labels():
    class_logits, token_logits, teacher, labels = deit_inputs()
    one_hot = F.one_hot(labels, 10).float()

    by_class, by_probability = (
        co_advise(class_logits, [token_logits], [teacher], target) for target in (labels, one_hot)
    )

    torch.testing.assert_close(by_class, by_probability)


def test_co_advise_needs_a_token_per_teacher():
    class_logits, token_logits, teacher, labels = deit_inputs()

    with pytest.raises(ValueError, match="equal numbers of tokens"):
        co_advise(class_logits, [token_logits], [teacher, teacher], labels)

"""The distillation token's loss, against DeiT's and UVC's official numbers."""

import pytest
import torch
import torch.nn.functional as F

from core.losses import deit


def deit_inputs():
    """deit/losses.py: torch.manual_seed(0), then s_cls, s_dist, t ~ randn(4, 10) and y ~ randint(10)."""
    torch.manual_seed(0)
    class_logits, token_logits, teacher = (torch.randn(4, 10) for _ in range(3))
    labels = torch.randint(0, 10, (4,))
    return class_logits.requires_grad_(), token_logits.requires_grad_(), teacher, labels


@pytest.mark.parametrize(
    ("kind", "alpha", "temperature", "expected", "class_gradient", "token_gradient"),
    [
        ("none", 0.5, 1.0, 2.700484514, 0.501317646, None),
        ("soft", 0.5, 1.0, 1.384764075, 0.250658823, 0.01029861),
        ("soft", 1.0, 3.0, 0.076246232, 0.0, 0.020229732),
        ("hard", 0.5, 1.0, 2.796295166, 0.250658823, 0.256042689),
    ],
)
def test_deit_gives_the_official_values(kind, alpha, temperature, expected, class_gradient, token_gradient):
    class_logits, token_logits, teacher, labels = deit_inputs()
    base = F.cross_entropy(class_logits, labels)

    loss = deit(class_logits, token_logits, teacher, base, distillation_type=kind, alpha=alpha, temperature=temperature)
    loss.backward()

    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert class_logits.grad.norm().item() == pytest.approx(class_gradient, rel=1e-5, abs=1e-9)
    if token_gradient is None:
        assert token_logits.grad is None
    else:
        assert token_logits.grad.norm().item() == pytest.approx(token_gradient, rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "alpha", "temperature", "expected", "class_gradient", "token_gradient"),
    [
        ("none", 0.1, 1.0, 3.5459192332083362, 0.3381384539512858, None),
        ("soft", 0.1, 1.0, 3.252327288232317, 0.3043246085561572, 0.006966787647864026),
        ("soft", 0.5, 3.0, 2.264031287246018, 0.1690692269756429, 0.049248131003795506),
        ("hard", 0.1, 1.0, 3.6560915132413063, 0.3043246085561572, 0.05792987446955825),
    ],
)
def test_deit_with_mixed_labels_gives_uvcs_values(kind, alpha, temperature, expected, class_gradient, token_gradient):
    torch.manual_seed(0)
    class_logits, token_logits, teacher = (3.0 * torch.randn(4, 7) for _ in range(3))
    targets = torch.softmax(torch.randn(4, 7), dim=-1)
    base = F.cross_entropy(class_logits.requires_grad_(), targets)

    loss = deit(
        class_logits,
        token_logits.requires_grad_(),
        teacher,
        base,
        distillation_type=kind,
        alpha=alpha,
        temperature=temperature,
    )
    loss.backward()

    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert class_logits.grad.norm().item() == pytest.approx(class_gradient, rel=1e-5)
    if token_gradient is not None:
        assert token_logits.grad.norm().item() == pytest.approx(token_gradient, rel=1e-5)


def test_deit_with_a_head_of_another_width_is_refused():
    with pytest.raises(ValueError, match="one shape"):
        deit(
            torch.zeros(2, 10),
            torch.zeros(2, 10),
            torch.zeros(2, 9),
            torch.zeros(()),
            distillation_type="soft",
            alpha=0.5,
            temperature=1.0,
        )


def test_the_sample_reduction_is_the_papers_formula():
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

"""Co-advise: official values, the head of each teacher, and errors."""

import pytest
import torch
from torch import nn

from core.errors import InvalidSpec, SpecCannotRun
from core.losses import co_advise
from core.methods import Batch, Outputs, StepInfo


@pytest.fixture
def outputs():
    """Draws of the golden values: class head, both tokens' heads, both teachers, mixed labels."""
    torch.manual_seed(0)
    drawn = [3 * torch.randn(4, 7) for _ in range(5)]
    labels = torch.randn(4, 7).softmax(dim=1)
    heads = [logits.requires_grad_() for logits in drawn[:3]]
    return heads, drawn[3:], Batch(torch.zeros(4, 1, 16, 16), labels, torch.arange(4))


def test_terms_match_the_official_code(make_harness, outputs):
    (head, *tokens), teachers, batch = outputs
    method = make_harness("co_advise").method

    terms = method.loss(batch, Outputs(head, tuple(tokens)), [Outputs(t) for t in teachers], StepInfo())

    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {"label": 3.541103646, "teacher_0": 3.187916476, "teacher_1": 3.041264254}, rel=1e-5
    )
    expected = co_advise(head, tokens, teachers, batch.labels)
    assert sum(terms.values()).item() == pytest.approx(expected.item(), rel=1e-6)


def test_each_term_has_a_gradient_only_in_its_own_head(make_harness, outputs):
    (head, *tokens), teachers, batch = outputs
    method = make_harness("co_advise").method
    terms = method.loss(batch, Outputs(head, tuple(tokens)), [Outputs(t) for t in teachers], StepInfo())

    for head_index, term in enumerate(terms.values()):
        gradients = torch.autograd.grad(term, (head, *tokens), allow_unused=True)
        assert [gradient is not None for gradient in gradients] == [index == head_index for index in range(3)]


def test_weights_and_temperature_match_the_loss_function(make_harness, outputs):
    (head, *tokens), teachers, batch = outputs
    method = make_harness("co_advise", temperature=2.0, teacher_weights=(0.5, 2.0), label_weight=0.0).method

    terms = method.loss(batch, Outputs(head, tuple(tokens)), [Outputs(t) for t in teachers], StepInfo())

    whole = co_advise(head, tokens, teachers, batch.labels, temperature=2.0, weights=(0.5, 2.0))
    label = nn.functional.cross_entropy(head, batch.labels)
    assert sum(terms.values()).item() == pytest.approx((whole - label).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("teachers", "stem"), [(("cnn", "transformer"), "co_advise"), (("cnn", "cnn", "transformer"), "patch")]
)
def test_the_student_has_a_head_per_teacher_and_averages_them_at_inference(teachers, stem, make_harness, batch):
    harness = make_harness("co_advise", teachers=teachers, stem=stem)
    heads = harness.student_outputs(batch.images)

    assert len(heads.token_logits) == len(teachers)
    assert list(harness.terms(batch)) == ["label", *(f"teacher_{index}" for index in range(len(teachers)))]
    module = harness.student.module.eval()
    images = harness.student.preprocessing(batch.images)
    tokens = module.forward_features(images)
    logits = [head(tokens[:, index]) for index, head in enumerate(module.get_classifier())]
    torch.testing.assert_close(module(images), torch.stack(logits).mean(dim=0))


def test_every_teacher_has_a_gradient_in_the_backbone(make_harness, batch):
    harness = make_harness("co_advise", stem="co_advise")
    terms = harness.terms(batch)

    for term in terms.values():
        (gradient,) = torch.autograd.grad(term, harness.student.module.blocks[0].attn.qkv.weight, retain_graph=True)
        assert gradient.abs().sum() > 0


def test_a_wrong_number_of_teacher_weights_is_rejected(make_harness):
    with pytest.raises(InvalidSpec, match="/method/teacher_weights: 3 weights are given for 2 teachers"):
        make_harness("co_advise", teacher_weights=(1, 1, 1))


def test_the_papers_stems_need_two_teachers(make_harness):
    with pytest.raises(InvalidSpec, match="two teachers, and there are 3"):
        make_harness("co_advise", teachers=("cnn", "cnn", "transformer"), stem="co_advise")


def test_a_student_without_tokens_is_rejected(make_harness):
    with pytest.raises(SpecCannotRun, match="distillation tokens"):
        make_harness("co_advise").method.prepare_student(nn.Linear(1, 4))

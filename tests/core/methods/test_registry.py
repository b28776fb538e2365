"""Every method's parameters, implementation and registry line hold together."""

import pytest
import torch

from core.methods import Method, Outputs, build_method, implementation
from core.spec import METHODS


def parameters(name):
    return METHODS[name].params(name=name)


@pytest.mark.parametrize("name", METHODS)
def test_each_name_has_an_implementation_in_the_file_of_that_name(name):
    found = implementation(name)

    assert issubclass(found, Method)
    assert found.__module__ == f"core.methods.{name}"


@pytest.mark.parametrize("name", METHODS)
def test_a_method_gives_finite_named_terms_and_teaches_the_student_alone(name, setting, batch, logits):
    method = build_method(parameters(name), setting)
    student = Outputs(logits(1).requires_grad_(), (logits(2).requires_grad_(),))
    teacher = Outputs(logits(3).requires_grad_())

    terms = method.loss(batch, student, [teacher])
    sum(terms.values()).backward()

    assert "label" in terms
    assert all(term.ndim == 0 and term.dtype == torch.float32 and term.isfinite() for term in terms.values())
    assert student.logits.grad.abs().sum() > 0
    assert teacher.logits.grad is None


@pytest.mark.parametrize("name", METHODS)
def test_a_method_gives_the_same_for_a_batch_in_another_order(name, setting, batch, logits):
    method = build_method(parameters(name), setting)
    order = torch.tensor([3, 1, 5, 0, 4, 2])

    def total(rows):
        permuted = type(batch)(batch.images[rows], batch.labels[rows], batch.indices[rows])
        student = Outputs(logits(1)[rows], (logits(2)[rows],))
        return sum(method.loss(permuted, student, [Outputs(logits(3)[rows])]).values()).item()

    assert total(order) == pytest.approx(total(torch.arange(6)), rel=1e-6)


def test_outputs_of_a_model_with_two_heads_keep_the_class_head_apart(logits):
    outputs = Outputs.of((logits(1), logits(2)))

    assert outputs.logits.equal(logits(1))
    assert [t.equal(logits(2)) for t in outputs.token_logits] == [True]

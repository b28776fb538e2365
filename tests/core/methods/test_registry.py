"""Every method's parameters, implementation and registry line hold together."""

import ast
import inspect
from dataclasses import dataclass, replace

import pytest
import torch

from core.methods import Batch, Method, Outputs, StepInfo, implementation
from core.models.built import BuiltModel
from core.spec import METHODS
from core.teacher.layout import layout_of


@dataclass
class Silent:
    """A teacher that is there and says nothing."""

    built: BuiltModel

    def __call__(self, images):
        raise AssertionError("asked")


NORMS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)
START = StepInfo(step=9, total_steps=10, epoch=1.8, epochs=2)
BEGINNING = StepInfo(step=0, total_steps=10, epoch=0.0, epochs=2)


def gradients(lesson, batch, moment=START):
    """By parameter name, what one step would change."""
    parameters = lesson.parameters()
    terms = lesson.terms(batch, moment)
    found = torch.autograd.grad(sum(terms.values()), list(parameters.values()), allow_unused=True)
    return terms, dict(zip(parameters, found, strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_each_name_has_an_implementation_in_the_file_of_that_name(name):
    found = implementation(name)

    assert issubclass(found, Method)
    assert found.__module__ == f"core.methods.{name}"


@pytest.mark.parametrize("name", METHODS)
def test_methods_do_not_know_each_other(name):
    tree = ast.parse(inspect.getsource(inspect.getmodule(implementation(name))))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}

    assert not imported & {f"core.methods.{other}" for other in METHODS}
    assert not imported & {f"core.spec.methods.{other}" for other in METHODS if other != name}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_gives_finite_named_terms_and_teaches_the_student_alone(name, lesson, batch):
    made = lesson(name)
    terms, changes = gradients(made, batch)

    assert terms
    assert all(term.ndim == 0 and term.dtype == torch.float32 and term.isfinite() for term in terms.values())
    assert any(g is not None and g.abs().sum() > 0 for n, g in changes.items() if not n.startswith("method."))
    assert not any(p.requires_grad for teacher in made.teachers for p in teacher.built.module.parameters())
    _, at_first = gradients(made, batch, BEGINNING)  # some learn in a part of the training alone
    unmoved = [n for n, g in changes.items() if n.startswith("method.") and g is None and at_first[n] is None]
    assert not unmoved, "these modules of the method would never learn"


@pytest.mark.parametrize("name", METHODS)
def test_a_method_takes_mixed_labels(name, lesson, mixed):
    terms = lesson(name).terms(mixed, START)

    assert all(term.isfinite() for term in terms.values())


@pytest.mark.parametrize("name", [name for name in METHODS if name not in {"kd", "scratch"}])
@pytest.mark.parametrize("other", ["kd", "scratch"])
def test_a_method_teaches_something_else_than_the_baselines(name, other, lesson, batch):
    student = (METHODS[name].params.about.needs.student_families or ("transformer",))[0]
    terms, mine = gradients(lesson(name), batch)
    others, theirs = gradients(lesson(other, student=student), batch)

    assert terms.keys() != others.keys() or any(terms[n] != others[n] for n in terms)
    shared = [n for n in theirs if mine.get(n) is not None and theirs[n] is not None]
    same = [mine[n].shape == theirs[n].shape and torch.allclose(mine[n], theirs[n]) for n in shared]
    assert not all(same) or mine.keys() != theirs.keys()


@pytest.mark.parametrize("name", METHODS)
def test_a_method_goes_on_from_its_state(name, lesson, batch):
    first, second = lesson(name), lesson(name)
    first.terms(batch, START)
    second.method.load_state_dict(first.method.state_dict(), strict=True)
    second.student.module.load_state_dict(first.student.module.state_dict(), strict=True)

    again = {n: t.item() for n, t in second.terms(batch, START).items()}
    assert again == {n: t.item() for n, t in first.terms(batch, START).items()}


# Their terms draw something for each picture, or ask a network that draws; what is drawn differs in a part.
DRAWING = {"mgd", "vitkd", "cross_architecture", "uvc", "crd", "manifold"}
WHOLE_BATCHES = {"dist", "rkd", "pkt", "similarity", "crd", "manifold", "uvc", "feature"}


def mean_of_parts(lesson, name, batch, **params):
    """The terms of the whole batch, and the means of those of its two halves."""
    middle = len(batch.labels) // 2
    halves = [
        Batch(batch.images[part], batch.labels[part], batch.indices[part])
        for part in (slice(0, middle), slice(middle, None))
    ]
    found = []
    for part in (batch, *halves):
        made = lesson(name, **params)
        for whole in (made.student.module, made.method):  # statistics of a part are its own, and are not meant here
            for module in whole.modules():
                if isinstance(module, NORMS):
                    module.eval()
        found.append(made.terms(part, START))
    whole, one, other = found
    return whole, {term: (one[term] + other[term]) / 2 for term in whole}


@pytest.mark.parametrize("name", sorted(set(METHODS) - DRAWING))
def test_a_method_that_says_so_is_the_mean_of_its_parts(name, lesson, batch):
    whole, parts = mean_of_parts(lesson, name, batch)
    alike = all(torch.allclose(whole[term], parts[term], rtol=1e-4, atol=1e-6) for term in whole)

    assert lesson(name).method.per_sample == (name not in WHOLE_BATCHES)
    assert alike == (name not in WHOLE_BATCHES)


@pytest.mark.parametrize("name", sorted(DRAWING))
def test_a_method_that_draws_says_whether_it_compares_samples(name, lesson):
    assert lesson(name).method.per_sample == (name not in WHOLE_BATCHES)


@pytest.mark.parametrize(
    ("name", "params", "per_sample"),
    [
        ("dist", {"gamma": 0.0}, True),
        ("manifold", {"sample_weight": 0.0, "random_weight": 0.0}, True),
        ("fitnets", {"logits": "dist"}, False),
        ("manifold", {"sample_weight": 0.0, "random_weight": 0.0, "logits": "dist"}, False),
        ("masked_teacher", {"logits": "dist"}, False),
        ("feature", {"patch_weight": 0.0}, True),
    ],
)
def test_whether_samples_are_compared_depends_on_the_parameters(name, params, per_sample, lesson):
    assert lesson(name, **params).method.per_sample is per_sample


@pytest.mark.parametrize("name", METHODS)
def test_a_method_that_reads_answers_learns_the_same_from_stored_ones_and_asks_no_teacher(name, lesson, batch):
    made = lesson(name)
    if not (made.method.cacheable and made.teachers):
        pytest.skip("its teachers are asked in every step")
    online = {name: term.item() for name, term in lesson(name).terms(batch, BEGINNING).items()}
    layouts = [layout_of(t.built, made.method.teacher_request, made.method.top_k) for t in made.teachers]
    said = [layout.pack(t(batch.images)) for layout, t in zip(layouts, made.teachers, strict=True)]

    def stored(_batch):
        return [layout.unpack(rows) for layout, rows in zip(layouts, said, strict=True)]

    made.teachers = [Silent(teacher.built) for teacher in made.teachers]
    torch.manual_seed(5)
    terms = made.method.terms(batch, replace(made.room(BEGINNING), answers=stored))

    assert {name: term.item() for name, term in terms.items()} == pytest.approx(online, rel=0.02, abs=0.02)


@pytest.mark.parametrize("name", METHODS)
def test_what_the_catalogue_says_of_a_methods_store_is_what_it_does(name, lesson):
    method, about = lesson(name).method, METHODS[name].params.about
    stored = bool(method.cacheable and about.needs.max_teachers != 0)
    tapped = {word for word in ("levels", "last", "embedding", "attentions") if getattr(method.teacher_request, word)}
    logits = {"sparse logits" if method.top_k else "logits"} if method.teacher_request.logits else set()

    assert set(about.caches) >= (tapped | logits if stored else set())
    assert bool(about.caches) == stored


def test_outputs_of_a_model_with_two_heads_keep_the_class_head_apart(logits):
    outputs = Outputs.of((logits(1), logits(2)))

    assert outputs.logits.equal(logits(1))
    assert [t.equal(logits(2)) for t in outputs.token_logits] == [True]

"""Parameters, implementation and registry entry of every method are consistent."""

import ast
import inspect
from dataclasses import dataclass, replace

import pytest
import torch

from core.methods import Batch, Method, Outputs, StepInfo, implementation
from core.methods.base import is_label_term
from core.models.built import BuiltModel
from core.spec import METHODS
from core.teacher.layout import layout_of
from core.train.balance import COSINE, GradientBalance
from core.train.optimizer import build_optimizer
from core.train.process_group import SINGLE_PROCESS


@dataclass
class UncallableTeacher:
    """A teacher that fails when it is called."""

    built: BuiltModel

    def __call__(self, images):
        raise AssertionError("the teacher was called")


NORMS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)
LAST_STEP = StepInfo(step=9, total_steps=10, epoch=1.8, epochs=2)
FIRST_STEP = StepInfo(step=0, total_steps=10, epoch=0.0, epochs=2)


def gradients(make_harness, batch, info=LAST_STEP):
    """Return the terms of one step, and the gradients by parameter name."""
    parameters = make_harness.parameters()
    terms = make_harness.terms(batch, info)
    found = torch.autograd.grad(sum(terms.values()), list(parameters.values()), allow_unused=True)
    return terms, dict(zip(parameters, found, strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_each_name_has_an_implementation_in_the_file_of_that_name(name):
    found = implementation(name)

    assert issubclass(found, Method)
    assert found.__module__ == f"core.methods.{name}"


@pytest.mark.parametrize("name", METHODS)
def test_methods_do_not_import_each_other(name):
    tree = ast.parse(inspect.getsource(inspect.getmodule(implementation(name))))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}

    assert not imported & {f"core.methods.{other}" for other in METHODS}
    assert not imported & {f"core.spec.methods.{other}" for other in METHODS if other != name}


@pytest.mark.parametrize("name", METHODS)
def test_terms_are_finite_and_only_student_and_method_have_gradients(name, make_harness, batch, mixed):
    harness = make_harness(name)
    terms, changes = gradients(harness, batch)
    parameters = METHODS[name].params.model_validate({"name": name, **METHODS[name].params.info.example})

    assert terms
    assert not parameters.reads_labels or any("label" in term for term in terms)
    assert all(term.ndim == 0 and term.dtype == torch.float32 and term.isfinite() for term in terms.values())
    assert any(g is not None and g.abs().sum() > 0 for n, g in changes.items() if not n.startswith("method."))
    assert not any(p.requires_grad for teacher in harness.teachers for p in teacher.built.module.parameters())
    _, at_first = gradients(harness, batch, FIRST_STEP)  # some learn in a part of the training alone
    unmoved = [n for n, g in changes.items() if n.startswith("method.") and g is None and at_first[n] is None]
    assert not unmoved, "these modules of the method would never learn"
    assert all(term.isfinite() for term in harness.terms(mixed, LAST_STEP).values())


@pytest.mark.parametrize("name", METHODS)
def test_label_terms_are_named_so_that_gradients_can_be_balanced(name, make_harness, batch):
    """``balanceable`` says whether there are label terms and others; a label term changes with the labels."""
    harness = make_harness(name)
    terms = harness.terms(batch, FIRST_STEP)
    other_labels = harness.terms(replace(batch, labels=(batch.labels + 1) % 4), FIRST_STEP)
    with_labels = {term for term in terms if is_label_term(term)}

    declared = harness.method.balanceable and METHODS[name].params.info.needs.labels
    assert declared == (0 < len(with_labels) < len(terms))
    assert all(terms[term] != other_labels[term] for term in with_labels)
    if declared:
        modules = [harness.student.module, harness.method]
        optimizer = build_optimizer(modules, learning_rate=0.1, weight_decay=0.0)
        balance = GradientBalance("projected", optimizer, modules, SINGLE_PROCESS)
        balance.backward(other_labels, 1.0)
        assert -1 <= balance.combine()[0][COSINE] <= 1


@pytest.fixture(scope="module")
def baselines():
    """Terms and gradients of `kd` and `scratch`, by method and family of the student."""
    return {}


@pytest.mark.parametrize("name", [name for name in METHODS if name not in {"kd", "scratch"}])
def test_gradients_differ_from_the_baselines(name, make_harness, batch, baselines):
    student = (METHODS[name].params.info.needs.student_families or ("transformer",))[0]
    terms, own = gradients(make_harness(name), batch)
    for other in ("kd", "scratch"):
        if (other, student) not in baselines:
            baselines[other, student] = gradients(make_harness(other, student=student), batch)
        others, given = baselines[other, student]

        assert terms.keys() != others.keys() or any(terms[n] != others[n] for n in terms)
        shared = [n for n in given if own.get(n) is not None and given[n] is not None]
        same = [own[n].shape == given[n].shape and torch.allclose(own[n], given[n]) for n in shared]
        assert not all(same) or own.keys() != given.keys()


@pytest.mark.parametrize("name", METHODS)
def test_a_method_resumes_from_its_state(name, make_harness, batch):
    first, second = make_harness(name), make_harness(name)
    first.terms(batch, LAST_STEP)
    second.method.load_state_dict(first.method.state_dict(), strict=True)
    second.student.module.load_state_dict(first.student.module.state_dict(), strict=True)

    again = {n: t.item() for n, t in second.terms(batch, LAST_STEP).items()}
    assert again == {n: t.item() for n, t in first.terms(batch, LAST_STEP).items()}


WITHOUT_LABELS = [
    (name, {parameter: values[0] for parameter, values in entry.params.label_free.items()})
    for name, entry in METHODS.items()
    if entry.params.label_free or not entry.params.info.needs.labels
]


@pytest.mark.parametrize(("name", "params"), WITHOUT_LABELS, ids=[name for name, _ in WITHOUT_LABELS])
def test_methods_that_read_no_labels_have_the_same_terms_without_them(name, params, make_harness, batch):
    parameters = METHODS[name].params.model_validate({"name": name, **METHODS[name].params.info.example, **params})
    unlabeled = Batch(batch.images, torch.full((6,), -1), batch.indices)

    known = {term: value.item() for term, value in make_harness(name, **params).terms(batch, LAST_STEP).items()}
    unknown = {term: value.item() for term, value in make_harness(name, **params).terms(unlabeled, LAST_STEP).items()}

    assert not parameters.reads_labels
    assert "label" not in known
    assert unknown == known


# Their terms draw something for each image, or ask a network that draws; what is drawn differs in a part.
WITH_RANDOM_DRAWS = {"mgd", "vitkd", "cross_architecture", "uvc", "crd", "manifold"}
# The variance of vid is measured on the first batch, over all ranks: a part alone would give another.
PARTS_PARAMS = {"vid": {"initial_variance": 5.0}}
COMPARE_SAMPLES = {"dist", "rkd", "pkt", "similarity", "crd", "manifold", "uvc", "feature", "self_distillation"}


def mean_of_parts(make_harness, name, batch, **params):
    """The method, the terms of the full batch, and the means over its two halves."""
    middle = len(batch.labels) // 2
    halves = [
        Batch(batch.images[part], batch.labels[part], batch.indices[part])
        for part in (slice(0, middle), slice(middle, None))
    ]
    found = []
    for part in (batch, *halves):
        harness = make_harness(name, **params)
        for network in (
            harness.student.module,
            harness.method,
        ):  # batch statistics of a part would differ
            for module in network.modules():
                if isinstance(module, NORMS):
                    module.eval()
        found.append(harness.terms(part, LAST_STEP))
    full, first, second = found
    return harness.method, full, {term: (first[term] + second[term]) / 2 for term in full}


@pytest.mark.parametrize("name", sorted(set(METHODS) - WITH_RANDOM_DRAWS))
def test_terms_of_per_sample_methods_are_means_over_parts_of_a_batch(name, make_harness, batch):
    method, full, parts = mean_of_parts(make_harness, name, batch, **PARTS_PARAMS.get(name, {}))
    is_mean = all(torch.allclose(full[term], parts[term], rtol=1e-4, atol=1e-6) for term in full)

    assert method.per_sample == (name not in COMPARE_SAMPLES)
    assert is_mean == (name not in COMPARE_SAMPLES)


@pytest.mark.parametrize("name", sorted(WITH_RANDOM_DRAWS))
def test_methods_with_random_draws_declare_per_sample(name, make_harness):
    assert make_harness(name).method.per_sample == (name not in COMPARE_SAMPLES)


@pytest.mark.parametrize(
    ("name", "params", "per_sample"),
    [
        ("dist", {"gamma": 0.0}, True),
        ("manifold", {"sample_weight": 0.0, "random_weight": 0.0}, True),
        ("fitnets", {"logits": "dist"}, False),
        ("manifold", {"sample_weight": 0.0, "random_weight": 0.0, "logits": "dist"}, False),
        ("masked_teacher", {"logits": "dist"}, False),
        ("feature", {"patch_weight": 0.0}, True),
        ("self_distillation", {"hint": "mean_square"}, True),
        ("self_distillation", {"hint_weight": 0.0}, True),
        ("self_distillation", {"variant": "ema_teacher"}, True),
    ],
)
def test_per_sample_depends_on_the_parameters(name, params, per_sample, make_harness):
    assert make_harness(name, **params).method.per_sample is per_sample


def check_catalog(info, method):
    stored = bool(method.cacheable and info.needs.max_teachers != 0)
    tapped = {word for word in ("levels", "last", "embedding", "attentions") if getattr(method.teacher_request, word)}
    logits = {"sparse logits" if method.top_k else "logits"} if method.teacher_request.logits else set()

    assert set(info.caches) >= (tapped | logits if stored else set())
    assert bool(info.caches) == stored


@pytest.mark.parametrize("name", METHODS)
def test_cacheable_methods_give_the_same_terms_from_cached_outputs_without_teachers(name, make_harness, batch):
    """The catalog lists what they cache."""
    harness = make_harness(name)
    check_catalog(METHODS[name].params.info, harness.method)
    if not (harness.method.cacheable and harness.teachers):
        pytest.skip("teachers run in every step")
    online = {name: term.item() for name, term in make_harness(name).terms(batch, FIRST_STEP).items()}
    layouts = [layout_of(t.built, harness.method.teacher_request, harness.method.top_k) for t in harness.teachers]
    packed = [layout.pack(t(batch.images)) for layout, t in zip(layouts, harness.teachers, strict=True)]

    def cached(_batch):
        return [layout.unpack(rows) for layout, rows in zip(layouts, packed, strict=True)]

    harness.teachers = [UncallableTeacher(teacher.built) for teacher in harness.teachers]
    torch.manual_seed(5)
    terms = harness.method.terms(batch, replace(harness.step_context(FIRST_STEP), cached_outputs=cached))

    assert {name: term.item() for name, term in terms.items()} == pytest.approx(online, rel=0.02, abs=0.02)


def test_outputs_of_a_model_with_two_heads_keep_the_class_head_apart(logits):
    outputs = Outputs.from_model_output((logits(1), logits(2)))

    assert outputs.logits.equal(logits(1))
    assert [t.equal(logits(2)) for t in outputs.token_logits] == [True]

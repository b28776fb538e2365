"""Compatibility of methods, students and teachers, checked with the inspector's code."""

import json

import pytest

from core.errors import InvalidSpec
from core.models import structure
from core.models.meta_device import build_on_meta
from core.resolve import resolver
from core.resolve.resolver import resolve
from core.spec import METHODS, parse_job_spec
from core.spec.examples import example_job, example_student, example_teacher
from core.spec.info import DatasetInfo, ModelInfo

DATASET = DatasetInfo(
    num_classes=10, classes=tuple("0123456789"), channels=3, image_size=32, num_train=900, num_test=100
)
VIT, CNN = example_teacher("transformer"), example_teacher("cnn")
STUDENT = example_student("transformer")
TRAINED = ModelInfo(
    architecture=STUDENT["architecture"],
    arguments={**STUDENT["arguments"], "img_size": 32, "num_classes": 10, "in_chans": 3},
    num_classes=10,
    channels=3,
    image_size=32,
    parameters=120_000,
    size_bytes=480_000,
)


@pytest.fixture(scope="module", autouse=True)
def shared_modules():
    """No method changes the networks that the checks of several jobs share."""
    used, build = {}, resolver.shared_on_meta

    def record(architecture, arguments):
        return used.setdefault((architecture, arguments), build(architecture, arguments))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resolver, "shared_on_meta", record)
        yield
    assert used
    for (architecture, arguments), module in used.items():
        assert state_of(module) == state_of(build_on_meta(architecture, json.loads(arguments))), architecture


def state_of(module):
    parts = {
        name: (
            part.extra_repr(),
            part.training,
            len(part._forward_hooks),
            len(part._forward_pre_hooks),
            sorted(vars(part)),
        )
        for name, part in module.named_modules()
    }
    return parts, {
        name: (tensor.shape, tensor.requires_grad) for name, tensor in module.state_dict(keep_vars=True).items()
    }


def resolved(document):
    return resolve(
        parse_job_spec(document), DATASET, {"job_trained": TRAINED}, threads=1, datasets={"ds_pool": DATASET}
    )


def errors_of(name, *, parameters=None, **changes):
    """Return the errors of a job by pointer; ``parameters`` overrides parameters of the method."""
    document = {**example_job(name), **changes}
    document["method"] = {**document["method"], **(parameters or {})}
    with pytest.raises(InvalidSpec) as caught:
        resolved(document)
    return {error.pointer: error.detail for error in caught.value.errors}


@pytest.mark.parametrize("name", METHODS)
def test_the_example_of_each_method_is_accepted(name):
    found = resolved(example_job(name))

    assert found.spec.method.name == name
    assert found.estimate["total_steps"] > 0
    # The dataset is small, and the student of one example is larger than its teacher.
    assert {warning["code"] for warning in found.estimate["warnings"]} <= {"few_steps", "teacher_smaller"}


LEVELLED = [name for name, entry in METHODS.items() if "levels" in entry.params.info.needs.student]
FREE = [name for name in LEVELLED if not METHODS[name].params.info.needs.student_families]


@pytest.fixture
def without_levels(monkeypatch):
    """Make every architecture look as if it had no feature levels."""
    monkeypatch.setattr(structure, "_levels", lambda module, images: ())
    structure._inspect.cache_clear()
    yield
    structure._inspect.cache_clear()


@pytest.mark.parametrize("name", FREE[:3])  # one check serves all
def test_an_architecture_without_feature_levels_is_rejected(name, without_levels):
    found = errors_of(name)

    assert "/student/architecture" in found
    assert STUDENT["architecture"] in found["/student/architecture"]
    assert "use another" in found["/student/architecture"]


IMPOSSIBLE = [
    (
        "manifold",
        {"teachers": [{**VIT, "arguments": {**VIT["arguments"], "patch_size": 8}}]},
        "/student/architecture",
        ("8 × 8", "4 × 4", "patch_size"),
    ),
    ("uvc", {"student": STUDENT}, "/student/weights", ("trained student", "give it weights")),
    ("attention_probe", {"method": {"name": "attention_probe"}}, "/method/pool", ("missing", "ds_")),
    ("co_advise", {"teachers": [CNN]}, "/teachers", ("at least 2 teacher", "add one")),
    ("cross_architecture", {"student": STUDENT}, "/student/architecture", ("needs a cnn", "resnet")),
    ("deit", {"student": example_student("cnn")}, "/student/architecture", ("needs a transformer", "vit_")),
    (
        "proteus",
        {"teachers": [{**VIT, "arguments": {**VIT["arguments"], "patch_size": 8}}]},
        "/student/architecture",
        ("8 × 8", "4 × 4", "patch_size"),
    ),
    ("tinymim", {"parameters": {"heads": 5}}, "/method/heads", ("5 heads do not divide", "set heads to one of")),
    (
        "scalekd",
        {"teachers": [{"architecture": "mobilenetv3_small_050", "weights": "train"}]},
        "/teachers/0/architecture",
        ("last stage", "through_teacher"),
    ),
    ("masked_teacher", {"teachers": [CNN]}, "/teachers/0/architecture", ("needs a transformer", "vit_")),
    (
        "dearkd",
        {"teachers": [{"architecture": "convnext_atto", "weights": "train"}], "parameters": {"data_free": True}},
        "/method/data_free",
        ("batch norms", "resnet"),
    ),
]


@pytest.mark.parametrize(("name", "changes", "pointer", "words"), IMPOSSIBLE, ids=[case[0] for case in IMPOSSIBLE])
def test_an_invalid_pair_is_rejected_with_the_field_and_a_fix(name, changes, pointer, words):
    if name not in METHODS:
        pytest.skip(f"{name} is not implemented")
    found = errors_of(name, **changes)

    assert pointer in found, found
    missing = [word for word in words if word.lower() not in found[pointer].lower()]
    assert not missing, found[pointer]

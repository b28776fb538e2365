"""A plan equals the model that is built from it and the model that the resolver reports."""

import pytest
import torch

from core.errors import InvalidSpec
from core.methods import plan_student_variant
from core.models.build import build_student, build_teacher, stored_models
from core.models.meta_device import count_parameters
from core.models.plan import class_mismatch, decode_size, model_inputs, plan_student, plan_teacher
from core.models.safetensors_header import read_model_info
from core.models.structure import inspect_structure
from core.models.weights import save_folder
from core.resolve.resolver import resolve
from core.spec import StudentSpec, TeacherSpec, parse_job_spec
from core.spec.info import DatasetInfo, InputInfo

VIT = "vit_tiny_patch16_224"
PRETRAINED = "test_vit.r160_in1k"
DATASET = DatasetInfo(num_classes=1000, channels=1, image_size=8, num_train=90, num_test=30)
INPUTS = DATASET.input_info()


@pytest.fixture
def folders(tiny_vit, tmp_path):
    """Folders of a stored ViT, as an upload and as a job's student, and of a CNN without an image size."""
    specs = {
        "vit": StudentSpec(architecture=VIT, arguments={**tiny_vit, "img_size": 16}),
        "cnn": StudentSpec(architecture="resnet10t"),
    }
    for name, spec in specs.items():
        built = build_student(plan_student(spec, INPUTS))
        save_folder(
            built.module,
            tmp_path / name,
            architecture=built.architecture,
            arguments=built.arguments,
            preprocessing=built.preprocessing,
            any_size=name == "cnn",
        )
    return {"mdl_vit": tmp_path / "vit", "job_vit": tmp_path / "vit", "mdl_cnn": tmp_path / "cnn"}


def job(student, *teachers, method=None, image_size=None):
    return parse_job_spec(
        {
            "dataset": "ds_x",
            "student": student,
            "teachers": list(teachers),
            "method": method or {"name": "scratch"},
            "training": {"image_size": image_size, "epochs": 1, "batch_size": 30},
        }
    )


def check_built(plan, built):
    """The plan describes the built model."""
    assert (built.architecture, dict(built.arguments)) == (plan.architecture, plan.arguments)
    assert built.preprocessing == plan.preprocessing
    assert (built.num_classes, built.classes) == (plan.num_classes, plan.classes)
    images_BCHW = torch.rand(2, plan.channels, plan.image_size, plan.image_size)
    assert built.module.eval()(images_BCHW).shape == (2, plan.num_classes)


def check_reported(plan, built, figures):
    """The resolver reports the built model."""
    assert (figures["architecture"], figures["image_size"]) == (plan.architecture, plan.image_size)
    assert figures["parameters"] == count_parameters(built.module)


VITS = [
    (
        {
            "architecture": VIT,
            "arguments": {"img_size": 8, "patch_size": 2, "embed_dim": 32, "depth": 2, "num_heads": 2},
        },
        8,
    ),
    ({"architecture": PRETRAINED, "weights": "pretrained"}, 160),
    ({"architecture": VIT, "weights": "mdl_vit"}, 16),
    ({"architecture": VIT, "weights": "job_vit"}, 16),
]
CNNS = [({"architecture": "resnet10t"}, 8), ({"architecture": "resnet10t", "weights": "mdl_cnn"}, 8)]
VARIANTS = {
    "deit": ({"name": "deit"}, {"architecture": "resnet10t", "weights": "mdl_cnn"}),
    "minivit": (
        {"name": "minivit", "relation_weight": 0, "hidden_weight": 0},
        {"architecture": VIT, "weights": "mdl_vit"},
    ),
}


def check_student(spec, image_size, folders, hub):
    """Resolve, plan and build the student of ``spec`` and compare the results; returns the plan."""
    infos = {name: read_model_info(path) for name, path in folders.items()}
    resolution = resolve(spec, DATASET, infos, threads=1)
    spec = resolution.spec
    requested = plan_student(
        spec.student,
        model_inputs(spec, INPUTS),
        image_size=spec.training.image_size,
        models=stored_models(spec.student, folders),
    )
    teachers = [plan_teacher(teacher, INPUTS, models=stored_models(teacher, folders)) for teacher in spec.teachers]
    plan = plan_student_variant(
        spec.method,
        requested,
        teachers=lambda: [inspect_structure(t.architecture, t.arguments, t.image_size) for t in teachers],
    )
    built = build_student(plan, folders=folders, hub=hub[0], drop_path=0.1)

    assert plan.image_size == image_size
    assert plan.base == (None if plan.variant is None else requested)
    check_built(plan, built)
    check_reported(plan, built, resolution.estimate["student"])
    return plan


@pytest.mark.parametrize(("student", "image_size"), VITS + CNNS)
def test_a_students_plan_is_what_is_built_and_reported(student, image_size, folders, hub):
    assert check_student(job(student), image_size, folders, hub).variant is None


@pytest.mark.parametrize(
    ("method", "student", "image_size"),
    [*(("deit", *student) for student in VITS), *(("minivit", *student) for student in VITS[:2])],
)
def test_a_variants_plan_is_what_is_built_and_reported(student, image_size, method, folders, hub):
    params, teacher = VARIANTS[method]
    spec = job(student, teacher, method=params)

    assert check_student(spec, image_size, folders, hub).variant is not None


TEACHERS = [
    ({"architecture": "resnet10t", "weights": "random"}, 32),
    ({"architecture": VIT, "weights": "random", "arguments": {"img_size": 16, "patch_size": 4, "depth": 1}}, 16),
    ({"architecture": "resnet10t", "weights": "train"}, 32),
    ({"architecture": "resnet10t", "weights": "train", "training": {"image_size": 24}}, 24),
    ({"architecture": PRETRAINED, "weights": "pretrained"}, 160),
    ({"architecture": VIT, "weights": "mdl_vit"}, 16),
    ({"architecture": VIT, "weights": "job_vit"}, 16),
    ({"architecture": "resnet10t", "weights": "mdl_cnn"}, 32),
]


@pytest.mark.parametrize(("teacher", "image_size"), TEACHERS)
def test_a_teachers_plan_is_what_is_built_and_reported(teacher, image_size, folders, hub):
    spec = job({"architecture": "resnet10t"}, teacher, method={"name": "kd"}, image_size=32)
    resolution = resolve(spec, DATASET, {name: read_model_info(path) for name, path in folders.items()}, threads=1)
    (resolved,) = resolution.spec.teachers
    inputs = model_inputs(resolution.spec, INPUTS, resolved)
    plan = plan_teacher(resolved, inputs, image_size=32, models=stored_models(resolved, folders))
    built = build_teacher(plan, num_classes=inputs.num_classes, folders=folders, hub=hub[0])

    assert plan.image_size == image_size
    assert not built.module.training
    check_built(plan, built)
    check_reported(plan, built, resolution.estimate["teachers"][0])


def test_only_teachers_that_are_trained_use_the_classes_of_a_method_without_a_classifier():
    teacher = {"architecture": "resnet10t", "weights": "train"}
    spec = job({"architecture": "resnet10t"}, teacher, method={"name": "feature"})
    (trained,) = spec.teachers
    given = trained.model_copy(update={"weights": "random"})

    assert model_inputs(spec, INPUTS).num_classes is None
    assert model_inputs(spec, INPUTS, given).num_classes is None
    assert model_inputs(spec, INPUTS, trained).num_classes == 1000


@pytest.mark.parametrize(
    ("weights", "num_classes", "fits"),
    [("random", 7, True), ("pretrained", 1000, True), ("pretrained", None, True), ("pretrained", 7, False)],
)
def test_given_weights_must_have_the_datasets_classes(weights, num_classes, fits):
    plan = plan_teacher(TeacherSpec(architecture=PRETRAINED, weights=weights), InputInfo(10, 3, 160))

    assert (class_mismatch(plan, num_classes) is None) == fits


@pytest.mark.parametrize(
    ("spec", "pointer"),
    [
        (StudentSpec(architecture=VIT, weights="mdl_other"), "/weights"),
        (StudentSpec(architecture="vit_small_patch16_36x1_224", weights="pretrained"), "/weights"),
        (StudentSpec(architecture=VIT, arguments={"img_size": 2048}), "/arguments/img_size"),
        (TeacherSpec(architecture="resnet10t", weights="train"), "/weights"),
    ],
)
def test_an_invalid_spec_is_refused_with_its_field(spec, pointer):
    plan = plan_student if isinstance(spec, StudentSpec) else plan_teacher
    with pytest.raises(InvalidSpec) as caught:
        plan(spec, InputInfo(num_classes=None, channels=1, image_size=8))

    assert [error.pointer for error in caught.value.errors] == [pointer]


def test_planning_draws_no_random_numbers(tiny_vit):
    before = torch.get_rng_state()
    spec = job(
        {"architecture": VIT, "arguments": {**tiny_vit, "img_size": 8}}, {"architecture": VIT}, method={"name": "deit"}
    )
    plan = plan_student_variant(spec.method, plan_student(spec.student, INPUTS), teachers=list)

    assert plan.variant is not None
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("student", "teachers", "largest_image", "expected"),
    [
        (32, [], 500, 32),
        (32, [32, 32], 500, 32),
        (32, [64, 224], 500, 224),
        (224, [32], 500, 224),
        (32, [224], 100, 100),  # enlarged images have no more detail
        (32, [224], 28, 32),
        (224, [384], 28, 224),
    ],
)
def test_images_are_decoded_at_the_largest_size_that_a_network_needs(student, teachers, largest_image, expected):
    assert decode_size(student, teachers, largest_image=largest_image) == expected

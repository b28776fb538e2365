"""Warnings about settings that work but are probably not intended."""

import pytest

from core.errors import InvalidSpec
from core.models.plan import plan_student, plan_teacher
from core.resolve.class_names import misplaced_class
from core.resolve.evaluation_checks import evaluation_warnings
from core.resolve.resolver import resolve
from core.resolve.spec_warnings import _license_warnings
from core.spec import StudentSpec, TeacherSpec, parse_job_spec
from core.spec.info import DatasetInfo, ModelInfo

VIT = "vit_tiny_patch16_224"
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
CIFAR = DatasetInfo(
    num_classes=4, classes=("ape", "Blue Jay", "cat", "dog"), channels=3, image_size=32, num_train=50_000, num_test=100
)


def stored(**changes):
    fields = {
        "architecture": VIT,
        "arguments": {**SMALL, "embed_dim": 96, "num_classes": 4, "in_chans": 3},
        "num_classes": 4,
        "channels": 3,
        "image_size": 32,
        "parameters": 200_000,
        "size_bytes": 800_000,
        "classes": ("ape", "Blue Jay", "cat", "dog"),
    }
    return ModelInfo(**{**fields, **changes})


def codes(dataset=CIFAR, models=None, **change):
    document = {
        "dataset": "ds_x",
        "student": {"architecture": VIT, "arguments": SMALL},
        "teachers": [{"architecture": VIT, "weights": "mdl_a"}],
        "method": {"name": "kd"},
        "training": {"epochs": 20, "batch_size": 128},
        **change,
    }
    estimate = resolve(parse_job_spec(document), dataset, models or {"mdl_a": stored()}, threads=2).estimate
    assert all(warning["message"] for warning in estimate["warnings"])
    return {(warning["code"], warning["field"]) for warning in estimate["warnings"]}


def test_the_job_of_the_readme_has_no_warning():
    change = {
        "teachers": [{"architecture": "resnet18", "weights": "train", "training": {"epochs": 5}}],
        "student": {
            "architecture": VIT,
            "arguments": {"patch_size": 4, "embed_dim": 96, "depth": 6, "num_heads": 3},
        },
        "method": {"name": "deit", "distillation_type": "hard"},
        "training": {"epochs": 20, "image_size": 32},
    }

    assert codes(**change) == set()


def test_a_fitting_stored_teacher_has_no_warning():
    assert codes() == set()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"training": {"epochs": 2, "batch_size": 128}}, ("few_steps", "/training/epochs")),
        ({"teachers": [{"architecture": "resnet18", "weights": "random"}]}, ("random_teacher", "/teachers/0/weights")),
        (
            {"student": {"architecture": VIT, "arguments": {**SMALL, "embed_dim": 192}}},
            ("teacher_smaller", "/teachers/0/architecture"),
        ),
        ({"baseline": True}, ("few_test_images", "/baseline")),
        ({"dataset_": {"channels": 1}}, ("gray_images", "/teachers/0/weights")),
        ({"dataset_": {"classes": tuple("wxyz")}}, ("class_names_differ", "/teachers/0/weights")),
        (
            {"stored": {"channels": 1, "arguments": {**stored().arguments, "in_chans": 1}}},
            ("color_lost", "/teachers/0/weights"),
        ),
        (
            {"stored": {"image_size": 96, "arguments": {**stored().arguments, "img_size": 96}}},
            ("images_enlarged", "/teachers/0"),
        ),
        (
            {"student": {"architecture": VIT, "weights": "mdl_b"}, "other": {"classes": tuple("wxyz")}},
            ("class_names_differ", "/student/weights"),
        ),
    ],
)  # fmt: skip
def test_a_doubtful_setting_has_one_warning(change, expected):
    dataset = CIFAR.model_copy(update=change.pop("dataset_", {}))
    models = {"mdl_a": stored(**change.pop("stored", {})), "mdl_b": stored(**change.pop("other", {}))}

    assert codes(dataset, models, **change) == {expected}


def test_a_test_split_too_small_for_the_gain_has_a_warning_with_the_interval_to_expect():
    spec = parse_job_spec({"dataset": "ds_x", "student": {"architecture": VIT}, "method": {"name": "scratch"}})
    with_baseline = spec.model_copy(update={"baseline": True})
    small = CIFAR.model_copy(update={"num_test": 500})

    (warning,) = evaluation_warnings(with_baseline, small)

    assert (warning.code, warning.field) == ("few_test_images", "/baseline")
    assert "500 images" in warning.message
    assert "±4.4 points" in warning.message
    assert evaluation_warnings(with_baseline, small.model_copy(update={"num_test": 1_000})) == []
    assert evaluation_warnings(spec, small) == []


def test_few_steps_are_no_warning_for_weights_that_are_trained_on():
    change = {"student": {"architecture": VIT, "weights": "mdl_a"}, "training": {"epochs": 2, "batch_size": 128}}

    assert codes(**change) == set()


def test_a_compression_that_is_checked_with_images_of_the_training_has_a_warning():
    document = {
        "dataset": "ds_x",
        "student": {"weights": "mdl_a"},
        "method": {"name": "scratch"},
        "compression": [{"name": "quantize"}],
    }
    warnings = resolve(parse_job_spec(document), CIFAR, {"mdl_a": stored()}, threads=2).estimate["warnings"]

    (warning,) = [each for each in warnings if each["code"] == "held_out_images_seen"]
    assert warning["field"] == "/student/weights"
    assert "max_top1_drop" not in warning["message"]
    assert "change of top-1 on the test images" in warning["fix"]
    assert "set compression in the job that trains the student" in warning["fix"]


def test_a_license_that_forbids_commercial_use_is_named():
    change = {
        "teachers": [],
        "method": {"name": "scratch"},
        "student": {"architecture": "convnextv2_atto.fcmae_ft_in1k", "weights": "pretrained"},
    }

    assert ("noncommercial_license", "/student/weights") in codes(**change)


@pytest.mark.parametrize(
    ("teacher", "expected"),
    [
        ("vit_small_patch14_dinov2.lvd142m", set()),
        ("vit_small_patch16_dinov3.lvd1689m", {"custom_license"}),
        ("vit_base_patch16_radio_v3.c_radio", {"custom_license"}),
        ("vit_tiny_patch16_dinov3_qkvb.eupe_lvd1689m", {"noncommercial_license"}),
        ("vit_base_patch16_siglip_224.webli", set()),
    ],
)
def test_the_license_of_a_foundation_teacher_is_named(teacher, expected):
    """Without the estimate of the large network, which `test_a_license_that_forbids_commercial_use_is_named` has."""
    student = plan_student(StudentSpec(architecture=VIT, arguments=SMALL), CIFAR.input_info())
    planned = plan_teacher(TeacherSpec(architecture=teacher, weights="pretrained"), CIFAR.input_info())

    found = _license_warnings(student, [planned], CIFAR)
    assert {warning.code for warning in found} == expected
    assert {warning.field for warning in found} <= {"/teachers/0/weights"}


@pytest.mark.parametrize(
    ("own", "classes", "expected"),
    [
        (["a", "b", "c"], ["a", "b", "c"], None),
        (["Cat", "blue jay"], ["cat", "blue_jay"], None),
        (["b", "a"], ["a", "b"], (0, 1)),
        (["Dog", "cat"], ["CAT", "dog"], (0, 1)),
        (["ant", "bee", "cat"], ["bee", "cat", "dog"], (1, 0)),  # one class more and one less: the others are shifted
        (["a", "A"], ["A", "a"], (0, 1)),  # distinct only by case
        (["x", "y"], ["a", "b"], None),
    ],
)
def test_classes_at_other_positions_are_found(own, classes, expected):
    assert misplaced_class(own, classes) == expected


@pytest.mark.parametrize("classes", [("dog", "ape", "blue-jay", "cat"), ("blue jay", "cat", "dog", "elk")])
def test_a_teacher_whose_classes_are_at_other_positions_is_refused(classes):
    with pytest.raises(InvalidSpec, match="another order"):
        codes(models={"mdl_a": stored(classes=classes)})

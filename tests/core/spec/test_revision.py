"""Changes of a spec on retry, and the trainings that they restart."""

import pytest

from core.errors import InvalidSpec
from core.spec import parse_job_spec
from core.spec.revision import RestartScope, apply_patch, changes, restart_scope

SPEC = parse_job_spec(
    {
        "dataset": "ds_x",
        "teachers": [
            {"architecture": "resnet18", "weights": "train", "training": {"epochs": 2}},
            {"architecture": "resnet18", "weights": "mdl_x"},
        ],
        "student": {"architecture": "vit_tiny_patch16_224", "arguments": {"depth": 2}},
        "method": {"name": "kd"},
        "training": {"batch_size": 128, "image_size": 32},
        "resources": {"threads": 2},
    }
).model_dump(mode="json")


def teacher_training(**training):
    first, second = SPEC["teachers"]
    return {"teachers": [{**first, "training": {**first["training"], **training}}, second]}


def scope_of(patch):
    return restart_scope(SPEC, apply_patch(SPEC, patch).model_dump(mode="json"))


@pytest.mark.parametrize(
    ("patch", "pointer"),
    [
        ({"dataset": "ds_y"}, "/dataset"),
        ({"student": {"architecture": "deit_tiny_patch16_224"}}, "/student/architecture"),
        ({"student": {"arguments": {"depth": 3}}}, "/student/arguments/depth"),
        ({"method": {"name": "dkd"}}, "/method/name"),
        ({"teachers": [SPEC["teachers"][0]]}, "/teachers"),
        ({"teachers": [SPEC["teachers"][0], {**SPEC["teachers"][1], "weights": "mdl_y"}]}, "/teachers/1/weights"),
    ],
)
def test_a_retry_cannot_change_the_identity_of_a_job(patch, pointer):
    with pytest.raises(InvalidSpec) as caught:
        apply_patch(SPEC, patch)

    assert pointer in [error.pointer for error in caught.value.errors]
    assert "A retry may change name, metadata" in caught.value.detail


@pytest.mark.parametrize(
    ("patch", "pointer"),
    [
        ({"training": {"batch_size": 0}}, "/training/batch_size"),
        ({"training": {"batchsize": 64}}, "/training/batchsize"),
        ({"resources": {"max_seconds": -1}}, "/resources/max_seconds"),
        ({"surprise": 1}, "/surprise"),
        ({"training": []}, "/training"),
    ],
)
def test_a_patched_spec_is_validated(patch, pointer):
    with pytest.raises(InvalidSpec) as caught:
        apply_patch(SPEC, patch)

    assert [error.pointer for error in caught.value.errors] == [pointer]


def test_null_restores_the_default():
    assert apply_patch(SPEC, {"training": {"batch_size": None}}).training.batch_size == 128
    assert apply_patch(SPEC, {"resources": {"max_seconds": None}}).resources.max_seconds is None


@pytest.mark.parametrize(
    "patch",
    [
        {"name": "again"},
        {"metadata": {"team": "search"}},
        {"priority": 5},
        {"export": ["safetensors"]},
        {"resources": {"max_seconds": 60}},
        {"training": {"checkpoint_every_epochs": 5, "keep_weights_every_epochs": 2}},
    ],
)
def test_fields_without_influence_on_weights_restart_nothing(patch):
    assert scope_of(patch).tracks == ()


@pytest.mark.parametrize(
    "patch",
    [
        {"training": {"batch_size": 64}},
        {"training": {"learning_rate": 1e-4}},
        {"training": {"seed": 1}},
        {"training": {"epochs": 30}},
        {"training": {"precision": "bf16"}},
        {"method": {"temperature": 2.0}},
        {"resources": {"devices": 2}},
    ],
)
def test_a_change_of_the_students_training_restarts_only_the_student(patch):
    assert scope_of(patch) == RestartScope(student=True)


@pytest.mark.parametrize("patch", [teacher_training(learning_rate=1e-4), {"resources": {"threads": 1}}])
def test_a_change_that_a_teacher_depends_on_restarts_both(patch):
    """This includes threads: they set the order of sums, and so the last bits."""
    assert scope_of(patch).tracks == ("teacher-0", "distill")


def test_a_baseline_restarts_with_its_student_and_can_be_added_to_a_job():
    with_baseline = apply_patch(SPEC, {"baseline": True}).model_dump(mode="json")
    changed = apply_patch(with_baseline, {"training": {"seed": 1}}).model_dump(mode="json")

    assert restart_scope(SPEC, with_baseline).tracks == ()
    assert restart_scope(with_baseline, changed).tracks == ("distill", "baseline")


def test_changes_are_described():
    patch = {"training": {"batch_size": 64, "learning_rate": 0.0005}, "resources": {"max_seconds": 60}, "export": []}

    assert changes(SPEC, apply_patch(SPEC, patch).model_dump(mode="json")) == [
        "training.batch_size 128 → 64",
        "training.learning_rate 0.001 → 0.0005",
        "export",
        "resources.max_seconds null → 60",
    ]


@pytest.mark.parametrize(("rate", "lowest"), [(5e-6, 5e-6), (1e-3, 1e-5)])
def test_a_default_follows_the_learning_rate_through_retries(rate, lowest):
    low = apply_patch(SPEC, {"training": {"learning_rate": 2e-6}, **teacher_training(learning_rate=2e-6)})
    assert (low.training.min_learning_rate, low.teachers[0].training.min_learning_rate) == (2e-6, 2e-6)

    stored = low.model_dump(mode="json")
    first, second = stored["teachers"]
    teachers = [{**first, "training": {**first["training"], "learning_rate": rate}}, second]
    new = apply_patch(stored, {"training": {"learning_rate": rate}, "teachers": teachers})

    assert new.training.min_learning_rate == lowest
    assert new.teachers[0].training.min_learning_rate == lowest


def test_a_rate_that_was_set_does_not_follow():
    stored = apply_patch(SPEC, {"training": {"min_learning_rate": 1e-4}}).model_dump(mode="json")

    assert apply_patch(stored, {"training": {"learning_rate": 1e-2}}).training.min_learning_rate == 1e-4
    with pytest.raises(InvalidSpec, match=r"0\.0001 must not be above learning_rate, which is 5e-05"):
        apply_patch(stored, {"training": {"learning_rate": 5e-5}})
    with pytest.raises(InvalidSpec, match="/training/min_learning_rate"):
        apply_patch(SPEC, {"training": {"learning_rate": 5e-6, "min_learning_rate": 1e-5}})

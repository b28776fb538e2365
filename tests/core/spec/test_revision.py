"""What a retry may change of a spec, and what then begins anew."""

import pytest

from core.errors import InvalidSpec
from core.spec import parse_job_spec
from core.spec.revision import RestartScope, apply_patch, changes, restart

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


def taught(**training):
    first, second = SPEC["teachers"]
    return {"teachers": [{**first, "training": {**first["training"], **training}}, second]}


def restarted(patch):
    return restart(SPEC, apply_patch(SPEC, patch).model_dump(mode="json"))


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
def test_what_makes_a_job_this_job_cannot_be_changed(patch, pointer):
    with pytest.raises(InvalidSpec) as refused:
        apply_patch(SPEC, patch)

    assert pointer in [error.pointer for error in refused.value.errors]
    assert "A retry may change name, metadata" in refused.value.detail


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
def test_a_change_is_checked_as_a_new_spec_is(patch, pointer):
    with pytest.raises(InvalidSpec) as refused:
        apply_patch(SPEC, patch)

    assert [error.pointer for error in refused.value.errors] == [pointer]


def test_null_brings_a_default_back():
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
def test_what_no_bit_depends_on_lets_a_job_go_on(patch):
    assert restarted(patch).tracks == ()


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
def test_what_makes_other_bits_begins_the_student_anew_and_leaves_its_teachers(patch):
    assert restarted(patch) == RestartScope(student=True)


@pytest.mark.parametrize("patch", [taught(learning_rate=1e-4), {"resources": {"threads": 1}}])
def test_what_a_teacher_depends_on_begins_both_anew(patch):
    """Threads as well: they decide the order of sums, and so the last bits."""
    assert restarted(patch).tracks == ("teacher-0", "distill")


def test_changes_are_told_in_words():
    patch = {"training": {"batch_size": 64, "learning_rate": 0.0005}, "resources": {"max_seconds": 60}, "export": []}

    assert changes(SPEC, apply_patch(SPEC, patch).model_dump(mode="json")) == [
        "training.batch_size 128 → 64",
        "training.learning_rate 0.001 → 0.0005",
        "export",
        "resources.max_seconds null → 60",
    ]

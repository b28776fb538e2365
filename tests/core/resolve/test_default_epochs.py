"""Default epochs: small training splits get as many as make 1,000 steps, within limits; given values stay."""

import json

import pytest

from core.resolve.default_epochs import default_epochs
from core.resolve.resolver import resolve
from core.spec import parse_job_spec
from core.spec.info import DatasetInfo, ModelInfo

VIT = "vit_tiny_patch16_224"
SMALL = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
WEIGHTS = ModelInfo(
    architecture=VIT,
    arguments={**SMALL, "num_classes": 10, "in_chans": 3},
    num_classes=10,
    channels=3,
    image_size=8,
    parameters=5_000,
    size_bytes=20_000,
)


def resolved(num_train, *, training=None, teacher_training=None, **student):
    teacher = {"architecture": VIT, "arguments": SMALL, "weights": "train"}
    document = {
        "dataset": "ds_x",
        "student": {"architecture": VIT, "arguments": SMALL, **student},
        "teachers": [{**teacher, **({} if teacher_training is None else {"training": teacher_training})}],
        "method": {"name": "kd"},
        "training": training or {},
    }
    dataset = DatasetInfo(num_classes=10, channels=3, image_size=8, num_train=num_train, num_test=100)
    return resolve(parse_job_spec(document), dataset, {"mdl_a": WEIGHTS}, threads=1)


@pytest.mark.parametrize(
    ("num_images", "batch_size", "epochs"),
    [
        (50_000, 128, 20),
        (6_400, 128, 20),  # 50 steps, 1,000 in 20 epochs
        (6_272, 128, 21),  # 49 steps
        (2_000, 128, 63),
        (2_000, 32, 20),
        (640, 128, 200),
        (100, 128, 200),
        (1, 128, 200),
        (0, 128, 200),
    ],
)
def test_epochs_make_a_thousand_steps_within_limits(num_images, batch_size, epochs):
    assert default_epochs(num_images, batch_size) == epochs


def test_student_and_trained_teacher_get_the_default_and_its_warmup():
    resolution = resolved(2_000, teacher_training={"batch_size": 64})
    training, teacher = resolution.spec.training, resolution.spec.teachers[0].training

    assert (training.epochs, training.warmup_epochs) == (63, pytest.approx(63 / 20))
    assert (teacher.epochs, teacher.warmup_epochs) == (32, pytest.approx(32 / 20))
    assert (resolution.estimate["epochs"], resolution.estimate["total_steps"]) == (63, 63 * 16)
    assert resolution.estimate["warnings"] == []


def test_given_epochs_and_warmup_never_change():
    assert resolved(2_000, training={"epochs": 3}).spec.training.epochs == 3
    assert resolved(2_000, training={"epochs": 20}).spec.training.epochs == 20
    assert resolved(2_000, training={"epochs": 300}).spec.training.warmup_epochs == 1.0
    assert resolved(2_000, training={"warmup_epochs": 0}).spec.training.warmup_epochs == 0
    assert resolved(2_000, teacher_training={"epochs": 2}).spec.teachers[0].training.epochs == 2


def test_large_splits_and_students_with_weights_get_twenty_epochs():
    large, given = resolved(50_000).spec.training, resolved(2_000, weights="mdl_a").spec.training

    assert (large.epochs, large.warmup_epochs) == (given.epochs, given.warmup_epochs) == (20, 1.0)


def test_so_few_images_that_the_default_has_few_steps_have_a_warning():
    (warning,) = (each for each in resolved(100).estimate["warnings"] if each["code"] == "few_steps")

    assert "200 optimizer steps" in warning["message"]
    assert "lower batch_size" in warning["fix"]


def test_a_resolved_spec_keeps_its_epochs_on_another_dataset():
    first = json.loads(resolved(2_000).spec.model_dump_json())
    dataset = DatasetInfo(num_classes=10, channels=3, image_size=8, num_train=9_000, num_test=100)

    assert resolve(parse_job_spec(first), dataset, {}, threads=1).spec.training.epochs == 63

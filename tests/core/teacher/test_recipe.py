"""Same digest, same teacher."""

import hashlib
import json

import pytest
import timm
import torch

from core.spec import TeacherSpec, TeacherTrainingSpec
from core.teacher.recipe import recipe_digest
from core.train.precision import Arithmetic

CPU = Arithmetic(torch.device("cpu"), "fp32")


def digest(*, image_size=8, fingerprint="f", threads=1, arithmetic=CPU, arguments=None, **training):
    spec = TeacherSpec(architecture="resnet18", weights="train", arguments=arguments or {}, training=training)
    return recipe_digest(spec, image_size=image_size, fingerprint=fingerprint, threads=threads, arithmetic=arithmetic)


def test_a_default_and_the_same_value_written_out_are_one_recipe():
    assert digest() == digest(epochs=20, seed=0)


def test_a_size_from_the_job_and_the_same_one_of_the_teachers_own_are_one_recipe():
    def of(**training):
        spec = TeacherSpec(architecture="resnet18", weights="train", training=training)
        return recipe_digest(spec, image_size=8, fingerprint="f", threads=1, arithmetic=CPU)

    assert of() == of(image_size=8) == digest()


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 16},
        {"fingerprint": "g"},
        {"threads": 2},
        {"arithmetic": Arithmetic(torch.device("cpu"), "bf16")},
        {"arguments": {"stem_width": 32}},
        {"seed": 1},
        {"epochs": 21},
        {"augmentation": "none"},
        {"mixup": 0.2},
        {"cutmix": 1.0, "mix_probability": 0.5},
    ],
)
def test_whatever_changes_the_weights_changes_the_digest(change):
    assert digest(**change) != digest()


def test_where_nothing_is_mixed_the_recipe_does_not_speak_of_mixing():
    assert digest(mix_probability=0.5) == digest()
    assert digest(mixup=0.2, mix_probability=0.5) != digest(mixup=0.2)


def test_recipes_from_before_mixing_still_find_their_teachers():
    training = TeacherTrainingSpec(image_size=8).model_dump(mode="json")
    before = {key: value for key, value in training.items() if key not in {"mixup", "cutmix", "mix_probability"}}
    recipe = {
        "format": 1,
        "architecture": "resnet18",
        "arguments": {},
        "training": before,
        "dataset": "f",
        "threads": 1,
        "device": "cpu",
        "precision": "fp32",
        "torch": str(torch.__version__),
        "timm": timm.__version__,
    }

    assert digest() == hashlib.sha256(json.dumps(recipe, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

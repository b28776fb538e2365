"""Same digest, same teacher."""

import pytest
import torch

from core.spec import TeacherSpec
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
    ],
)
def test_whatever_changes_the_weights_changes_the_digest(change):
    assert digest(**change) != digest()

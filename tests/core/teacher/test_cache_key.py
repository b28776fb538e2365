"""Same digest, same answers."""

import numpy as np
import pytest
import torch
from torch import nn

from core.data.mixing import Mixing
from core.data.pixels import Pixels
from core.models.built import BuiltModel
from core.models.preprocessing import plain_preprocessing
from core.models.taps import FeatureRequest
from core.teacher.cache_key import CacheKeyInputs, teacher_digest
from core.teacher.layout import layout_for
from core.train.loader import BatchLoader
from core.train.precision import ComputeConfig

CPU = torch.device("cpu")
IMAGES = np.zeros((20, 1, 8, 8), dtype=np.uint8)
PIXELS = Pixels(IMAGES, torch.zeros(20, dtype=torch.int64))


def feed(pixels=PIXELS, **more):
    options = {"batch_size": 8, "augmentation": "light", "views": 2, "seed": 0, "device": CPU, **more}
    return BatchLoader(pixels, **options)


def key(teacher="t", view=0, num_classes=3, sparse=None, **more):
    asked = {
        "pictures": "p",
        "feed": feed(),
        "arithmetic": ComputeConfig(CPU, "fp32"),
        "threads": 1,
        "block": 64,
        **more,
    }
    return CacheKeyInputs(**asked).key(
        teacher, view, layout_for("linear", {"num_classes": num_classes}, 8, FeatureRequest(), sparse)
    )


def test_what_cannot_change_an_answer_changes_no_key():
    labels = torch.ones(20, dtype=torch.int64)

    assert key(feed=feed(Pixels(IMAGES, labels), batch_size=4, views=None)) == key()
    assert len(key()) == 64


@pytest.mark.parametrize(
    "change",
    [
        {"teacher": "u"},
        {"view": 1},
        {"num_classes": 4},
        {"pictures": "q"},
        {"threads": 2},
        {"block": 32},
        {"arithmetic": ComputeConfig(CPU, "bf16")},
        {"feed": feed(seed=1)},
        {"feed": feed(augmentation="strong")},
        {"feed": feed(mixing=Mixing(0.8, 0.0), num_classes=1)},
        {"feed": feed(mixing=Mixing(0.8, 1.0), num_classes=1)},
        {"feed": feed(Pixels(IMAGES[:19], torch.zeros(19, dtype=torch.int64)))},
        {"feed": feed(PIXELS.unlabelled(np.arange(20)[::-1].copy()))},
    ],
)
def test_everything_that_answers_depend_on_changes_the_key(change):
    assert key(**change) != key()


def test_other_samples_of_the_same_number_change_the_key():
    one, other = (feed(PIXELS.unlabelled(np.array(places))) for places in ([1, 2, 3], [1, 2, 4]))

    assert key(feed=one) != key(feed=other)


@pytest.mark.parametrize("library", ["torch", "timm"])
def test_another_version_of_a_library_changes_the_key(library, monkeypatch):
    before = key()
    monkeypatch.setattr(f"{library}.__version__", "0.0.1")

    assert key() != before


def built(bias=0.0, size=8, **arguments):
    module = nn.Linear(2, 3)
    nn.init.zeros_(module.weight)
    nn.init.constant_(module.bias, bias)
    given = {"num_classes": 3, **arguments}
    return BuiltModel(module, "linear", given, plain_preprocessing(image_size=size, channels=1))


def test_the_same_weights_are_the_same_teacher():
    assert teacher_digest(built(0.5)) == teacher_digest(built(0.5))


@pytest.mark.parametrize("other", [built(1e-7), built(size=16), built(depth=2)])
def test_other_weights_arguments_or_preprocessing_are_another_teacher(other):
    assert teacher_digest(other) != teacher_digest(built())


def test_one_weight_of_a_half_precision_teacher_counts():
    one, other = built(), built()
    one.module.to(torch.bfloat16)
    other.module.to(torch.bfloat16)
    with torch.no_grad():
        other.module.weight[1, 1] = 1.0

    assert teacher_digest(one) != teacher_digest(other)

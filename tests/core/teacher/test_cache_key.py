"""Equal cache keys mean equal teacher outputs."""

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


def make_loader(pixels=PIXELS, **changes):
    options = {"batch_size": 8, "augmentation": "light", "views": 2, "seed": 0, "device": CPU, **changes}
    return BatchLoader(pixels, **options)


def key(teacher="t", view=0, num_classes=3, top_k=None, **changes):
    inputs = {
        "split_id": "p",
        "loader": make_loader(),
        "compute": ComputeConfig(CPU, "fp32"),
        "threads": 1,
        "block_size": 64,
        **changes,
    }
    return CacheKeyInputs(**inputs).entry_key(
        teacher, view, layout_for("linear", {"num_classes": num_classes}, 8, FeatureRequest(), top_k)
    )


def test_labels_batch_size_and_number_of_views_do_not_change_the_key():
    labels = torch.ones(20, dtype=torch.int64)

    assert key(loader=make_loader(Pixels(IMAGES, labels), batch_size=4, views=None)) == key()
    assert len(key()) == 64


@pytest.mark.parametrize(
    "change",
    [
        {"teacher": "u"},
        {"view": 1},
        {"num_classes": 4},
        {"split_id": "q"},
        {"threads": 2},
        {"block_size": 32},
        {"compute": ComputeConfig(CPU, "bf16")},
        {"loader": make_loader(seed=1)},
        {"loader": make_loader(augmentation="strong")},
        {"loader": make_loader(mixing=Mixing(0.8, 0.0), num_classes=1)},
        {"loader": make_loader(mixing=Mixing(0.8, 1.0), num_classes=1)},
        {"loader": make_loader(Pixels(IMAGES[:19], torch.zeros(19, dtype=torch.int64)))},
        {"loader": make_loader(PIXELS.unlabeled_subset(np.arange(20)[::-1].copy()))},
    ],
)
def test_everything_that_changes_outputs_changes_the_key(change):
    assert key(**change) != key()


def test_other_samples_of_the_same_number_change_the_key():
    one, other = (make_loader(PIXELS.unlabeled_subset(np.array(indices))) for indices in ([1, 2, 3], [1, 2, 4]))

    assert key(loader=one) != key(loader=other)


@pytest.mark.parametrize("library", ["torch", "timm"])
def test_another_version_of_a_library_changes_the_key(library, monkeypatch):
    before = key()
    monkeypatch.setattr(f"{library}.__version__", "0.0.1")

    assert key() != before


def built(bias=0.0, size=8, **arguments):
    module = nn.Linear(2, 3)
    nn.init.zeros_(module.weight)
    nn.init.constant_(module.bias, bias)
    arguments = {"num_classes": 3, **arguments}
    return BuiltModel(module, "linear", arguments, plain_preprocessing(image_size=size, channels=1))


def test_equal_weights_give_equal_digests():
    assert teacher_digest(built(0.5)) == teacher_digest(built(0.5))


@pytest.mark.parametrize("other", [built(1e-7), built(size=16), built(depth=2)])
def test_weights_arguments_and_preprocessing_change_the_digest(other):
    assert teacher_digest(other) != teacher_digest(built())


def test_one_weight_of_a_half_precision_teacher_changes_the_digest():
    one, other = built(), built()
    one.module.to(torch.bfloat16)
    other.module.to(torch.bfloat16)
    with torch.no_grad():
        other.module.weight[1, 1] = 1.0

    assert teacher_digest(one) != teacher_digest(other)

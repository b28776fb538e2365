"""Fixtures of the training tests: a small training setup and recording reporters."""

import numpy as np
import pytest
import timm
import torch

from core.data.pixels import Pixels
from core.methods import MethodContext, build_method
from core.models.built import BuiltModel
from core.models.preprocessing import plain_preprocessing
from core.spec import METHODS, TrainingSpec
from core.train.loader import BatchLoader
from core.train.precision import ComputeConfig
from core.train.trainer import TrainingSetup
from tests.support.reporter import RecordingReporter

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_reporter(tmp_path):
    """Factory of reporters; those of one name share a folder, as attempts of one job do."""
    reporters = []

    def make(name="run", **options):
        reporter = RecordingReporter(tmp_path / name, **options)
        reporters.append(reporter)
        return reporter

    yield make
    for reporter in reporters:
        reporter.close()


@pytest.fixture
def pixels():
    """40 images, 8 × 8, of 4 classes. A bright horizontal band marks the class, so mirroring preserves it."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 120, size=(40, 1, 8, 8), dtype=np.uint8)
    labels = np.arange(40) % 4
    for image, label in zip(images, labels, strict=True):
        image[0, 2 * label : 2 * label + 2] += 120
    return Pixels(images=images, labels=torch.from_numpy(labels.astype(np.int64)))


@pytest.fixture
def vit():
    """Factory of a tiny ViT with dropout and drop-path, so that random draws affect results."""

    def make(seed=0, **more):
        arguments = {
            "img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2,
            "num_classes": 4, "in_chans": 1, "drop_path_rate": 0.2, "proj_drop_rate": 0.1, **more,
        }  # fmt: skip
        torch.manual_seed(seed)
        module = timm.create_model("vit_tiny_patch16_224", **arguments)
        preprocessing = plain_preprocessing(image_size=8, channels=1)
        return BuiltModel(module, "vit_tiny_patch16_224", arguments, preprocessing)

    return make


@pytest.fixture
def resnet():
    """Factory of a tiny ResNet with BatchNorm."""

    def make(seed=0, **more):
        arguments = {
            "layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "stem_width": 8,
            "num_classes": 4, "in_chans": 1, **more,
        }  # fmt: skip
        torch.manual_seed(seed)
        module = timm.create_model("resnet10t", **arguments)
        return BuiltModel(module, "resnet10t", arguments, plain_preprocessing(image_size=8, channels=1))

    return make


@pytest.fixture
def training():
    """Factory of a training block with 5 steps per epoch."""

    def make(**more):
        return TrainingSpec(**{"epochs": 4, "batch_size": 8, "learning_rate": 3e-3, "augmentation": "flip", **more})

    return make


@pytest.fixture
def make_setup(pixels, vit):
    """Factory of a complete training setup."""

    def make(training, *, student=None, method="scratch", teachers=(), pixels=pixels, **params):
        student = student or vit()
        context = MethodContext(
            student=student,
            teachers=[student] * len(teachers),
            num_classes=4,
            label_smoothing=training.label_smoothing,
        )
        loader = BatchLoader(
            pixels,
            batch_size=training.batch_size,
            augmentation=training.augmentation,
            views=training.views,
            seed=training.seed,
            device=CPU,
        )
        return TrainingSetup(
            training=training,
            student=student,
            method=build_method(METHODS[method].params(name=method, **params), context),
            teachers=teachers,
            loader=loader,
            compute=ComputeConfig(CPU, "fp32"),
            ema=training.ema,
            balance=training.balance,
        )

    return make

"""What the training tests share: a tiny learnable task and a reporter that remembers."""

from collections import defaultdict

import numpy as np
import pytest
import timm
import torch

from core.data.pixels import Pixels
from core.local_reporter import FolderReporter
from core.methods import MethodContext, build_method
from core.models.built import BuiltModel
from core.models.preprocessing import plain_preprocessing
from core.reporting import Control
from core.spec import METHODS, TrainingSpec
from core.train.loader import BatchLoader
from core.train.precision import ComputeConfig
from core.train.trainer import TrainingSetup

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class RememberingReporter(FolderReporter):
    """Keeps what it was told, and wishes for something once a number of steps is done."""

    def __init__(self, root, *, wish_at=None, wish=Control.PAUSE):
        super().__init__(root, teachers=root / "teachers")
        self.told = defaultdict(dict)
        self.events = []
        self.saved = []
        self.progresses = []
        self.asked = 0
        self._wish_at, self._wish = wish_at, wish

    def metrics(self, step, values):
        super().metrics(step, values)
        self.told[step].update(values)

    def progress(self, progress):
        super().progress(progress)
        self.progresses.append(progress)

    def event(self, type, message, *, level="info", data=None):  # noqa: A002 - the wire's word
        self.events.append(type)

    def save_checkpoint(self, checkpoint):
        super().save_checkpoint(checkpoint)
        self.saved.append(checkpoint)

    def control(self):
        self.asked += 1
        return self._wish if self._wish_at is not None and self.asked > self._wish_at else Control.GO


@pytest.fixture
def remembering(tmp_path):
    """Makes reporters that keep their files in one folder, as attempts of one job do."""
    made = []

    def make(name="run", **wishes):
        reporter = RememberingReporter(tmp_path / name, **wishes)
        made.append(reporter)
        return reporter

    yield make
    for reporter in made:
        reporter.close()


@pytest.fixture
def pixels():
    """40 pictures 8 × 8 of 4 classes, told apart by which band is bright, so that a mirrored one keeps its class."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 120, size=(40, 1, 8, 8), dtype=np.uint8)
    labels = np.arange(40) % 4
    for image, label in zip(images, labels, strict=True):
        image[0, 2 * label : 2 * label + 2] += 120
    return Pixels(images=images, labels=torch.from_numpy(labels.astype(np.int64)))


@pytest.fixture
def vit():
    """Makes a tiny ViT with dropout and drop-path, so that random draws count."""

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
def training():
    """Makes a training block: 5 steps an epoch."""

    def make(**more):
        return TrainingSpec(**{"epochs": 4, "batch_size": 8, "learning_rate": 3e-3, "augmentation": "flip", **more})

    return make


@pytest.fixture
def task(pixels, vit):
    """Makes a whole task."""

    def make(training, *, student=None, method="scratch", teachers=(), pixels=pixels, **params):
        student = student or vit()
        setting = MethodContext(
            student=student,
            teachers=[student] * len(teachers),
            num_classes=4,
            label_smoothing=training.label_smoothing,
        )
        feed = BatchLoader(
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
            method=build_method(METHODS[method].params(name=method, **params), setting),
            teachers=teachers,
            loader=feed,
            compute=ComputeConfig(CPU, "fp32"),
            ema=training.ema,
        )

    return make

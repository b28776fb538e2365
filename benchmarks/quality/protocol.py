"""Settings of the quality benchmark: images, students, teachers and trainings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.cifar10 import ASSISTANT, TEACHERS, SplitSizes
from core.spec.methods import Family

IMAGE_SIZE = 32
_VIT = "vit_tiny_patch16_224"

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Track:
    """A student and its training, which all arms of the track share.

    ``teachers`` names the teacher of each family. ``step_seconds`` is the time of a step from labels alone on one
    thread, for the estimate before anything was measured.
    """

    title: str
    student: Mapping[str, Any]
    family: Family
    epochs: int
    seeds: int
    teachers: Mapping[Family, str]
    step_seconds: float


@dataclass(frozen=True, slots=True)
class Protocol:
    """All settings.

    ``teachers`` are job specs by name, in training order. Each arm tries all ``learning_rates`` with ``tuning_seed``,
    for ``tuning_share`` of the track's epochs.
    """

    tracks: Mapping[str, Track]
    teachers: Mapping[str, Document]
    sizes: SplitSizes = field(default_factory=SplitSizes)
    learning_rates: tuple[float, ...] = (5e-4, 1e-3, 2e-3)
    tuning_seed: int = 100
    tuning_share: float = 0.5
    views: int = 10
    batch_size: int = 64

    def epochs(self, track: Track, seed: int) -> int:
        """Return the epochs of a run of the track; fewer for tuning."""
        return max(1, round(track.epochs * self.tuning_share)) if seed == self.tuning_seed else track.epochs

    def epochs_with_pool(self, epochs: int) -> int:
        """Return the epochs over students' images and pool that have as many steps as ``epochs`` without the pool."""
        return max(1, round(epochs * self.sizes.train / (self.sizes.train + self.sizes.pool)))

    def training(self, track: Track, *, learning_rate: float, seed: int) -> Document:
        """Return the training block of an arm."""
        return {
            "epochs": self.epochs(track, seed),
            "views": self.views,
            "batch_size": self.batch_size,
            "learning_rate": learning_rate,
            "image_size": IMAGE_SIZE,
            "augmentation": "light",
            "seed": seed,
        }


def vit(*, patch_size: int, width: int, depth: int = 6) -> Document:
    """Return a ViT for images of 32 pixels, with heads of width 32."""
    sizes = {"patch_size": patch_size, "embed_dim": width, "depth": depth, "num_heads": max(1, width // 32)}
    return {"architecture": _VIT, "arguments": sizes}


def _distilled(student: Document, *, dataset: str = TEACHERS, **training: Any) -> Document:
    """Return the job of a ViT that learns from the CNN teacher."""
    block = {"batch_size": 64, "learning_rate": 1e-3, "image_size": IMAGE_SIZE, "augmentation": "light", "seed": 0}
    return {
        "dataset": dataset,
        "teachers": [{"weights": "mdl_cnn"}],
        "student": student,
        "method": {"name": "kd"},
        "training": block | training,
    }


# The CNN sees the images enlarged to 64 pixels: its first layers divide the resolution by 4. With output stride 16,
# its last map is 4 × 4, like the patches of the students.
_CNN_TEACHER = {
    "dataset": TEACHERS,
    "student": {"architecture": "resnet18", "arguments": {"channels": [32, 64, 128, 256], "output_stride": 16}},
    "method": {"name": "scratch"},
    "training": {
        "epochs": 6,
        "batch_size": 128,
        "learning_rate": 2e-3,
        "image_size": 64,
        "augmentation": "light",
        "seed": 0,
    },
}

FULL = Protocol(
    tracks={
        "vit": Track(
            "ViT student, 16 patches",
            vit(patch_size=8, width=96),
            "transformer",
            epochs=80,
            seeds=5,
            teachers={"cnn": "cnn", "transformer": "vit"},
            step_seconds=0.070,
        ),
        "cnn": Track(
            "CNN student",
            {"architecture": "resnet18", "arguments": {"layers": [1, 1, 1, 1], "channels": [24, 48, 96, 192]}},
            "cnn",
            epochs=40,
            seeds=3,
            teachers={"cnn": "cnn", "transformer": "vit"},
            step_seconds=0.047,
        ),
        "patch4": Track(
            "ViT student, 64 patches",
            vit(patch_size=4, width=96),
            "transformer",
            epochs=40,
            seeds=3,
            teachers={"cnn": "cnn", "transformer": "vit4"},
            step_seconds=0.270,
        ),
    },
    teachers={
        "cnn": _CNN_TEACHER,
        "vit": _distilled(vit(patch_size=8, width=192), epochs=20, views=4),
        "assistant": _distilled(vit(patch_size=8, width=128), dataset=ASSISTANT, epochs=40, views=10),
        "vit4": _distilled(vit(patch_size=4, width=128), epochs=8, views=4),
    },
)
"""The benchmark."""

QUICK = Protocol(
    tracks={
        "vit": Track(
            "tiny ViT",
            vit(patch_size=8, width=32, depth=4),
            "transformer",
            epochs=2,
            seeds=2,
            teachers={"cnn": "cnn", "transformer": "vit"},
            step_seconds=0.01,
        ),
        "cnn": Track(
            "tiny CNN",
            {"architecture": "resnet18", "arguments": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}},
            "cnn",
            epochs=2,
            seeds=2,
            teachers={"cnn": "cnn", "transformer": "vit"},
            step_seconds=0.01,
        ),
        "patch4": Track(
            "tiny ViT, 64 patches",
            vit(patch_size=4, width=32, depth=4),
            "transformer",
            epochs=2,
            seeds=2,
            teachers={"cnn": "cnn", "transformer": "vit4"},
            step_seconds=0.02,
        ),
    },
    teachers={
        "cnn": {
            **_CNN_TEACHER,
            "student": {"architecture": "resnet18", "arguments": {"channels": [8, 8, 16, 16], "output_stride": 16}},
            "training": {"epochs": 1, "batch_size": 64, "image_size": 64},
        },
        "vit": _distilled(vit(patch_size=8, width=32, depth=4), epochs=1, views=1),
        "assistant": _distilled(vit(patch_size=8, width=32, depth=4), dataset=ASSISTANT, epochs=1, views=1),
        "vit4": _distilled(vit(patch_size=4, width=32, depth=4), epochs=1, views=1),
    },
    sizes=SplitSizes(train=60, validation=40, assistant=40, pool=80, teachers=200, test=100),
    learning_rates=(1e-3, 2e-3),
    views=2,
    batch_size=20,
)
"""A rehearsal of every arm in minutes; its figures mean nothing."""

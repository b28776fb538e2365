"""The digest of what a teacher is asked: same digest, same answers to the last bit."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import timm
import torch

from core.data.mixing import Mixing
from core.methods import Method
from core.models.built import BuiltModel
from core.spec import JobSpec
from core.teacher.layout import Layout
from core.train.loader import BatchLoader
from core.train.precision import ComputeConfig, machine_of

_FORMAT = 2  # raised when pictures or answers change for the same words below


@dataclass(frozen=True, slots=True)
class CacheKeyInputs:
    """What all teachers of a training are asked, view by view, about each picture of the feed.

    ``pictures`` names the split before any part of it was held out. Answers depend in their last bits on how
    many pictures are asked at once (``block``), on threads, precision, kind of machine and library versions.
    """

    pictures: str
    feed: BatchLoader
    arithmetic: ComputeConfig
    threads: int
    block: int

    def key(self, teacher: str, view: int, layout: Layout) -> str:
        """A sha256 over everything that the answers of a teacher of this digest about a view depend on."""
        feed, places = self.feed, self.feed.pixels.indices
        asked = {
            "format": _FORMAT,
            "teacher": teacher,
            "pictures": self.pictures,
            "places": None if places is None else hashlib.sha256(places.tobytes()).hexdigest(),
            "shape": feed.pixels.images.shape,
            "augmentation": feed.augmentation,
            "mixing": None if feed.mixing is None else asdict(feed.mixing),
            "seed": feed.seed,
            "view": view,
            "tapped": layout.key_fields(),
            "stored": "float16",
            "block": self.block,
            "threads": self.threads,
            "precision": self.arithmetic.precision,
            "machine": machine_of(self.arithmetic.device),
            "torch": str(torch.__version__),
            "timm": timm.__version__,
        }
        return hashlib.sha256(json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def teacher_digest(built: BuiltModel) -> str:
    """A sha256 over weights, architecture, arguments and preprocessing."""
    words = {
        "architecture": built.architecture,
        "arguments": built.arguments,
        "preprocessing": asdict(built.preprocessing),
    }
    digest = hashlib.sha256(json.dumps(words, sort_keys=True, default=str).encode())
    for name, tensor in built.module.state_dict().items():
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


_FORMAT = 1


def spec_cache_key(spec: JobSpec, method: Method, num_pictures: int) -> str:
    """A sha256 over what a resolved spec says of teachers, pictures and what is tapped; views are left out.

    A job that asks about fewer views asks the same: views are counted from 0.
    """
    training = spec.training
    mixing = Mixing.of(training)
    words: dict[str, Any] = {
        "format": _FORMAT,
        "teachers": [teacher.model_dump(mode="json") for teacher in spec.teachers],
        "dataset": spec.dataset,
        "pictures": num_pictures,
        "image_size": training.image_size,
        "augmentation": training.augmentation,
        "mixing": None if mixing is None else asdict(mixing),
        "seed": training.seed,
        "precision": training.precision,
        "accelerator": spec.resources.accelerator,
        "threads": spec.resources.threads,
        "tapped": asdict(method.teacher_request),
        "sparse": method.top_k,
        "torch": str(torch.__version__),
        "timm": timm.__version__,
    }
    if spec.resources.devices > 1:  # which share the threads
        words["devices"] = spec.resources.devices
    return hashlib.sha256(json.dumps(words, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

"""The digest of what a teacher is asked: same digest, same answers to the last bit."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

import timm
import torch

from core.models.built import BuiltModel
from core.teacher.layout import Layout
from core.train.feed import Feed
from core.train.precision import Arithmetic, machine_of

_FORMAT = 2  # raised when pictures or answers change for the same words below


@dataclass(frozen=True, slots=True)
class Question:
    """What all teachers of a training are asked, view by view, about each picture of the feed.

    ``pictures`` names the split before any part of it was held out. Answers depend in their last bits on how
    many pictures are asked at once (``block``), on threads, precision, kind of machine and library versions.
    """

    pictures: str
    feed: Feed
    arithmetic: Arithmetic
    threads: int
    block: int

    def key(self, teacher: str, view: int, layout: Layout) -> str:
        """A sha256 over everything that the answers of a teacher of this digest about a view depend on."""
        feed, places = self.feed, self.feed.pixels.places
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
            "tapped": layout.words(),
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

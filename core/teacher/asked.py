"""What a job asks its teachers, named from its spec alone, so that an estimate can tell whether it was asked before.

The store's own keys need the teachers' weights, and are known on a worker only. Two jobs of this name ask the same
on machines of one kind with the same library versions.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

import timm
import torch

from core.data.mixing import Mixing
from core.methods import Method
from core.spec import JobSpec

_FORMAT = 1


def asked_of_teachers(spec: JobSpec, method: Method, num_pictures: int) -> str:
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
        "tapped": asdict(method.asks),
        "sparse": method.sparse_answers,
        "torch": str(torch.__version__),
        "timm": timm.__version__,
    }
    if spec.resources.devices > 1:  # which share the threads
        words["devices"] = spec.resources.devices
    return hashlib.sha256(json.dumps(words, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

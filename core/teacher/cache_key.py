"""Keys of the teacher cache.

:meth:`CacheKeyInputs.entry_key` names one cache entry, which holds the outputs of one teacher for one view: equal keys
mean bit-identical outputs. :func:`spec_cache_key` names all entries of a job; it is known before any teacher is loaded,
so that the estimate can predict a hit.

The strings in the hashed dicts are part of the key: a changed string invalidates every existing entry.
"""

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
from core.system.digest import json_digest
from core.teacher.layout import Layout
from core.train.loader import BatchLoader
from core.train.precision import ComputeConfig, device_description

_ENTRY_FORMAT = 4  # incremented when images, outputs or the rows of a shard change for equal fields
_SPEC_FORMAT = 3


@dataclass(frozen=True, slots=True)
class CacheKeyInputs:
    """Everything that the outputs of all teachers of a training depend on, except teacher, view and layout.

    ``split_id`` names the training split before a part of it was held out. The last bits of an output depend on the
    number of images per forward pass (``block_size``), threads, precision, device model and library versions.
    """

    split_id: str
    loader: BatchLoader
    compute: ComputeConfig
    threads: int
    block_size: int

    def entry_key(self, teacher: str, view: int, layout: Layout) -> str:
        """Return the SHA-256 key of the outputs of one teacher (by its :func:`teacher_digest`) for one view."""
        loader, indices = self.loader, self.loader.pixels.indices
        fields = {
            "format": _ENTRY_FORMAT,
            "teacher": teacher,
            "pictures": self.split_id,
            "places": None if indices is None else hashlib.sha256(indices.tobytes()).hexdigest(),
            "shape": loader.pixels.images.shape,
            "augmentation": loader.augmentation,
            "mixing": None if loader.mixing is None else asdict(loader.mixing),
            "seed": loader.seed,
            "view": view,
            "tapped": layout.key_fields(),
            "stored": "float16",
            "block": self.block_size,
            "threads": self.threads,
            "precision": self.compute.precision,
            "machine": device_description(self.compute.device),
            "torch": str(torch.__version__),
            "timm": timm.__version__,
        }
        return json_digest(fields)


def spec_cache_key(spec: JobSpec, method: Method, num_images: int) -> str:
    """Return the SHA-256 key of all teacher outputs that a resolved spec needs.

    The number of views is not part of the key: views are counted from 0, so a job with fewer views hits too.
    """
    training = spec.training
    mixing = Mixing.from_training(training)
    fields: dict[str, Any] = {
        "format": _SPEC_FORMAT,
        "teachers": [teacher.model_dump(mode="json", exclude={"distillation"}) for teacher in spec.teachers],
        "dataset": spec.dataset,
        "pictures": num_images,
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
    if spec.unlabeled_dataset is not None:
        fields["unlabeled_dataset"] = spec.unlabeled_dataset
    if spec.resources.devices > 1:  # the ranks share the threads
        fields["devices"] = spec.resources.devices
    return json_digest(fields)


def teacher_digest(built: BuiltModel) -> str:
    """Return a SHA-256 over weights, architecture, arguments and preprocessing."""
    fields = {
        "architecture": built.architecture,
        "arguments": built.arguments,
        "preprocessing": asdict(built.preprocessing),
    }
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode())
    for name, tensor in built.module.state_dict().items():
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()

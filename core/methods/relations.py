"""What methods need that read embeddings and compare the samples of a batch."""

from __future__ import annotations

from core.data.views import steps_per_epoch
from core.errors import FieldError, InvalidSpec
from core.methods.base import Setting, refuse_pair
from core.models.anatomy import Anatomy


def embedding_width(anatomy: Anatomy, whose: str, method: str) -> int:
    """Width of what the classifier reads. Raises ``InvalidSpec`` where nothing can be read."""
    if anatomy.embedding is None:
        raise refuse_pair(
            whose,
            f"{method} compares what the classifiers read, and timm's {anatomy.architecture} does not show it; use "
            "another architecture or a method that needs logits alone, such as kd",
        )
    return anatomy.embedding


def check_batch(setting: Setting, method: str, *, num_samples: int = 2) -> None:
    """Raise ``InvalidSpec`` where the smallest batch has fewer than ``num_samples`` samples to compare."""
    smallest = setting.num_samples // steps_per_epoch(setting.num_samples, setting.batch_size)
    if smallest < num_samples:
        pointer = "/training/batch_size"
        detail = (
            f"{method} compares the samples of a batch: with {setting.num_samples} training samples in batches of at "
            f"most {setting.batch_size} some have only {smallest}; it needs {num_samples}"
        )
        raise InvalidSpec(f"{pointer}: {detail}", errors=[FieldError(pointer, detail)])

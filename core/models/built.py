"""A model together with what it takes to feed it and to build it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from core.models.preprocessing import Preprocessing


@dataclass(frozen=True, slots=True)
class BuiltModel:
    """A network and its recipe: ``timm.create_model(architecture, **arguments)`` gives the same module.

    ``architecture`` is the name that is really built: a method that adds a distillation token turns a
    ViT into timm's distilled ViT. ``classes`` are names in the order of the logits, where known.
    """

    module: nn.Module
    architecture: str
    arguments: Mapping[str, Any]
    preprocessing: Preprocessing
    classes: tuple[str, ...] | None = None

    @property
    def num_classes(self) -> int:
        """Width of the logits."""
        return int(self.arguments["num_classes"])

    def __call__(self, images_BCHW: Tensor) -> Any:
        """Run the network on pictures in 0…1 of any size and 1 or 3 channels; preprocessing included."""
        return self.module(self.preprocessing(images_BCHW))

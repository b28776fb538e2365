"""A model with its preprocessing and constructor arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from core.models.preprocessing import Preprocessing


@dataclass(frozen=True, slots=True)
class BuiltModel:
    """A network and its arguments: ``timm.create_model(architecture, **arguments)`` builds the same module.

    ``architecture`` is that of the student variant, such as timm's distilled ViT for a method with a distillation
    token. ``classes`` are names in the order of the logits, None if unknown.
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
        """Preprocess images in [0, 1], of any size and with 1 or 3 channels, and run the network on them."""
        return self.module(self.preprocessing(images_BCHW))

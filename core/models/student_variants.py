"""Variants of the requested student that methods train.

``distilled`` is timm's ViT with a distillation token. ``flexible`` is the ViT and ``flexible_swin`` the Swin of
``potstill_models``, for architectures that timm cannot express; ``arguments`` are their additional options.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from core.models.distilled_vit import adapt_to_distilled_vit, to_distilled_vit
from core.models.flexible import adapt_to_flexible_vit, to_flexible_vit
from core.models.flexible_swin import adapt_to_flexible_swin, to_flexible_swin


@dataclass(frozen=True, slots=True)
class StudentVariant:
    """A variant of the requested student."""

    kind: Literal["distilled", "flexible", "flexible_swin"]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def architecture_and_arguments(self, architecture: str, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return name and full arguments of the variant. Raises ``InvalidSpec`` if the student has no such variant."""
        match self.kind:
            case "distilled":
                return to_distilled_vit(architecture, arguments)
            case "flexible":
                return to_flexible_vit(architecture, arguments, **self.arguments)
            case "flexible_swin":
                return to_flexible_swin(architecture, arguments, **self.arguments)

    def adapt_weights(self, state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
        """Adapt weights of the requested student to ``module``, the variant."""
        match self.kind:
            case "distilled":
                return adapt_to_distilled_vit(state, module)
            case "flexible":
                return adapt_to_flexible_vit(state, module)
            case "flexible_swin":
                return adapt_to_flexible_swin(state, module)

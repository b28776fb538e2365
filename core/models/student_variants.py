"""The forms that a method gives to the student that was asked for.

``distilled`` is timm's own ViT with a distillation token. ``flexible`` is the ViT and ``flexible_swin`` the Swin of
``potstill_models``, for what timm cannot express; ``arguments`` are what it is given beyond the asked model's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from core.models.distilled_vit import distilled_twin, widen_state
from core.models.flexible import adapt_state, flexible_twin
from core.models.flexible_swin import adapt_swin_state, swin_twin


@dataclass(frozen=True, slots=True)
class StudentVariant:
    """What becomes of the asked student."""

    kind: Literal["distilled", "flexible", "flexible_swin"]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def architecture_and_arguments(self, architecture: str, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Name and full arguments of the student in this form. Raises ``InvalidSpec`` where it cannot take it."""
        match self.kind:
            case "distilled":
                return distilled_twin(architecture, arguments)
            case "flexible":
                return flexible_twin(architecture, arguments, **self.arguments)
            case "flexible_swin":
                return swin_twin(architecture, arguments, **self.arguments)

    def adapt_weights(self, state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
        """Weights of the asked student, made to fit ``module``, which is the student in this form."""
        match self.kind:
            case "distilled":
                return widen_state(state, module)
            case "flexible":
                return adapt_state(state, module)
            case "flexible_swin":
                return adapt_swin_state(state, module)

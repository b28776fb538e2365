"""Size and cost of a model, measured on the meta device without allocating its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import InvalidSpec
from core.evaluate.flops import count_flops
from core.evaluate.measure import STATE_ENTRY_BYTES
from core.models.build import accepts_drop_path
from core.models.meta_device import build_on_meta, count_parameters
from core.models.plan import ModelPlan
from core.models.weights import BUILD_ERRORS
from core.resolve.build_errors import build_error, check_patches, run_error

MAX_PARAMETERS = 2_000_000_000


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """Size and cost of one model at one image size.

    ``flops`` and ``activations`` (numbers saved for the backward pass) are for one image. ``calls`` is the number of
    modules that a forward pass runs. ``size_bytes`` is the size of the weights file.
    """

    parameters: int
    flops: int
    size_bytes: int
    activations: int
    calls: int
    num_classes: int


def profile_plan(plan: ModelPlan) -> ModelProfile:
    """Profile the model of a plan. Raises InvalidSpec as :func:`profile_model` does."""
    return profile_model(plan.architecture, plan.arguments, image_size=plan.image_size)


def profile_model(architecture: str, arguments: Mapping[str, Any], *, image_size: int) -> ModelProfile:
    """Profile ``timm.create_model(architecture, **arguments)`` at ``image_size`` pixels a side.

    Raises:
        InvalidSpec: timm or torch rejects the model, or it is too large. The detail quotes their message; pointers
            start at the model's own object (``/arguments/patch_size``).
    """
    return _profile(architecture, json.dumps(arguments, sort_keys=True), image_size)


@lru_cache(maxsize=1024)
def has_drop_path(architecture: str, arguments: str) -> bool:
    """Return whether the architecture has stochastic depth; ``arguments`` is JSON."""
    return accepts_drop_path(architecture, json.loads(arguments))


@lru_cache(maxsize=1024)
def _profile(architecture: str, arguments: str, image_size: int) -> ModelProfile:
    options = json.loads(arguments)
    try:
        module = build_on_meta(architecture, options)
    except BUILD_ERRORS as error:
        raise build_error(architecture, options, error) from error
    parameters = count_parameters(module)
    if parameters > MAX_PARAMETERS:
        raise InvalidSpec.for_field("/arguments", f"{parameters:,} parameters; at most {MAX_PARAMETERS:,} are accepted")
    check_patches(module, image_size)
    images = torch.empty(1, int(options["in_chans"]), image_size, image_size, device="meta")
    outputs = _OutputCounter(module)
    try:
        flops = count_flops(module, images)
    except BUILD_ERRORS as error:
        raise run_error(architecture, options, image_size, error) from error
    finally:
        outputs.remove()
    tensors = list(module.state_dict().values())
    return ModelProfile(
        parameters=parameters,
        flops=flops,
        size_bytes=sum(t.numel() * t.element_size() for t in tensors) + STATE_ENTRY_BYTES * len(tensors),
        activations=outputs.numbers,
        calls=outputs.calls,
        num_classes=outputs.logits_width(int(options["num_classes"])),
    )


class _OutputCounter:
    """Counts the outputs of all leaf modules: about the numbers that a backward pass saves."""

    def __init__(self, module: nn.Module) -> None:
        self.numbers = 0
        self.calls = 0
        self._logits: Tensor | None = None
        leaves = [part for part in module.modules() if next(part.children(), None) is None]
        self._hooks = [leaf.register_forward_hook(self._count) for leaf in leaves]
        self._hooks.append(module.register_forward_hook(self._save_logits))

    def _count(self, module: nn.Module, _inputs: Any, output: Any) -> None:
        self.calls += 1
        if isinstance(output, Tensor) and not isinstance(module, nn.Identity):
            self.numbers += output.numel()

    def _save_logits(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self._logits = output if isinstance(output, Tensor) else None

    def logits_width(self, num_classes: int) -> int:
        """Width of the logits. Raises InvalidSpec if the output is not one row of ``num_classes`` logits per image."""
        logits = self._logits
        if logits is None or logits.ndim != 2 or (num_classes and logits.shape[1] != num_classes):
            shape = None if logits is None else list(logits.shape)
            raise InvalidSpec.for_field(
                "/architecture", f"the model's output should be {num_classes} logits per image, not {shape}"
            )
        return int(logits.shape[1])

    def remove(self) -> None:
        """Remove all hooks."""
        for hook in self._hooks:
            hook.remove()

"""What a model is and costs, learnt without its memory: built and run once on the meta device."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from timm.layers import PatchEmbed
from torch import Tensor, nn

from core.errors import InvalidSpec
from core.evaluate.flops import count_flops
from core.evaluate.measure import STATE_ENTRY_BYTES
from core.models.arguments import refused
from core.models.build import accepts_drop_path
from core.models.meta_device import build_on_meta, count_parameters
from core.models.weights import REFUSALS
from core.spec.parse import did_you_mean

MAX_PARAMETERS = 2_000_000_000
WORDS = 300  # of timm's or torch's refusal that are passed on


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """Figures of one model at one image size.

    ``flops`` and ``activations`` (numbers kept for the backward pass) are of one picture, ``calls``
    counts the modules that a forward pass runs, ``size_bytes`` is the weights as a file.
    """

    parameters: int
    flops: int
    size_bytes: int
    activations: int
    calls: int
    num_classes: int


def profile_model(architecture: str, arguments: Mapping[str, Any], *, image_size: int) -> ModelProfile:
    """Appraise ``timm.create_model(architecture, **arguments)`` at ``image_size`` pixels a side.

    Raises:
        InvalidSpec: timm or torch refuses it, in their words, or it is larger than a service takes;
            pointers start at the model's own object (``/arguments/patch_size``).
    """
    return _appraise(architecture, json.dumps(arguments, sort_keys=True), image_size)


@lru_cache(maxsize=1024)
def has_drop_path(architecture: str, arguments: str) -> bool:
    """Whether the architecture has stochastic depth; ``arguments`` as JSON."""
    return accepts_drop_path(architecture, json.loads(arguments))


@lru_cache(maxsize=1024)
def _appraise(architecture: str, arguments: str, image_size: int) -> ModelProfile:
    options = json.loads(arguments)
    try:
        module = build_on_meta(architecture, options)
    except REFUSALS as error:
        raise _cannot_build(architecture, error) from error
    parameters = count_parameters(module)
    if parameters > MAX_PARAMETERS:
        raise refused("/arguments", f"{parameters:,} parameters; at most {MAX_PARAMETERS:,} are accepted")
    _check_patches(module, image_size)
    images = torch.empty(1, int(options["in_chans"]), image_size, image_size, device="meta")
    kept = _Kept(module)
    try:
        flops = count_flops(module, images)
    except REFUSALS as error:
        raise _cannot_run(architecture, image_size, error) from error
    finally:
        kept.remove()
    tensors = list(module.state_dict().values())
    return ModelProfile(
        parameters=parameters,
        flops=flops,
        size_bytes=sum(t.numel() * t.element_size() for t in tensors) + STATE_ENTRY_BYTES * len(tensors),
        activations=kept.numbers,
        calls=kept.calls,
        num_classes=kept.width(int(options["num_classes"])),
    )


class _Kept:
    """Counts what each innermost module gives, which is about what the backward pass keeps."""

    def __init__(self, module: nn.Module) -> None:
        self.numbers = 0
        self.calls = 0
        self._last: Tensor | None = None
        leaves = [part for part in module.modules() if next(part.children(), None) is None]
        self._hooks = [leaf.register_forward_hook(self._see) for leaf in leaves]
        self._hooks.append(module.register_forward_hook(self._end))

    def _see(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self.calls += 1
        if isinstance(output, Tensor) and not isinstance(_module, nn.Identity):
            self.numbers += output.numel()

    def _end(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self._last = output if isinstance(output, Tensor) else None

    def width(self, wanted: int) -> int:
        """Width of the logits; whatever is not one row of them a picture is refused."""
        if self._last is None or self._last.ndim != 2 or (wanted and self._last.shape[1] != wanted):
            shape = None if self._last is None else list(self._last.shape)
            raise refused("/architecture", f"the model does not answer with {wanted} logits a picture but with {shape}")
        return int(self._last.shape[1])

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()


def _check_patches(module: nn.Module, image_size: int) -> None:
    """Refuse a picture that is no multiple of the patch: timm lets it pass and cuts its edge off."""
    embed = getattr(module, "patch_embed", None)
    if not isinstance(embed, PatchEmbed) or getattr(embed, "dynamic_img_pad", False):
        return
    patch = embed.patch_size[0]
    if image_size % patch:
        below, above = image_size // patch * patch, (image_size // patch + 1) * patch
        raise refused(
            "/arguments/patch_size",
            f"{image_size} pixels a side are not a multiple of the patch of {patch}; change patch_size, or the image "
            f"size to {f'{below} or ' if below else ''}{above}",
        )


def _cannot_build(architecture: str, error: Exception) -> InvalidSpec:
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if unknown is None:
        return refused("/arguments", f"{architecture} cannot be built with these: {_words(error)}")
    name = unknown[1]
    if name == "img_size":
        return refused(
            "/arguments/img_size", f"{architecture} takes pictures of any size; use the image_size of training"
        )
    known = inspect.signature(type(build_on_meta(architecture, {})).__init__).parameters
    accepted = [word for word in known if word not in {"self", "kwargs", "args"}]
    hint = did_you_mean(name, accepted)
    return refused(f"/arguments/{name}", f"{architecture} has no argument {name}.{hint} Known: {', '.join(accepted)}.")


def _cannot_run(architecture: str, image_size: int, error: Exception) -> InvalidSpec:
    return refused("/arguments", f"{architecture} cannot run on {image_size} by {image_size} pixels: {_words(error)}")


def _words(error: Exception) -> str:
    words = f"unknown value {error}" if isinstance(error, KeyError) else str(error).strip()
    return (words or type(error).__name__)[:WORDS]

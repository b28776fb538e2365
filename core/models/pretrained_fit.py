"""Check whether pretrained weights fit changed arguments, before anything is downloaded.

timm adapts position embeddings, patch embedding, first convolution and head. It loads other tensors as they are: one of
another shape is an error, and one that the checkpoint lacks would start at random without a word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from core.models.meta_device import build_on_meta
from core.models.upload_names import summary
from core.models.weights import BUILD_ERRORS

_BLOCK_WEIGHT = re.compile(r"(^|\.)(blocks|layers|stages)\..*weight$")
_ADAPTED = re.compile(r"pos|rel|patch_embed")


def unfit_argument(name: str, arguments: Mapping[str, Any], changed: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the first of the ``changed`` arguments that the weights of ``name`` do not fit, and the reason.

    ``name`` may have a pretrained tag. ``arguments`` are all arguments of the model, ``changed`` those of its spec.
    """
    others = {key: value for key, value in arguments.items() if key not in changed}
    for argument, value in changed.items():
        problem = _problem(name, {**others, argument: value})
        if problem is not None:
            return argument, problem
    return None


def _problem(name: str, arguments: Mapping[str, Any]) -> str | None:
    try:
        own, published = _shapes(build_on_meta(name, arguments)), _published_shapes(name)
    except BUILD_ERRORS:
        return None  # the model's profile reports it, or the argument needs another one to be valid
    missing = [tensor for tensor in own if tensor not in published]
    if missing:
        return f"they lack {summary(missing)}"
    for tensor, shape in own.items():
        if shape != published[tensor]:
            return f"their {tensor} is {list(published[tensor])}, not {list(shape)}"
    return None


@cache
def _published_shapes(name: str) -> Mapping[str, tuple[int, ...]]:
    return _shapes(build_on_meta(name, {}))


def _shapes(module: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of the matrices and kernels of a model's blocks, without those that timm adapts."""
    cfg = module.pretrained_cfg or {}
    adapted = {f"{layer}.weight" for key in ("first_conv", "classifier") for layer in _names(cfg.get(key))}
    return {
        name: tuple(tensor.shape)
        for name, tensor in module.state_dict().items()
        if tensor.ndim > 1 and _BLOCK_WEIGHT.search(name) and not _ADAPTED.search(name) and name not in adapted
    }


def _names(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())

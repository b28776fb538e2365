"""``potstill_cnn``: a CNN of timm whose layers have their own numbers of channels, as pruning leaves them.

The network is built by timm; then every tensor in ``shapes`` gets its shape, and its layer the matching attributes.
Names of weights, forward pass and features are those of the base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

__all__: list[str] = []  # timm adds the registered name

_CFG_KEYS = ("first_conv", "classifier", "pool_size")
_MAX_DIMENSIONS = 4
_MAX_SIZE = 2**16


def resize(module: nn.Module, shapes: Mapping[str, Sequence[int]], groups: Mapping[str, int]) -> nn.Module:
    """Give tensors of a CNN other shapes, by name, and convolutions another number of groups; return the module.

    Resized layers are initialized again. Raises ValueError for a tensor or a layer that does not exist.
    """
    layers = dict(module.named_modules())
    resized: dict[str, nn.Module] = {}
    for name, shape in shapes.items():
        path, _, attribute = name.rpartition(".")
        old = getattr(layers.get(path), attribute, None)
        if not isinstance(old, Tensor) or len(shape) != old.ndim:
            raise ValueError(f"shapes[{name!r}] is no tensor of {len(shape)} dimensions in the network")
        _replace(layers[path], attribute, old, tuple(shape))
        resized[path] = layers[path]
    for path, number in groups.items():
        layer = layers.get(path)
        if not isinstance(layer, nn.Conv2d):
            raise ValueError(f"groups[{path!r}] is no convolution of the network")  # noqa: TRY004 - as timm does
        layer.groups = number
        resized[path] = layer
    for layer in resized.values():
        _update_attributes(layer)
        reset = getattr(layer, "reset_parameters", None)
        if reset is not None:
            reset()
    _update_features(module)
    return module


def _replace(layer: nn.Module, attribute: str, old: Tensor, shape: tuple[int, ...]) -> None:
    """Replace a tensor by one of another shape, which is filled with the first value of the old one."""
    new = old.detach().flatten()[:1].repeat(shape) if len(shape) == 1 else torch.zeros(shape, dtype=old.dtype)
    new = new.to(old.device)
    if isinstance(old, nn.Parameter):
        setattr(layer, attribute, nn.Parameter(new, requires_grad=old.requires_grad))
    else:
        setattr(layer, attribute, new)


def _update_attributes(layer: Any) -> None:
    if isinstance(layer, nn.Conv2d):
        layer.out_channels = layer.weight.shape[0]
        layer.in_channels = layer.weight.shape[1] * layer.groups
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d) and layer.running_mean is not None:
        layer.num_features = layer.running_mean.shape[0]
    elif isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = tuple(layer.weight.shape)
    elif isinstance(layer, nn.GroupNorm):
        layer.num_channels = layer.weight.shape[0]


def _update_features(module: Any) -> None:
    """Update the widths that timm's networks state of themselves."""
    classifier = module.get_classifier()
    weight = getattr(classifier, "weight", None)
    if isinstance(weight, Tensor):
        width = weight.shape[1]
        if module.head_hidden_size == module.num_features:
            module.num_features = width
        module.head_hidden_size = width


def _check(shapes: Mapping[str, Sequence[int]], groups: Mapping[str, int]) -> None:
    """Raise ValueError for sizes that are no sizes."""
    for name, shape in shapes.items():
        sizes = list(shape)
        if not 1 <= len(sizes) <= _MAX_DIMENSIONS or any(
            isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= _MAX_SIZE for size in sizes
        ):
            raise ValueError(f"shapes[{name!r}] is a list of 1 to {_MAX_DIMENSIONS} sizes of 1 to {_MAX_SIZE}")
    if any(isinstance(number, bool) or not isinstance(number, int) or number < 1 for number in groups.values()):
        raise ValueError("each of groups is at least 1")


def _build(
    base: str = "resnet18",
    base_arguments: Mapping[str, Any] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    groups: Mapping[str, int] | None = None,
    **arguments: Any,
) -> nn.Module:
    shapes, groups = shapes or {}, groups or {}
    _check(shapes, groups)
    if base == "potstill_cnn":
        raise ValueError("base is an architecture of timm")
    network: nn.Module = timm.create_model(base, pretrained=False, **{**(base_arguments or {}), **arguments})
    return resize(network, shapes, groups)


default_cfgs = generate_default_cfgs(
    {
        "potstill_cnn": {
            "url": "",
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "crop_pct": 0.95,
            "interpolation": "bicubic",
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
            "first_conv": "conv1",
            "classifier": "fc",
        }
    }
)


@register_model  # type: ignore[untyped-decorator]
def potstill_cnn(pretrained: bool = False, **kwargs: Any) -> Any:  # noqa: FBT001, FBT002 - timm's signature
    """Create a CNN of timm, ``base`` with ``base_arguments``, whose tensors have the given ``shapes``."""
    model = build_model_with_cfg(_build, "potstill_cnn", pretrained, **kwargs)
    base = timm.get_pretrained_cfg(kwargs.get("base", "resnet18"))
    if base is not None and not pretrained:  # a stored one has its own
        own = base.to_dict()
        model.pretrained_cfg |= {key: own[key] for key in _CFG_KEYS if own.get(key) is not None}
    return model

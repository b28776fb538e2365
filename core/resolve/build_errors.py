"""Errors of models that cannot be built or run: the argument or image size at fault, the reason, and what fits.

timm and torch raise whatever fails first. The argument at fault is found by trials without each one, and fitting image
sizes by trials with others, on the meta device.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.layers import PatchEmbed
from torch import nn

from core.errors import FieldError, InvalidSpec
from core.models import catalog
from core.models.argument_values import argument_types, shape_problem
from core.models.meta_device import build_on_meta, on_meta
from core.models.weights import BUILD_ERRORS
from core.spec.parse import did_you_mean
from core.spec.parse import pointer as json_pointer

SIZE_POINTER = "/arguments/img_size"
_FROM_DATASET = frozenset({"num_classes", "in_chans"})
_MAX_SIZE = 1024
_SIZE_STEPS = (8, 16, 32, 64)  # image sizes are multiples of strides and windows
_MAX_TRIALS = 3  # in each direction, and of arguments left out
_MAX_REASON_CHARACTERS = 300
# Messages of Python and torch about their own values; timm's are sentences about the model.
_INTERNAL = re.compile(
    r"object|operand|NoneType|instance|iterable|subscript|callable|attribute|out of range|argument|torch\.|[Tt]ensor|"
    r"unpack|formatting|input size|[Kk]ernel|tuple|dict\b|dimension|shape|broadcast|Expected|Exception|modulo|"
    r"division|power|got \("
)


def build_error(architecture: str, arguments: Mapping[str, Any], error: Exception) -> InvalidSpec:
    """Return the error of a model that cannot be built; pointers start at the model's own object."""
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if unknown is not None and unknown[1] in arguments:
        return _unknown_argument(architecture, unknown[1])
    found = _heads_error(architecture, arguments, error) or _list_error(architecture, arguments)
    if found is not None:
        return InvalidSpec.for_fields([found])
    for name in _own_arguments(arguments):
        rest = {key: value for key, value in arguments.items() if key != name}
        if _builds(architecture, rest):
            if name == "img_size":
                return size_error(architecture, arguments, int(arguments["img_size"]), error)
            detail = f"{architecture} cannot be built with {name} {_short(arguments[name])}{_because(error)}"
            return InvalidSpec.for_field(f"/arguments{json_pointer([name])}", detail)
    names = ", ".join(_own_arguments(arguments))
    detail = f"{architecture} cannot be built with these values of {names or 'the dataset'} together{_because(error)}"
    return InvalidSpec.for_field("/arguments", detail)


def run_error(architecture: str, arguments: Mapping[str, Any], image_size: int, error: Exception) -> InvalidSpec:
    """Return the error of a model that was built and cannot run at ``image_size`` pixels a side."""
    native = catalog.native_image_size(architecture)
    if native == image_size or not _runs(architecture, arguments, native):
        for name in _own_arguments(arguments):
            rest = {key: value for key, value in arguments.items() if key != name}
            if name != "img_size" and _runs(architecture, rest, image_size):
                detail = f"{architecture} cannot run with {name} {_short(arguments[name])}{_because(error)}"
                return InvalidSpec.for_field(f"/arguments{json_pointer([name])}", detail)
    return size_error(architecture, arguments, image_size, error)


def size_error(architecture: str, arguments: Mapping[str, Any], image_size: int, error: Exception) -> InvalidSpec:
    """Return the error of a model that does not fit its image size, with the nearest sizes that fit."""
    detail = f"{architecture} cannot run on {image_size} by {image_size} pixels{_because(error)}"
    sizes = fitting_sizes(architecture, arguments, image_size)
    native = catalog.native_image_size(architecture)
    texts = [f"{size} (its own size)" if size == native else str(size) for size in sizes]
    detail += f"; use {' or '.join(texts)}" if texts else "; use another architecture"
    return InvalidSpec.for_field(SIZE_POINTER, detail)


def fitting_sizes(architecture: str, arguments: Mapping[str, Any], image_size: int) -> list[int]:
    """Return the nearest smaller and the nearest larger image size that the model runs at, as far as they are found.

    A few sizes are tried in each direction, then the architecture's own.
    """
    native = catalog.native_image_size(architecture)
    smaller = {image_size // step * step for step in _SIZE_STEPS} - {0, image_size}
    larger = {(image_size // step + 1) * step for step in _SIZE_STEPS}
    found = [
        next((size for size in sizes if _runs(architecture, arguments, size)), None)
        for sizes in (sorted(smaller)[::-1][:_MAX_TRIALS], sorted(larger)[:_MAX_TRIALS])
    ]
    sizes = [size for size in found if size is not None]
    if native not in {*sizes, image_size} and len(sizes) < 2 and _runs(architecture, arguments, native):
        sizes.append(native)
    return sorted(sizes)


def check_patches(module: nn.Module, image_size: int) -> None:
    """Raise InvalidSpec if the image size is no multiple of the patch size: timm would silently crop the image."""
    embed = getattr(module, "patch_embed", None)
    if not isinstance(embed, PatchEmbed) or getattr(embed, "dynamic_img_pad", False):
        return
    for patch in embed.patch_size:
        if image_size % patch:
            below, above = image_size // patch * patch, (image_size // patch + 1) * patch
            raise InvalidSpec.for_field(
                "/arguments/patch_size",
                f"{image_size} pixels a side are not a multiple of the patch of {patch}; change patch_size, or the "
                f"image size to {f'{below} or ' if below else ''}{above}",
            )


def at_size_field(error: InvalidSpec, pointer: str) -> InvalidSpec:
    """Return the error with the field that sets the image size in place of ``img_size``, which the spec leaves out."""
    fields = [FieldError(pointer if e.pointer == SIZE_POINTER else e.pointer, e.detail) for e in error.errors]
    return InvalidSpec.for_fields(fields) if fields else error


def _unknown_argument(architecture: str, name: str) -> InvalidSpec:
    if name == "img_size":
        return InvalidSpec.for_field(SIZE_POINTER, f"{architecture} takes images of any size; use training.image_size")
    accepted = list(argument_types(architecture))
    detail = f"{architecture} has no argument {name}.{did_you_mean(name, accepted)} Known: {', '.join(accepted)}."
    return InvalidSpec.for_field(f"/arguments/{name}", detail)


def _heads_error(architecture: str, arguments: Mapping[str, Any], error: Exception) -> FieldError | None:
    """Return the error of a width that is no multiple of the number of heads."""
    if "divisible by num_heads" not in str(error):
        return None
    native = build_on_meta(architecture, {})
    heads = arguments.get("num_heads") or next((m.num_heads for m in native.modules() if hasattr(m, "num_heads")), None)
    width = arguments.get("embed_dim") or getattr(native, "embed_dim", None)
    if type(heads) is not int or type(width) is not int:
        return None
    below, above = width // heads * heads, (width // heads + 1) * heads
    field = "embed_dim" if "embed_dim" in arguments else "num_heads"
    detail = (
        f"embed_dim {width} is not divisible by num_heads {heads}; use an embed_dim of "
        f"{f'{below} or ' if below else ''}{above}, or another num_heads"
    )
    return FieldError(f"/arguments/{field}", detail)


def _list_error(architecture: str, arguments: Mapping[str, Any]) -> FieldError | None:
    """Return the error of a list for a single value, of the reverse, or of lists of different length."""
    types = argument_types(architecture)
    for name in _own_arguments(arguments):
        problem = shape_problem(arguments[name], types[name]) if name in types else None
        if problem is not None:
            return FieldError(f"/arguments{json_pointer([name])}", f"{name}: {problem}")
    lengths = {name: len(arguments[name]) for name in _own_arguments(arguments) if isinstance(arguments[name], list)}
    lengths.pop("patch_size", None)
    if len(set(lengths.values())) > 1:
        parts = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        last = list(lengths)[-1]
        return FieldError(f"/arguments{json_pointer([last])}", f"lists have one entry for each stage, but {parts}")
    return None


def _own_arguments(arguments: Mapping[str, Any]) -> Sequence[str]:
    return [name for name in arguments if name not in _FROM_DATASET]


def _builds(architecture: str, arguments: Mapping[str, Any]) -> bool:
    try:
        build_on_meta(architecture, arguments)
    except BUILD_ERRORS:
        return False
    return True


def _runs(architecture: str, arguments: Mapping[str, Any], image_size: int) -> bool:
    """Whether the model can be built for and run at an image size."""
    if not 1 <= image_size <= _MAX_SIZE:
        return False
    sized = {**arguments, "img_size": image_size} if "img_size" in arguments else arguments
    try:
        module = build_on_meta(architecture, sized)
        check_patches(module, image_size)
        with on_meta(), torch.no_grad():
            module(torch.empty(1, int(arguments["in_chans"]), image_size, image_size))
    except (*BUILD_ERRORS, InvalidSpec):
        return False
    return True


def _because(error: Exception) -> str:
    """Return the reason of an error if it is about the model, after a colon; otherwise an empty string."""
    text = f"unknown value {error}" if isinstance(error, KeyError) else str(error).strip()
    if not text or _INTERNAL.search(text):
        return ""
    return f": {text[:_MAX_REASON_CHARACTERS].rstrip('.')}"


def _short(value: Any) -> str:
    return repr(value)[:80]

"""Load an uploaded file into its architecture, run it once, and store it as a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from safetensors.torch import load_file
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from core.errors import InvalidSpec, WeightsMismatch
from core.ingest_errors import ModelNotFinite
from core.job_warnings import JobWarning
from core.models import catalog
from core.models.argument_values import check_values
from core.models.arguments import check_arguments, square_size
from core.models.meta_device import build_on_meta
from core.models.preprocessing import Preprocessing, normalized, plain_preprocessing
from core.models.safetensors_header import Header, read_header, read_model_info
from core.models.upload_advice import explain
from core.models.upload_names import NameMatch, can_be_missing, foreign_library, match_names, summary
from core.models.weights import BUILD_ERRORS, differences, load_strictly, save_folder
from core.spec.info import ModelInfo, Normalization

_PLAIN_MATCH = 0.1  # fraction of the model's names below which the file belongs to another library


def check_upload(
    file: Path,
    architecture: str,
    arguments: Mapping[str, Any],
    *,
    normalization: Normalization | None,
    classes: Sequence[str] | None,
    out_folder: Path,
) -> ModelInfo:
    """Load an uploaded file strictly, run it once and store it as a folder.

    ``architecture`` may have a pretrained tag, whose number of classes, size and normalization are then the defaults.
    Prefixes of training wrappers are removed from the names where the rest fits. The info reports this, and the
    normalization that is assumed where none is given.

    Raises:
        UnsupportedMedia: The file is not safetensors.
        InvalidSpec: The architecture or its arguments are invalid; pointers are those of ``POST /v1/models``.
        WeightsMismatch: The weights do not fit, are not finite, or give no finite outputs.
    """
    header = read_header(file)
    name = catalog.canonical_name(architecture)
    check_arguments(arguments, pointer="/arguments")
    full = check_values(catalog.require(name), _full_arguments(name, arguments), pointer="/arguments")
    try:
        meta = build_on_meta(name, full)
    except BUILD_ERRORS as error:
        detail = f"timm refuses these arguments for {name}: {error or type(error).__name__}"
        raise InvalidSpec(detail) from error
    match = _match(header, name, full, meta)
    num_classes = int(full.get("num_classes", meta.num_classes))
    if classes is not None and len(classes) != num_classes:
        raise WeightsMismatch(f"{len(classes)} class names are given and the model has {num_classes} classes.")
    full |= {"num_classes": num_classes, "in_chans": int(full.get("in_chans", 3))}
    size, any_size = _image_size(name, full)
    assumed = _preprocessing(name, full, normalization, size)
    module = timm.create_model(name, pretrained=False, **full).eval()
    load_strictly(module, _matched_tensors(file, match, module), name=name)
    _run_once(module, assumed.preprocessing)
    save_folder(
        module,
        out_folder,
        architecture=name,
        arguments=full,
        preprocessing=assumed.preprocessing,
        classes=classes,
        any_size=any_size,
    )
    warnings = (*match.warnings(), *assumed.warnings)
    return read_model_info(out_folder).model_copy(update={"normalization_source": assumed.source, "warnings": warnings})


def _full_arguments(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    full = {key: value for key, value in arguments.items() if value is not None}
    size = square_size(full.get("img_size"), pointer="/arguments/img_size")
    if size is not None:
        full["img_size"] = size
    elif catalog.takes_image_size(name):
        full["img_size"] = catalog.native_image_size(name)
    return full


def _image_size(name: str, full: Mapping[str, Any]) -> tuple[int, bool]:
    """Return the image size, and whether the model accepts any other size, as CNNs do."""
    if "img_size" in full:
        return int(full["img_size"]), False
    return catalog.native_image_size(name), True


# --- names and shapes -------------------------------------------------------------------------------


def _match(header: Header, name: str, full: Mapping[str, Any], meta: nn.Module) -> NameMatch:
    """Match the file's tensors to the model's. Raises WeightsMismatch, with the fix where the file shows it."""
    own = meta.state_dict()
    match = match_names(header.tensors, own.keys())
    shapes = {match.names[file_name]: header.tensors[file_name].shape for file_name in match.names}
    shapes |= {buffer: tuple(own[buffer].shape) for buffer in own if buffer not in shapes and can_be_missing(buffer)}
    problems = differences(shapes, meta)
    if match.outside and not problems:
        problems = _describe_outside(match)
    elif match.outside:
        problems += f"; outside of the model: {summary(match.outside)}"
    if not problems:
        return match
    num_known = sum(file_name in own for file_name in match.names.values())
    library = foreign_library(header.tensors)
    if library is not None and num_known < _PLAIN_MATCH * len(own):
        raise WeightsMismatch(
            f"The tensors have the names of {library}, not of timm's {name}: copy the weights into the timm model and "
            f"save its state_dict. {problems[:1].upper()}{problems[1:]}."
        )
    advice = explain(name, full, shapes, meta) if num_known else ""
    explained = f"{advice}. Differences: " if advice else ""
    raise WeightsMismatch(f"The weights do not fit {name} with these arguments: {explained}{problems}.")


def _describe_outside(match: NameMatch) -> str:
    prefix = match.prefixes[0] if match.prefixes else ""
    where = f"under {prefix}" if prefix else "without a prefix"
    if match.rivals:
        several = " and ".join([prefix or "no prefix", *match.rivals[:2]])
        return f"the file holds several models ({several}); save only one of them"
    return f"the tensors {where} fit, and the file holds more: {summary(match.outside)}; save only those {where}"


def _matched_tensors(file: Path, match: NameMatch, module: nn.Module) -> dict[str, Tensor]:
    """Load the tensors by the model's names, in single precision, with counters that the file may lack."""
    state = load_file(file)
    found = _as_float32({own: state[file_name] for file_name, own in match.names.items()})
    counters = {name: buffer for name, buffer in module.state_dict().items() if can_be_missing(name)}
    return {**counters, **found}


def _as_float32(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    broken = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise ModelNotFinite(f"The weights hold NaN or infinity. In: {summary(broken)}.")
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


# --- preprocessing ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Assumed:
    """The preprocessing of an upload and the source of its normalization."""

    preprocessing: Preprocessing
    source: Literal["request", "architecture", "default"]
    warnings: tuple[JobWarning, ...] = ()


def _preprocessing(name: str, full: Mapping[str, Any], normalization: Normalization | None, size: int) -> _Assumed:
    channels = int(full["in_chans"])
    cfg = get_pretrained_cfg(name)
    try:
        if normalization is not None:
            given = normalized(normalization.mean, normalization.std, image_size=size, channels=channels)
            return _Assumed(given, "request")
        if cfg is not None:
            known = normalized(cfg.mean, cfg.std, image_size=size, channels=channels)
            return _Assumed(known, "architecture", (_assumption(known, f"those of timm's {_tagged(name, cfg.tag)}"),))
    except ValueError as error:
        raise WeightsMismatch(f"normalization does not fit {channels} channels: {error}") from error
    plain = plain_preprocessing(image_size=size, channels=channels)
    return _Assumed(plain, "default", (_assumption(plain, "which scale pixels to [-1, 1]"),))


def _tagged(name: str, tag: str | None) -> str:
    return f"{name}.{tag}" if tag and "." not in name else name


def _assumption(preprocessing: Preprocessing, origin: str) -> JobWarning:
    mean, std = ([round(value, 4) for value in values] for values in (preprocessing.mean, preprocessing.std))
    return JobWarning(
        code="normalization_assumed",
        field="/normalization",
        message=f"no normalization was given: mean {mean} and std {std} are assumed, {origin}",
        fix="If the model was trained with others, upload it again with its normalization",
    )


def _run_once(module: nn.Module, preprocessing: Preprocessing) -> None:
    size = preprocessing.image_size
    image = torch.full((1, preprocessing.channels, size, size), 0.5)
    try:
        with torch.inference_mode():
            logits = module(preprocessing(image))
    except BUILD_ERRORS as error:
        raise WeightsMismatch(f"The model cannot run on {size} by {size} pixels: {error}") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise WeightsMismatch("The output is not one row of logits per image.")
    if not logits.isfinite().all():
        raise ModelNotFinite("The output for a gray image is NaN or infinite.")

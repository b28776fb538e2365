"""Read the header of a safetensors file, with only the standard library.

The API validates an upload with it before the file is stored, in a process without torch. The format
(https://github.com/huggingface/safetensors#format): eight bytes little-endian length N, N bytes of JSON
``{name: {dtype, shape, data_offsets}}``, then the data without gaps.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from core.errors import WeightsMismatch
from core.ingest_errors import ModelHeaderInvalid, ModelNotSafetensors
from core.spec.info import ModelInfo

# The format allows 100 MB, which takes 3 GB of memory when parsed; timm's largest models need 0.3 MB.
MAX_HEADER_BYTES = 8 * 1024**2
MAX_TENSORS = 100_000
_DTYPE_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2,
    "U8": 1, "BOOL": 1,
}  # fmt: skip
_MAX_DIMENSIONS = 64  # torch's limit; a product of millions of numbers would take minutes
_MAX_NUMBER = 2**63
_FIX = "save the weights with safetensors.torch.save_file and send that file"


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Data type and shape of one tensor."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """Tensors and metadata of a safetensors file, without the data. ``size_bytes`` is the size of the file."""

    tensors: Mapping[str, TensorEntry]
    size_bytes: int
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_header(source: Path | bytes, *, size_bytes: int | None = None) -> Header:
    """Read and validate the header of a complete safetensors file.

    ``size_bytes``: size of the file, if ``source`` is only its beginning, with the header.

    Raises:
        ModelNotSafetensors: The file is a pickle, an archive or of another type.
        ModelHeaderInvalid: The header does not describe the file: truncated, overlapping or missing tensors.
    """
    if isinstance(source, bytes):
        return _read(io.BytesIO(source), len(source) if size_bytes is None else size_bytes)
    with source.open("rb") as file:
        return _read(file, source.stat().st_size)


def read_model_info(folder: Path) -> ModelInfo:
    """Read the info of a folder with ``config.json`` and ``model.safetensors``, without loading the weights.

    Raises:
        WeightsMismatch: The folder was not written by ``core.models.weights.save_folder``.
    """
    try:
        content = (folder / "config.json").read_bytes()
        size_bytes = (folder / "model.safetensors").stat().st_size
    except OSError as error:
        raise WeightsMismatch(f"{folder.name} is not a stored model: {error!r}") from error
    return parse_model_info(content, size_bytes=size_bytes, name=folder.name)


def parse_model_info(content: bytes, *, size_bytes: int, name: str) -> ModelInfo:
    """Read the info from the content of ``config.json``; ``size_bytes`` is the size of the weights.

    Raises :class:`WeightsMismatch`, whose message has ``name``, for any other content.
    """
    try:
        config = json.loads(content)
        cfg = config["pretrained_cfg"]
        return ModelInfo(
            architecture=config["architecture"],
            arguments=config["model_args"],
            num_classes=config["num_classes"],
            channels=cfg["input_size"][0],
            image_size=None if config["potstill"]["any_size"] else cfg["input_size"][-1],
            parameters=config["potstill"]["parameters"],
            size_bytes=size_bytes,
            classes=tuple(cfg["label_names"]) if cfg.get("label_names") else None,
            normalization={"mean": cfg["mean"], "std": cfg["std"]},
        )
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsMismatch(f"{name} is not a stored model: {error!r}") from error


def _read(file: IO[bytes], size: int) -> Header:
    start, opening = file.read(8), file.read(1)
    # The first bytes alone are not enough: a length may start with 0x80 or equal PK.
    if opening != b"{" and (start[:1] == b"\x80" or start[:2] in {b"PK", b"\x1f\x8b", b"BZ"}):
        raise ModelNotSafetensors(f"This is a pickle or an archive, which is never opened here; {_FIX}.")
    length = int.from_bytes(start, "little")
    if len(start) < 8 or not 2 <= length <= size - 8:
        raise ModelNotSafetensors(f"This is not a safetensors file, or not all of it; {_FIX}.")
    if length > MAX_HEADER_BYTES:
        raise ModelHeaderInvalid(f"The header has {length:,} bytes, at most {MAX_HEADER_BYTES:,} are read; {_FIX}.")
    try:
        entries = json.loads(opening + file.read(length - 1), object_pairs_hook=_reject_duplicate_names)
    except (ValueError, RecursionError) as error:
        raise ModelNotSafetensors(f"This is not a safetensors file: its header is not JSON; {_FIX}.") from error
    if not isinstance(entries, dict):
        raise ModelNotSafetensors(f"This is not a safetensors file: its header is not an object; {_FIX}.")
    metadata = entries.pop("__metadata__", {})
    if not entries or len(entries) > MAX_TENSORS or not isinstance(metadata, dict):
        raise ModelHeaderInvalid(f"The file holds {len(entries)} tensors; {_FIX}.")
    tensors = _tensors(entries, data_bytes=size - 8 - length)
    return Header(tensors=tensors, size_bytes=size, metadata=metadata)


def _reject_duplicate_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object; raise ModelHeaderInvalid for duplicate names, which parsers resolve differently."""
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ModelHeaderInvalid(f"The header has a duplicate name; {_FIX}.")
    return entries


def _tensors(entries: dict[str, Any], *, data_bytes: int) -> dict[str, TensorEntry]:
    tensors, spans = {}, []
    for name, entry in entries.items():
        try:
            shape = _non_negative_integers(entry["shape"], max_length=_MAX_DIMENSIONS)
            begin, end = _non_negative_integers(entry["data_offsets"], max_length=2)
            width = _DTYPE_BYTES[entry["dtype"]]
        except (KeyError, TypeError, ValueError) as error:
            raise ModelHeaderInvalid(f"Tensor {name[:80]!r} has a malformed header entry; {_FIX}.") from error
        if end - begin != width * math.prod(shape):
            raise ModelHeaderInvalid(f"Tensor {name[:80]!r} does not have the size that its header declares; {_FIX}.")
        tensors[name] = TensorEntry(entry["dtype"], shape)
        spans.append((begin, end))
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise ModelHeaderInvalid(f"The tensors overlap or leave gaps; {_FIX}.")
        position = end
    if position != data_bytes:
        raise ModelHeaderInvalid(f"The file should hold {position} bytes of tensors and holds {data_bytes}; {_FIX}.")
    return tensors


def _non_negative_integers(values: Any, *, max_length: int) -> tuple[int, ...]:
    """Validate a short list of sizes or offsets. Raises ``ValueError`` for other values."""
    if not isinstance(values, list) or len(values) > max_length:
        raise ValueError("not a short list")
    if not all(type(value) is int and 0 <= value < _MAX_NUMBER for value in values):
        raise ValueError("not integers of at least zero")
    return tuple(values)

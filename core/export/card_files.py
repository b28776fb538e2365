"""The section of the model card about the exported files: inputs, and what was measured of each file."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from core.models.built import BuiltModel
from core.spec.export_options import ExportOptions, GraphOptions
from core.spec.exports import EXPORT_FORMATS, file_names

_COLUMNS = ("file", "top-1", "largest logit difference", "ms per image", "ms per 32 images", "MB", "content")


def files_section(
    student: BuiltModel,
    receipts: Mapping[ExportOptions, Mapping[str, Any]],
    compressed: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> str:
    """Return a table of the files, and a sentence about the input of each graph format.

    ``compressed`` has the receipts of the files of compression steps by artifact name.
    """
    lines = [f"| {' | '.join(_COLUMNS)} |", f"|{' --- |' * len(_COLUMNS)}"]
    lines += [_row(file_names(options)[0], receipt, _content(options.format)) for options, receipt in receipts.items()]
    first = {name: receipt for name, receipt in compressed.items() if receipt["files"][0]["name"] == name}
    lines += [_row(name, receipt, f"compressed: {_content(receipt['format'])}") for name, receipt in first.items()]
    inputs = [_input(student, options) for options in receipts if isinstance(options, GraphOptions)]
    counts = {receipt["evaluated_images"] for receipt in (*receipts.values(), *first.values())}
    note = (
        f"Each file was measured under its own runtime: top-1 on {_numbers(counts)} images of the test split, the "
        "logits on training images against PyTorch. `report.json` has the receipts, with hashes and versions."
    )
    return "\n\n".join(["\n".join(lines), note, *inputs])


def _content(export_format: str) -> str:
    return EXPORT_FORMATS[export_format].summary


def _row(name: str, receipt: Mapping[str, Any], content: str) -> str:
    top1, latency = receipt["top1"], receipt["latency_ms"]
    cells = (
        f"`{name}`",
        "—" if top1 is None else f"{100 * top1:.2f} %",
        f"{receipt['logits']['max_difference']:.1g}",
        f"{latency['1']:.2f}",
        f"{latency['32']:.2f}",
        f"{receipt['size_bytes'] / 1e6:.2f}",
        content,
    )
    return f"| {' | '.join(cells)} |"


def _input(student: BuiltModel, options: GraphOptions) -> str:
    """Describe what the graph takes: the most frequent error is an image that is not normalized."""
    preprocessing = student.preprocessing
    name, size = file_names(options)[0], preprocessing.image_size
    shape = f"of shape `(batch, {preprocessing.channels}, {size}, {size})`"
    if options.preprocessing:
        return (
            f"`{name}` takes `images`, **uint8 pixels in 0…255** {shape}, and returns `logits`: scaling and "
            "normalization are in the file. Resize and crop the image as below."
        )
    mean, std = (
        "[" + ", ".join(f"{value:.4g}" for value in values) + "]" for values in (preprocessing.mean, preprocessing.std)
    )
    return (
        f"`{name}` takes **normalized** `images`, float32 {shape}, and returns `logits`. Compute them from pixels in "
        f"0…255 as `(pixels / 255 - mean) / std` with mean {mean} and std {std}; with other values the predictions are "
        "wrong, without an error."
    )


def _numbers(counts: set[int]) -> str:
    return " or ".join(f"{count:,}" for count in sorted(counts))

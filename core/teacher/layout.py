"""Layout of a teacher's outputs for one image as a row of float16 values: packing and unpacking.

Shapes: B images, W values per row, C classes, K most probable classes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.models.built import BuiltModel
from core.models.meta_device import build_on_meta
from core.models.taps import FeatureRequest, Outputs, run_tapped

_MAX_FLOAT16 = float(np.finfo(np.float16).max)
_TEMPLATE_IMAGES = 2
_INDEX_BITS = 16  # of a class index that one value of a row holds
_MAX_NARROW_CLASSES = 1 << _INDEX_BITS


@dataclass(frozen=True, slots=True)
class Layout:
    """Order of the values in a row: logits first, then the requested features.

    ``template`` is the output of the teacher for two images on the meta device. ``top_k`` is the number of stored
    logits; None stores all of them. A sparse row holds the K largest logits, one value for every other class, and the
    indices of the K classes. Attention weights are not stored: they follow from queries and keys.
    """

    request: FeatureRequest
    template: Outputs
    top_k: int | None

    @property
    def width(self) -> int:
        """Number of values in a row, W."""
        features_width = sum(_values_per_image(tensor) for tensor in _tensors(self.template)[1:])
        return self._logits_width + features_width

    def key_fields(self) -> dict[str, Any]:
        """Return the part of a cache key that depends on the layout."""
        shapes = [list(tensor.shape[1:]) for tensor in _tensors(self.template)]
        return {"wanted": asdict(self.request), "shapes": shapes, "likeliest": self.top_k}

    def pack(self, outputs: Outputs) -> Tensor:
        """Return rows (B, W) in float16. Values outside its range are clamped to ±65,504."""
        assert not outputs.token_logits, "a teacher in evaluation mode has one set of logits"
        logits_BC, *features = _tensors(_without_attention_weights(outputs))
        size_B = len(logits_BC)
        rows = [self._pack_logits(logits_BC), *(_to_half(feature.reshape(size_B, -1)) for feature in features)]
        return torch.cat(rows, dim=1)

    def unpack(self, rows_BW: Tensor) -> Outputs:
        """Return the outputs (B images) that rows hold, in float32."""
        size_B, end = len(rows_BW), self._logits_width
        logits_BC = self._unpack_logits(rows_BW[:, :end])

        def read(template: Tensor) -> Tensor:
            nonlocal end
            if template is self.template.logits:
                return logits_BC
            start, end = end, end + _values_per_image(template)
            values = rows_BW[:, start:end].float()
            return values.reshape(size_B * template.shape[0] // _TEMPLATE_IMAGES, *template.shape[1:])

        return self.template.map(read)

    # --- logits -------------------------------------------------------------------------------------

    @property
    def _num_classes(self) -> int:
        return self.template.logits.shape[1]

    @property
    def _logits_width(self) -> int:
        if self.top_k is None:
            return self._num_classes
        return _sparse_width(self.top_k, self._num_classes)

    def _pack_logits(self, logits_BC: Tensor) -> Tensor:
        if self.top_k is None:
            return _to_half(logits_BC)
        values_BK, indices_BK = logits_BC.float().topk(self.top_k, dim=1)
        others_BC = logits_BC.float().scatter(1, indices_BK, -math.inf)
        mean_B1 = others_BC.logsumexp(dim=1, keepdim=True) - math.log(self._num_classes - self.top_k)
        parts = [indices_BK]
        if self._num_classes > _MAX_NARROW_CLASSES:
            parts = [indices_BK & (_MAX_NARROW_CLASSES - 1), indices_BK >> _INDEX_BITS]
        # Indices are stored by their bits: an index above 32,767 wraps around in int16, and unpacking reverts it.
        bits = torch.cat(parts, dim=1).to(torch.int32).to(torch.int16)
        return torch.cat((_to_half(values_BK), _to_half(mean_B1), bits.view(torch.float16)), dim=1)

    def _unpack_logits(self, rows_BR: Tensor) -> Tensor:
        """Return all logits (B, C). In a sparse row, the other classes share one logit with their total probability."""
        if self.top_k is None:
            return rows_BR.float()
        k = self.top_k
        values = rows_BR[:, : k + 1].float()
        bits = rows_BR[:, k + 1 :].contiguous().view(torch.int16).long() & (_MAX_NARROW_CLASSES - 1)
        indices_BK = bits[:, :k]
        if self._num_classes > _MAX_NARROW_CLASSES:
            indices_BK = indices_BK | (bits[:, k:] << _INDEX_BITS)
        return values[:, k:].repeat(1, self._num_classes).scatter_(1, indices_BK, values[:, :k])


def layout_of(built: BuiltModel, request: FeatureRequest, top_k: int | None = None) -> Layout:
    """Return the layout of a teacher's outputs; see :func:`layout_for`."""
    return layout_for(built.architecture, built.arguments, built.preprocessing.image_size, request, top_k)


def layout_for(
    architecture: str, arguments: Any, image_size: int, request: FeatureRequest, top_k: int | None = None
) -> Layout:
    """Return the layout for ``timm.create_model(architecture, **arguments)`` at ``image_size`` pixels per side.

    ``top_k`` is the number of most probable classes that the method needs; None needs all. Rows are sparse only where
    that makes them shorter.
    """
    return _layout_for(architecture, json.dumps(dict(arguments), sort_keys=True), image_size, request, top_k)


@lru_cache(maxsize=256)
def _layout_for(
    architecture: str, arguments: str, image_size: int, request: FeatureRequest, top_k: int | None
) -> Layout:
    options = json.loads(arguments)
    if request:
        channels = int(options.get("in_chans", 3))
        images = torch.empty(_TEMPLATE_IMAGES, channels, image_size, image_size, device="meta")
        template = _without_attention_weights(run_tapped(build_on_meta(architecture, options), images, request))
    else:
        template = Outputs(torch.empty(_TEMPLATE_IMAGES, int(options["num_classes"]), device="meta"))
    num_classes = template.logits.shape[1]
    is_sparse = top_k is not None and top_k < num_classes and _sparse_width(top_k, num_classes) < num_classes
    return Layout(request, template, top_k if is_sparse else None)


def row_bytes(layouts: Sequence[Layout]) -> int:
    """Size of all teachers' outputs for one image in bytes."""
    return 2 * sum(layout.width for layout in layouts)


def _sparse_width(top_k: int, num_classes: int) -> int:
    return top_k + 1 + top_k * (1 if num_classes <= _MAX_NARROW_CLASSES else 2)


def _to_half(values: Tensor) -> Tensor:
    return values.clamp(-_MAX_FLOAT16, _MAX_FLOAT16).half()


def _values_per_image(template: Tensor) -> int:
    return template.numel() // _TEMPLATE_IMAGES


def _without_attention_weights(outputs: Outputs) -> Outputs:
    attentions = {index: replace(attention, weights=None) for index, attention in outputs.attentions.items()}
    return replace(outputs, attentions=attentions)


def _tensors(outputs: Outputs) -> list[Tensor]:
    """Return every tensor, logits first, in the order of :meth:`Outputs.map`."""
    tensors: list[Tensor] = []

    def collect(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor

    outputs.map(collect)
    return tensors

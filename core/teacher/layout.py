"""How all that a teacher says of one picture is a row of float16 numbers, and how it is read back.

Shapes: B pictures, W numbers of a row, C classes, K likeliest ones.
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

_LARGEST = float(np.finfo(np.float16).max)
_PICTURES = 2  # of the template
_NARROW = 65_536  # classes that one number of a row can tell apart
_BITS = 16


@dataclass(frozen=True, slots=True)
class Layout:
    """The places of a row: logits first, then everything that was tapped.

    ``template`` is what the teacher says of two pictures on the meta device. ``likeliest``: how many logits are
    kept where not all of them are; a row then has those, one number that stands for each of the others, and the
    classes that they belong to. Weights of attentions are not kept: they follow from queries and keys.
    """

    request: FeatureRequest
    template: Outputs
    top_k: int | None

    @property
    def width(self) -> int:
        """How many numbers a row has, W."""
        tapped = sum(_size(one) for one in _tensors(self.template)[1:])
        return self._logits_width + tapped

    def key_fields(self) -> dict[str, Any]:
        """As it counts in the digest of a question."""
        shapes = [list(one.shape[1:]) for one in _tensors(self.template)]
        return {"wanted": asdict(self.request), "shapes": shapes, "likeliest": self.top_k}

    def pack(self, said: Outputs) -> Tensor:
        """Rows (B, W) in float16; what it cannot hold becomes the largest number that it can."""
        assert not said.token_logits, "a teacher in evaluation mode has one answer"
        logits_BC, *tapped = _tensors(_without_weights(said))
        count = len(logits_BC)
        rows = [self._packed_logits(logits_BC), *(_half(one.reshape(count, -1)) for one in tapped)]
        return torch.cat(rows, dim=1)

    def unpack(self, rows_BW: Tensor) -> Outputs:
        """What the teacher said, in float32."""
        count, place = len(rows_BW), self._logits_width
        logits_BC = self._read_logits(rows_BW[:, :place])

        def read(shaped: Tensor) -> Tensor:
            nonlocal place
            if shaped is self.template.logits:
                return logits_BC
            first, place = place, place + _size(shaped)
            part = rows_BW[:, first:place].float()
            return part.reshape(count * shaped.shape[0] // _PICTURES, *shaped.shape[1:])

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

    def _packed_logits(self, logits_BC: Tensor) -> Tensor:
        if self.top_k is None:
            return _half(logits_BC)
        values_BK, places_BK = logits_BC.float().topk(self.top_k, dim=1)
        others_BC = logits_BC.float().scatter(1, places_BK, -math.inf)
        mean_B1 = others_BC.logsumexp(dim=1, keepdim=True) - math.log(self._num_classes - self.top_k)
        parts = [places_BK] if self._num_classes <= _NARROW else [places_BK & (_NARROW - 1), places_BK >> _BITS]
        # Whole numbers go by their bits; numbers above 32,767 wrap around and come back below.
        numbers = torch.cat(parts, dim=1).to(torch.int32).to(torch.int16)
        return torch.cat((_half(values_BK), _half(mean_B1), numbers.view(torch.float16)), dim=1)

    def _read_logits(self, rows_BR: Tensor) -> Tensor:
        """All logits (B, C); where not all were kept, every other class has the one that keeps the mass of the rest."""
        if self.top_k is None:
            return rows_BR.float()
        kept = self.top_k
        values = rows_BR[:, : kept + 1].float()
        numbers = rows_BR[:, kept + 1 :].contiguous().view(torch.int16).long() & (_NARROW - 1)
        places_BK = numbers[:, :kept]
        if self._num_classes > _NARROW:
            places_BK = places_BK | (numbers[:, kept:] << _BITS)
        return values[:, kept:].repeat(1, self._num_classes).scatter_(1, places_BK, values[:, :kept])


def layout_of(built: BuiltModel, wanted: FeatureRequest, sparse: int | None = None) -> Layout:
    """The layout of a teacher's answers; ``sparse``: the likeliest classes that count, where not all do."""
    return layout_for(built.architecture, built.arguments, built.preprocessing.image_size, wanted, sparse)


def layout_for(
    architecture: str, arguments: Any, image_size: int, wanted: FeatureRequest, sparse: int | None = None
) -> Layout:
    """The same of ``timm.create_model(architecture, **arguments)`` at ``image_size`` pixels a side.

    Sparse answers are taken where they make shorter rows than all logits.
    """
    return _lay_out(architecture, json.dumps(dict(arguments), sort_keys=True), image_size, wanted, sparse)


@lru_cache(maxsize=256)
def _lay_out(architecture: str, arguments: str, image_size: int, wanted: FeatureRequest, sparse: int | None) -> Layout:
    options = json.loads(arguments)
    if wanted:
        pictures = torch.empty(_PICTURES, int(options.get("in_chans", 3)), image_size, image_size, device="meta")
        template = _without_weights(run_tapped(build_on_meta(architecture, options), pictures, wanted))
    else:
        template = Outputs(torch.empty(_PICTURES, int(options["num_classes"]), device="meta"))
    num_classes = template.logits.shape[1]
    shorter = sparse is not None and sparse < num_classes and _sparse_width(sparse, num_classes) < num_classes
    return Layout(wanted, template, sparse if shorter else None)


def row_bytes(layouts: Sequence[Layout]) -> int:
    """What the answers of all teachers about one picture take."""
    return 2 * sum(layout.width for layout in layouts)


def _sparse_width(kept: int, num_classes: int) -> int:
    return kept + 1 + kept * (1 if num_classes <= _NARROW else 2)


def _half(numbers: Tensor) -> Tensor:
    return numbers.clamp(-_LARGEST, _LARGEST).half()


def _size(shaped: Tensor) -> int:
    """Numbers of one picture."""
    return shaped.numel() // _PICTURES


def _without_weights(said: Outputs) -> Outputs:
    return replace(said, attentions={i: replace(one, weights=None) for i, one in said.attentions.items()})


def _tensors(said: Outputs) -> list[Tensor]:
    """Every tensor, logits first, in the order of :meth:`Outputs.map`."""
    found: list[Tensor] = []

    def see(one: Tensor) -> Tensor:
        found.append(one)
        return one

    said.map(see)
    return found

"""Pruned ViTs: their FLOPs, and the extraction of their weights from the full model.

Shapes: D width, I inputs of a layer, H heads, d dimensions of a head, T tokens.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor

from core.models.built import BuiltModel
from core.models.flexible import FLEXIBLE
from potstill_models import PotstillVit

# Weights of a model or block that do not depend on the width of the residual stream.
_WITHOUT_WIDTH = ("attn.q_norm.", "attn.k_norm.", "attn.qkv.bias", "mlp.fc1.bias")
_HEAD_BIAS = re.compile(r"(head|heads_dist\.\d+|lift)\.bias")
_WRITES_WIDTH = ("attn.proj.weight", "mlp.fc2.weight", "patch_embed.proj.weight")  # its rows, not its columns


@dataclass(frozen=True, slots=True)
class PrunedBlock:
    """The retained parts of block ``index``: value dimensions by head, for each retained head, and hidden units."""

    index: int
    dims: Mapping[int, Sequence[int]]
    hidden: Sequence[int]


@dataclass(frozen=True, slots=True)
class VitSize:
    """The dimensions of a plain ViT that determine its FLOPs."""

    width: int
    depth: int
    heads: int
    head_dim: int
    hidden: int
    tokens: int
    patches: int
    patch_inputs: int
    num_classes: int

    @classmethod
    def from_module(cls, module: PotstillVit) -> VitSize:
        """Read the dimensions of a ``potstill_vit`` whose blocks are equal."""
        block: Any = module.blocks[0]
        patches = module.patch_embed.num_patches
        return cls(
            width=module.embed_dim,
            depth=len(module.blocks),
            heads=block.attn.num_heads,
            head_dim=block.attn.head_dim,
            hidden=block.mlp.fc1.out_features,
            tokens=patches + module.num_prefix_tokens,
            patches=patches,
            patch_inputs=module.patch_embed.proj.weight[0].numel(),
            num_classes=module.num_classes,
        )

    @property
    def outer_flops(self) -> int:
        """FLOPs outside the blocks, for one image."""
        return 2 * self.width * (self.patches * self.patch_inputs + self.num_classes)

    @property
    def block_part_flops(self) -> tuple[int, int, int]:
        """FLOPs of a full block: queries and keys, values, MLP."""
        T, width = self.tokens, self.width
        inner = self.heads * self.head_dim
        queries_and_keys = 4 * T * width * inner + 2 * T * T * inner
        return queries_and_keys, 4 * T * width * inner + 2 * T * T * inner, 4 * T * width * self.hidden

    def block_flops(self, value_dims: Sequence[int], hidden: int) -> int:
        """FLOPs of a block with these value dimensions, by head.

        Values of all heads are padded to the widest, as in ``SizedAttention``.
        """
        T, width, heads, values = self.tokens, self.width, len(value_dims), sum(value_dims)
        projections = 2 * T * width * (2 * heads * self.head_dim + 2 * values + 2 * hidden)
        return projections + 2 * T * T * heads * (self.head_dim + max(value_dims))


def squared_column_norms(weight_DI: Tensor) -> Tensor:
    """Importance of each input of a linear layer, (I,): the squared norm of its column."""
    return weight_DI.float().square().sum(dim=0)


def prune(built: BuiltModel, blocks: Sequence[PrunedBlock], *, width: Sequence[int] | None = None) -> BuiltModel:
    """Return the ``potstill_vit`` with only the retained parts, in evaluation mode.

    ``width``: the retained dimensions of the residual stream; None for all. Then the outputs equal those of the full
    model with all other parts multiplied by 0. With fewer dimensions they do not: the norms average over fewer values.
    """
    module = built.module
    assert isinstance(module, PotstillVit)
    arguments = {
        **built.arguments,
        "depth": len(blocks),
        "block_heads": [len(block.dims) for block in blocks],
        "block_dims": [[len(dims) for dims in block.dims.values()] for block in blocks],
        "block_hidden": [len(block.hidden) for block in blocks],
    }
    if width is not None and len(width) < module.embed_dim:
        first: Any = module.blocks[0]
        arguments |= {"embed_dim": len(width), "head_dim": first.attn.head_dim}
    pruned = timm.create_model(FLEXIBLE, pretrained=False, **arguments)
    rows = None if width is None else torch.tensor(width)
    pruned.load_state_dict(dict(_select_weights(module, blocks, rows)), strict=True)
    return BuiltModel(pruned.eval(), FLEXIBLE, arguments, built.preprocessing, built.classes)


def value_dims(attention: Any) -> tuple[int, ...]:
    """Value dimensions of each head of a ViT's attention."""
    full = (attention.head_dim,) * attention.num_heads
    return tuple(getattr(attention, "value_dims", full))


def _select_weights(
    module: PotstillVit, blocks: Sequence[PrunedBlock], width: Tensor | None
) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in module.state_dict().items():
        if not name.startswith("blocks."):
            yield name, _select_width(name, tensor, width)
    for position, block in enumerate(blocks):
        full: Any = module.blocks[block.index]
        for name, tensor in full.state_dict().items():
            selected = _select_rows_or_columns(name, tensor, block, full.attn)
            yield f"blocks.{position}.{name}", _select_width(name, selected, width)


def _select_rows_or_columns(name: str, tensor: Tensor, block: PrunedBlock, attention: Any) -> Tensor:
    head_dim, inner = attention.head_dim, attention.num_heads * attention.head_dim
    offsets = [0, *itertools.accumulate(value_dims(attention))]
    queries = [head * head_dim + dim for head in block.dims for dim in range(head_dim)]
    values = [offsets[head] + dim for head, dims in block.dims.items() for dim in dims]
    match name:
        case "attn.qkv.weight" | "attn.qkv.bias":
            rows = [*queries, *(inner + i for i in queries), *(2 * inner + i for i in values)]
            return tensor[torch.tensor(rows)]
        case "attn.proj.weight":
            return tensor[:, torch.tensor(values)]
        case "mlp.fc1.weight" | "mlp.fc1.bias":
            return tensor[torch.tensor(block.hidden)]
        case "mlp.fc2.weight":
            return tensor[:, torch.tensor(block.hidden)]
        case _:
            return tensor


def _select_width(name: str, tensor: Tensor, width: Tensor | None) -> Tensor:
    """Select the retained dimensions of the residual stream in a weight, by its name in model or block."""
    if width is None or name.startswith(_WITHOUT_WIDTH) or _HEAD_BIAS.fullmatch(name):
        return tensor
    axis = 0 if name in _WRITES_WIDTH else tensor.ndim - 1
    return tensor.index_select(axis, width.to(tensor.device))

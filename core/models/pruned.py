"""A ViT with less in it: what it costs, and how it is cut out of the whole one.

Shapes: D width, I inputs of a layer, H heads, d dimensions of a head, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor

from core.models.built import BuiltModel
from core.models.flexible import FLEXIBLE
from potstill_models import PotstillVit


@dataclass(frozen=True, slots=True)
class KeptBlock:
    """What is left of block ``index``: the value dimensions of each head that stays, by head, and hidden units."""

    index: int
    dims: Mapping[int, Sequence[int]]
    hidden: Sequence[int]


@dataclass(frozen=True, slots=True)
class VitSize:
    """The dimensions of a plain ViT that its operations depend on."""

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
    def of(cls, module: PotstillVit) -> VitSize:
        """Those of a ``potstill_vit`` whose blocks are all alike."""
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
    def ends(self) -> int:
        """Operations outside the blocks, of one picture."""
        return 2 * self.width * (self.patches * self.patch_inputs + self.num_classes)

    @property
    def block_parts(self) -> tuple[int, int, int]:
        """Operations of a whole block: queries and keys, values, MLP."""
        T, width = self.tokens, self.width
        inner = self.heads * self.head_dim
        queries_and_keys = 4 * T * width * inner + 2 * T * T * inner
        return queries_and_keys, 4 * T * width * inner + 2 * T * T * inner, 4 * T * width * self.hidden

    def block_flops(self, value_dims: Sequence[int], hidden: int) -> int:
        """Operations of a block with so many value dimensions in each of its heads.

        Values of all heads are multiplied as wide as the widest, as ``SizedAttention`` does.
        """
        T, width, heads, values = self.tokens, self.width, len(value_dims), sum(value_dims)
        projections = 2 * T * width * (2 * heads * self.head_dim + 2 * values + 2 * hidden)
        return projections + 2 * T * T * heads * (self.head_dim + max(value_dims))


def squared_columns(weight_DI: Tensor) -> Tensor:
    """What each input of a linear layer is worth, (I,): the squared norm of its column."""
    return weight_DI.float().square().sum(dim=0)


def prune(built: BuiltModel, kept: Sequence[KeptBlock]) -> BuiltModel:
    """The ``potstill_vit`` that has only what is kept, in evaluation mode.

    It computes what the whole one does where everything else is multiplied by 0.
    """
    module = built.module
    assert isinstance(module, PotstillVit)
    arguments = {
        **built.arguments,
        "depth": len(kept),
        "block_heads": [len(block.dims) for block in kept],
        "block_dims": [[len(dims) for dims in block.dims.values()] for block in kept],
        "block_hidden": [len(block.hidden) for block in kept],
    }
    smaller = timm.create_model(FLEXIBLE, pretrained=False, **arguments)
    smaller.load_state_dict(dict(_cut(module, kept)), strict=True)
    return BuiltModel(smaller.eval(), FLEXIBLE, arguments, built.preprocessing, built.classes)


def _cut(module: PotstillVit, kept: Sequence[KeptBlock]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in module.state_dict().items():
        if not name.startswith("blocks."):
            yield name, tensor
    for place, block in enumerate(kept):
        whole: Any = module.blocks[block.index]
        for name, tensor in whole.state_dict().items():
            yield f"blocks.{place}.{name}", _cut_one(name, tensor, block, whole.attn.num_heads, whole.attn.head_dim)


def _cut_one(name: str, tensor: Tensor, block: KeptBlock, heads: int, head_dim: int) -> Tensor:
    of_heads = [head * head_dim + place for head in block.dims for place in range(head_dim)]
    values = [head * head_dim + place for head, dims in block.dims.items() for place in dims]
    inner = heads * head_dim
    match name:
        case "attn.qkv.weight" | "attn.qkv.bias":
            rows = [*of_heads, *(inner + i for i in of_heads), *(2 * inner + i for i in values)]
            return tensor[torch.tensor(rows)]
        case "attn.proj.weight":
            return tensor[:, torch.tensor(values)]
        case "mlp.fc1.weight" | "mlp.fc1.bias":
            return tensor[torch.tensor(block.hidden)]
        case "mlp.fc2.weight":
            return tensor[:, torch.tensor(block.hidden)]
        case _:
            return tensor

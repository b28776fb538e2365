"""Running a ViT teacher on a part of its patches.

Shapes: B pictures, P prefix tokens, N patches, K of them that are seen, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

_PLAIN = (VisionTransformer, VisionTransformerDistilled)


def sees_patches(module: nn.Module) -> bool:
    """Whether a network can be run on a part of its patches: one of timm's plain ViTs, not what derives from them."""
    return type(module) in _PLAIN


@contextmanager
def seeing_only(module: nn.Module, places_BK: Tensor) -> Iterator[None]:
    """While this lasts, the ViT ``module`` sees of each picture only the patches at ``places_BK`` (int64).

    Patches are left out where timm's own patch dropout would do so: behind the positions, before the
    first block. Prefix tokens stay. Attention is the only part that joins tokens, so the blocks work
    on K patches as they do on N.
    """
    assert sees_patches(module), f"{type(module).__name__} is not a plain ViT"
    vit: Any = module
    prefixes = int(vit.num_prefix_tokens)

    def leave_out(_layer: nn.Module, _inputs: Any, tokens_BTD: Tensor) -> Tensor:
        patches_BND = tokens_BTD[:, prefixes:]
        index_BKD = places_BK.unsqueeze(2).expand(-1, -1, patches_BND.shape[2])
        return torch.cat((tokens_BTD[:, :prefixes], patches_BND.gather(1, index_BKD)), dim=1)

    hook = vit.patch_drop.register_forward_hook(leave_out)
    try:
        yield
    finally:
        hook.remove()

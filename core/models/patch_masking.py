"""Hide patches from a ViT: run it on a subset of them, or replace their embeddings by a mask token.

Shapes: B images, P prefix tokens, N patches, K visible patches, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.layers import PatchEmbed
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

_PLAIN = (VisionTransformer, VisionTransformerDistilled)


def supports_patch_masking(module: nn.Module) -> bool:
    """Return whether a network can run on a subset of its patches: one of timm's plain ViTs, not a subclass."""
    return type(module) in _PLAIN


@contextmanager
def mask_patches(module: nn.Module, visible_BK: Tensor) -> Iterator[None]:
    """Context manager in which the ViT ``module`` sees only the patches ``visible_BK`` (int64 indices) of each image.

    Patches are removed at timm's own patch dropout: after the position embedding, before the first block. Prefix
    tokens remain. Only attention combines tokens, so the blocks accept K patches as well as N.
    """
    assert supports_patch_masking(module), f"{type(module).__name__} is not a plain ViT"
    vit: Any = module
    num_prefix = int(vit.num_prefix_tokens)

    def select_visible(_layer: nn.Module, _inputs: Any, tokens_BTD: Tensor) -> Tensor:
        patches_BND = tokens_BTD[:, num_prefix:]
        index_BKD = visible_BK.unsqueeze(2).expand(-1, -1, patches_BND.shape[2])
        return torch.cat((tokens_BTD[:, :num_prefix], patches_BND.gather(1, index_BKD)), dim=1)

    hook = vit.patch_drop.register_forward_hook(select_visible)
    try:
        yield
    finally:
        hook.remove()


def supports_patch_replacement(module: nn.Module) -> bool:
    """Return whether a network embeds patches with timm's own layer, which gives one token per patch."""
    return isinstance(getattr(module, "patch_embed", None), PatchEmbed)


@contextmanager
def replace_patches(module: nn.Module, hidden_BN: Tensor, token_D: Tensor) -> Iterator[None]:
    """Context manager in which the patches ``hidden_BN`` (bool) of each image are embedded as ``token_D``.

    They are replaced after the patch embedding and before positions are added, as in iBOT and DINOv2.
    """
    assert supports_patch_replacement(module), f"{type(module).__name__} has no patch embedding of its own"
    vit: Any = module

    def replace(_layer: nn.Module, _inputs: Any, patches: Tensor) -> Tensor:
        hidden = hidden_BN.view(*patches.shape[:-1], 1)  # (B, N, 1), or (B, H, W, 1) with a dynamic image size
        return torch.where(hidden, token_D.to(patches.dtype), patches)

    hook = vit.patch_embed.register_forward_hook(replace)
    try:
        yield
    finally:
        hook.remove()

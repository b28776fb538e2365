"""Proteus' loss at three levels: class token, features and masked patches (Zhang et al. 2024, arXiv:2407.10366)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from core.losses.precision import outside_autocast
from core.losses.shapes import require_embeddings, require_tokens


@outside_autocast
def three_levels(  # noqa: PLR0917 - three tensors of the student, and the teacher's
    token: Tensor,
    patches: Tensor,
    masked: Tensor,
    teacher_token: Tensor,
    teacher_patches: Tensor,
    mask: Tensor,
    *,
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> tuple[Tensor, Tensor, Tensor]:
    """Return Proteus' weighted (token, features, patches), mean squared errors.

    ``token`` (B, D) and ``patches`` (B, N, D) come from the whole images, ``masked`` (B, N, D) from images with masked
    patches, all behind the heads and as wide as the teacher's. ``mask`` (B, N) is True at masked patches. ``features``
    is a mean over B, the N + 1 tokens and D, with the class token once more; ``patches`` reads masked places only, and
    is 0 where there are none.
    """
    require_tokens(patches, teacher_patches)
    require_tokens(masked, teacher_patches)
    require_embeddings(token, teacher_patches)
    if token.shape != teacher_token.shape or patches.shape != teacher_patches.shape or masked.shape != patches.shape:
        raise ValueError("the student's token and patches must be as wide as the teacher's")
    if mask.shape != patches.shape[:2] or mask.dtype != torch.bool:
        raise ValueError(f"mask must be boolean (B, N), not {mask.dtype} {tuple(mask.shape)}")
    teacher_token, teacher_patches = teacher_token.detach().float(), teacher_patches.detach().float()
    whole = torch.cat((token.float().unsqueeze(1), patches.float()), dim=1)
    teacher_whole = torch.cat((teacher_token.unsqueeze(1), teacher_patches), dim=1)
    error_BN = (masked.float() - teacher_patches).square().mean(dim=2)
    masked_error = torch.where(mask, error_BN, 0.0).sum() / mask.sum().clamp_min(1)
    return (
        weights[0] * F.mse_loss(token.float(), teacher_token),
        weights[1] * F.mse_loss(whole, teacher_whole),
        weights[2] * masked_error,
    )

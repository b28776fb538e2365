"""Attention Probe (Wang et al. 2022, ICASSP): scores of unlabeled images, and the loss of class token relations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def wild_scores(teacher_logits: Tensor) -> Tensor:
    """Uncertainty (B,) of the teacher for each image: −log of the largest probability of logits (B, C)."""
    if teacher_logits.ndim != 2:
        raise ValueError(f"logits must be (B, C), not {tuple(teacher_logits.shape)}")
    return -F.log_softmax(teacher_logits.detach().float(), dim=1).amax(dim=1)


def attention_concentration(cls_attention: Tensor) -> Tensor:
    """Cosine (B,) of the class token's attention to the patches, (B, N), with uniform attention; low: concentrated."""
    if cls_attention.ndim != 2:
        raise ValueError(f"attention must be (B, N), not {tuple(cls_attention.shape)}")
    attention_BN = cls_attention.detach().float()
    return F.cosine_similarity(attention_BN, torch.full_like(attention_BN, 1 / attention_BN.shape[1]), dim=1)


def attention_probe(student_features: Tensor, teacher_features: Tensor, *, normalize: bool = True) -> Tensor:
    """Squared difference of the class token's row of the tokens' Gram matrix, mean over layers, images and patches.

    Features (layers, B, 1 + N, D), the class token first; widths may differ. Every channel is scaled to unit length
    over the tokens. In the official code (``normalize=False``) the row then grows with D, so networks of different
    widths can never agree; ``normalize`` takes cosines of the tokens instead.
    """
    differ = student_features.shape[:3] != teacher_features.shape[:3]
    if student_features.ndim != 4 or teacher_features.ndim != 4 or differ or student_features.shape[2] < 2:
        shapes = f"{tuple(student_features.shape)} and {tuple(teacher_features.shape)}"
        raise ValueError(f"features must be (layers, B, 1 + N, D) of the same layers, images and tokens, not {shapes}")
    student_LBN = _class_row(student_features.float(), normalize=normalize)
    teacher_LBN = _class_row(teacher_features.detach().float(), normalize=normalize)
    return F.mse_loss(student_LBN, teacher_LBN)


def _class_row(features_LBTD: Tensor, *, normalize: bool) -> Tensor:
    scaled_LBTD = F.normalize(features_LBTD, dim=2)
    if normalize:
        scaled_LBTD = F.normalize(scaled_LBTD, dim=3)
    return (scaled_LBTD[:, :, 1:] * scaled_LBTD[:, :, :1]).sum(dim=3)

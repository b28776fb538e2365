"""Losses of relations between tokens (B, N, D). Widths may differ; B and N must be equal. M random rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from core.losses.precision import outside_autocast
from core.losses.shapes import require_tokens


@outside_autocast
def manifold(
    student_tokens: Tensor, teacher_tokens: Tensor, *, num_random: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Fine-grained manifold distillation's (patch, sample, random) of one pair of blocks (Hao et al. 2022).

    arXiv:2107.01378: mean squared differences of cosines, among the patches of an image, among the images at a patch,
    and among ``num_random`` tokens of the batch (all tokens if it has fewer), the same for both networks. Remove prefix
    tokens first: different numbers of tokens raise ``ValueError`` and are never broadcast.
    """
    require_tokens(student_tokens, teacher_tokens)
    if num_random < 1:
        raise ValueError(f"num_random must be positive, not {num_random}")
    student_BND = F.normalize(student_tokens.float(), dim=2)
    teacher_BND = F.normalize(teacher_tokens.detach().float(), dim=2)
    patch = _gram_gap(student_BND, teacher_BND)
    sample = _gram_gap(student_BND.transpose(0, 1), teacher_BND.transpose(0, 1))

    num_tokens = student_BND.shape[0] * student_BND.shape[1]
    device = generator.device if generator is not None else torch.device("cpu")
    rows_M = torch.randperm(num_tokens, generator=generator, device=device)[:num_random]
    rows_M = rows_M.to(student_BND.device, non_blocking=True)
    random = _gram_gap(student_BND.flatten(0, 1)[rows_M], teacher_BND.flatten(0, 1)[rows_M])
    return patch, sample, random


@outside_autocast
def hidden_relation(student_tokens: Tensor, teacher_tokens: Tensor) -> Tensor:
    """MiniViT's hidden states: mean squared difference of the tokens' cosines (Zhang et al. 2022).

    arXiv:2204.07154. The official code multiplies by 49, the tokens of a window; here this is up to the caller.
    """
    require_tokens(student_tokens, teacher_tokens)
    return _gram_gap(F.normalize(student_tokens.float(), dim=2), F.normalize(teacher_tokens.detach().float(), dim=2))


def _gram_gap(student_xND: Tensor, teacher_xND: Tensor) -> Tensor:
    """Mean squared difference of the Gram matrices (..., N, N)."""
    return F.mse_loss(student_xND @ student_xND.mT, teacher_xND @ teacher_xND.mT)


@outside_autocast
def qkv_relation(student_qkv: Sequence[Tensor], teacher_qkv: Sequence[Tensor], *, relation_heads: int = 1) -> Tensor:
    """MiniViT's attention relations of one layer: cross-entropy, mean over the nine pairs of q, k and v.

    Zhang et al. 2022, arXiv:2204.07154. q, k and v are (B, N, D), with q unscaled. A relation is
    softmax(X_i X_jᵀ / √d), where d is the width of a relation head. The minimum is the teacher's entropy, not 0.
    """
    _require_qkv(student_qkv, teacher_qkv)
    student_3BhNd = _relation_heads(student_qkv, relation_heads)
    teacher_3BhNd = _relation_heads([tokens.detach() for tokens in teacher_qkv], relation_heads)
    pairs = []
    for i in range(3):
        for j in range(3):
            log_student_BhNN = F.log_softmax(_scaled_product(student_3BhNd[i], student_3BhNd[j]), dim=3)
            teacher_BhNN = F.softmax(_scaled_product(teacher_3BhNd[i], teacher_3BhNd[j]), dim=3)
            pairs.append(-(teacher_BhNN * log_student_BhNN).sum(dim=3).mean())
    return torch.stack(pairs).mean()


@outside_autocast
def relation_transfer(
    student_qkv: Sequence[Tensor], teacher_qkv: Sequence[Tensor], *, heads: int
) -> tuple[Tensor, Tensor]:
    """TinyMIM's token relations of one layer, (query_key, value_value) (Ren et al. 2023, arXiv:2301.01296).

    KL(teacher || student) of softmax(q kᵀ / √d) and of softmax(v vᵀ / √d), mean over B, heads and rows. q, k and v are
    (B, N, D), with q unscaled; d is the width of a head, of each network its own.
    """
    _require_qkv(student_qkv, teacher_qkv)
    student_3BhNd = _relation_heads(student_qkv, heads)
    teacher_3BhNd = _relation_heads([tokens.detach() for tokens in teacher_qkv], heads)

    def divergence(i: int, j: int) -> Tensor:
        log_student = F.log_softmax(_scaled_product(student_3BhNd[i], student_3BhNd[j]), dim=3)
        log_teacher = F.log_softmax(_scaled_product(teacher_3BhNd[i], teacher_3BhNd[j]), dim=3)
        return F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim=3).mean()

    return divergence(0, 1), divergence(2, 2)


def _require_qkv(student_qkv: Sequence[Tensor], teacher_qkv: Sequence[Tensor]) -> None:
    if len(student_qkv) != 3 or len(teacher_qkv) != 3:
        raise ValueError(f"needs q, k and v of both, not {len(student_qkv)} and {len(teacher_qkv)} tensors")
    for student_tokens, teacher_tokens in zip(student_qkv, teacher_qkv, strict=True):
        require_tokens(student_tokens, teacher_tokens)


def _relation_heads(qkv: Sequence[Tensor], heads: int) -> list[Tensor]:
    if qkv[0].shape[2] % heads:
        raise ValueError(f"{heads} relation heads do not divide a width of {qkv[0].shape[2]}")
    return [tokens.float().reshape(*tokens.shape[:2], heads, -1).transpose(1, 2) for tokens in qkv]


def _scaled_product(a_BhNd: Tensor, b_BhNd: Tensor) -> Tensor:
    return a_BhNd @ b_BhNd.mT / math.sqrt(a_BhNd.shape[3])

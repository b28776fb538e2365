"""Token merging (ToMe, Bolya et al. 2022, arXiv:2210.09461): similar patch tokens become one, in every block.

Patches are split into two alternating sets. Each token of the first set finds the most similar one of the second, by
the cosine of their keys; the most similar pairs are merged, weighted by the number of patches that each token stands
for (paper, section 3). Attention counts a merged token as often as it has patches (eq. 1). Deviation: class and
distillation tokens are never matched, whatever their number. The number of merged tokens is fixed, so all shapes are.
Shapes: B images, T tokens, P prefix tokens, D width, H heads, d dimensions of a head, N and M tokens of the two sets, r
merged tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from potstill_models.attention import SizedAttention


class MergingAttention(SizedAttention):
    """Attention that returns its keys too, and weights each token by its size."""

    def forward(self, x: Tensor, size_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return the attended tokens and the mean of the heads' keys (B, T, d)."""
        q_BHTd, k_BHTd, v_BHTd = self.split(x)
        bias = None if size_BT is None else size_BT.log().to(q_BHTd.dtype)[:, None, None, :]
        if self.fused_attn:
            dropout = self.attn_drop.p if self.training else 0.0
            attended = F.scaled_dot_product_attention(q_BHTd, k_BHTd, v_BHTd, attn_mask=bias, dropout_p=dropout)
        else:
            scores_BHTT = q_BHTd * self.scale @ k_BHTd.transpose(-2, -1)
            scores_BHTT = scores_BHTT if bias is None else scores_BHTT + bias
            attended = self.attn_drop(scores_BHTT.softmax(dim=-1)) @ v_BHTd
        return self.join(attended), k_BHTd.mean(dim=1)


def merge_tokens(
    x_BTD: Tensor, keys_BTd: Tensor, size_BT: Tensor | None, *, merged: int, num_prefix_tokens: int
) -> tuple[Tensor, Tensor]:
    """Merge the ``merged`` most similar pairs of patch tokens; return tokens (B, T - r, D) and sizes (B, T - r).

    The order is: prefix tokens, remaining tokens of the first set, second set.
    """
    count = num_prefix_tokens
    if size_BT is None:
        size_BT = torch.ones_like(x_BTD[..., 0])
    source_Br, target_Br, kept_BK = _match(keys_BTd[:, count:], merged=merged, first=count % 2)
    # Sums of tokens times sizes, with the sizes as the last column.
    sums_BTE = torch.cat([x_BTD * size_BT[..., None], size_BT[..., None]], dim=-1)
    first_BNE, second_BME = sums_BTE[:, count + count % 2 :: 2], sums_BTE[:, count + 1 - count % 2 :: 2]
    positions_M = torch.arange(second_BME.shape[1], device=x_BTD.device)
    assigned_BMr = (target_Br[:, None, :] == positions_M[None, :, None]).to(sums_BTE.dtype)
    second_BME = second_BME + assigned_BMr @ _rows(first_BNE, source_Br)
    out_BTE = torch.cat([sums_BTE[:, :count], _rows(first_BNE, kept_BK), second_BME], dim=1)
    size = out_BTE[..., -1]
    return out_BTE[..., :-1] / size[..., None], size


def _match(keys_BTd: Tensor, *, merged: int, first: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return for the merged tokens their indices in the first set and in the second, and the indices that remain.

    ``first``: the patch at which the first set begins, 0 or 1.
    """
    unit_BTd = F.normalize(keys_BTd, dim=-1)
    scores_BNM = unit_BTd[:, first::2] @ unit_BTd[:, 1 - first :: 2].transpose(-2, -1)
    best_BN, target_BN = scores_BNM.max(dim=-1)
    _, order_BN = best_BN.topk(best_BN.shape[1], dim=-1)
    source_Br = order_BN[:, :merged]
    return source_Br, target_BN.gather(1, source_Br), order_BN[:, merged:]


def _rows(x_BNE: Tensor, indices_BK: Tensor) -> Tensor:
    return x_BNE.gather(1, indices_BK[..., None].expand(-1, -1, x_BNE.shape[-1]))

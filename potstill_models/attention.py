"""Attention with individual head widths, shared weights or gated positions.

Shapes: B images, T tokens, D width, H retained heads, d dimensions of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn

from potstill_models.mixing import HeadMixing


class SizedAttention(Attention):  # type: ignore[misc]
    """timm's attention with an individual number of value dimensions per head.

    Rows of ``qkv``: queries of all heads, keys of all heads, then values head by head. Columns of ``proj`` are in the
    order of the values. With equal numbers it equals timm's attention, including weight names.
    """

    qkv: nn.Linear
    proj: nn.Linear
    spread: Tensor
    kept: Tensor

    def __init__(self, dim: int, *, head_dim: int, value_dims: Sequence[int], **options: Any) -> None:
        super().__init__(dim, num_heads=len(value_dims), attn_head_dim=head_dim, **options)
        self.value_dims = tuple(value_dims)
        self.widest = max(value_dims)
        self.ragged = len(set(value_dims)) > 1
        total = sum(value_dims)
        dd = {"device": options.get("device"), "dtype": options.get("dtype")}
        if total != self.attn_dim:
            self.qkv = nn.Linear(dim, 2 * self.attn_dim + total, bias=self.qkv.bias is not None, **dd)
            self.proj = nn.Linear(total, dim, bias=self.proj.bias is not None, **dd)
        if self.ragged:
            spread, kept, offset = [], [], 0
            for head, width in enumerate(value_dims):
                spread += [
                    offset + i if i < width else total for i in range(self.widest)
                ]  # total: index of a zero column
                kept += [head * self.widest + i for i in range(width)]
                offset += width
            self.register_buffer("spread", torch.tensor(spread, device=dd["device"]), persistent=False)
            self.register_buffer("kept", torch.tensor(kept, device=dd["device"]), persistent=False)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:  # noqa: FBT001, FBT002
        """Apply attention. Raises ValueError for masks, which no student uses."""
        _refuse_masks(attn_mask, is_causal=is_causal)
        q_BHTd, k_BHTd, v_BHTd = self.split(x)
        if self.fused_attn:
            dropout = self.attn_drop.p if self.training else 0.0
            return self.join(F.scaled_dot_product_attention(q_BHTd, k_BHTd, v_BHTd, dropout_p=dropout))
        weights_BHTT = (q_BHTd * self.scale @ k_BHTd.transpose(-2, -1)).softmax(dim=-1)
        return self.join(self.attn_drop(weights_BHTT) @ v_BHTd)

    def split(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute queries, keys and values; values of narrow heads are padded with zeros."""
        B, T, _ = x_BTD.shape
        qkv = self.qkv(x_BTD)
        qk, v = qkv[..., : 2 * self.attn_dim], qkv[..., 2 * self.attn_dim :]
        q_BHTd, k_BHTd = qk.reshape(B, T, 2, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        if self.ragged:
            v = F.pad(v, (0, 1)).index_select(-1, self.spread)
        v_BHTd = v.reshape(B, T, self.num_heads, self.widest).transpose(1, 2)
        return self.q_norm(q_BHTd), self.k_norm(k_BHTd), v_BHTd

    def join(self, x_BHTd: Tensor) -> Tensor:
        """Concatenate the heads without the padding, and project."""
        B, H, T, d = x_BHTd.shape
        x = x_BHTd.transpose(1, 2).reshape(B, T, H * d)
        if self.ragged:
            x = x.index_select(-1, self.kept)
        joined: Tensor = self.proj_drop(self.proj(x))
        return joined


class SharedAttention(SizedAttention):
    """Attention with weights shared between runs, each with separate mixing of the heads (MiniViT)."""

    def forward(self, x: Tensor, mixing: HeadMixing | None = None) -> Tensor:  # type: ignore[override]
        """Apply attention with the mixing of one run."""
        if mixing is None:
            return super().forward(x)
        q_BHTd, k_BHTd, v_BHTd = self.split(x)
        q_BHTd = q_BHTd * self.scale
        scores_BHTT = mixing.before(q_BHTd @ k_BHTd.transpose(-2, -1), q_BHTd)
        weights_BHTT = mixing.after(scores_BHTT.softmax(dim=-1))
        return self.join(self.attn_drop(weights_BHTT) @ v_BHTd)


class SharedWindowAttention(WindowAttention):  # type: ignore[misc]
    """A Swin's attention with weights, including the position table, shared between runs (Mini-Swin).

    Shapes: n windows per image.
    """

    def forward(self, x: Tensor, mask: Tensor | None = None, mixing: HeadMixing | None = None) -> Tensor:
        """Apply attention within windows (Bn, T, D); ``mask`` (n, T, T) is added after the run's first transform."""
        if mixing is None:
            plain: Tensor = super().forward(x, mask=mask)
            return plain
        windows, T, _ = x.shape
        q, k, v = self.qkv(x).reshape(windows, T, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        q = q * self.scale
        scores = mixing.before(q @ k.transpose(-2, -1) + self._get_rel_pos_bias(), q)
        if mask is not None:
            by_image = scores.reshape(-1, mask.shape[0], self.num_heads, T, T) + mask[:, None]  # (B, n, H, T, T)
            scores = by_image.flatten(0, 1)
        weights = mixing.after(scores.softmax(dim=-1))
        attended = (self.attn_drop(weights) @ v).transpose(1, 2).reshape(windows, T, -1)
        joined: Tensor = self.proj_drop(self.proj(attended))
        return joined


class LocalAttention(SizedAttention):
    """Gated positional self-attention (ConViT, d'Ascoli et al. 2021, arXiv:2103.10697).

    Patches attend to patches by content and by position, weighted by a gate per head. Class and distillation tokens use
    content only, in both directions; rows are renormalized to sum to one. Initially, heads attend to the cells of a
    square around the patch. Deviation: if the number of heads is no square, they use the cells nearest to the center;
    values are initialized at random. Shapes: N patches.
    """

    def __init__(self, dim: int, *, grid_size: tuple[int, int], num_prefix_tokens: int, **options: Any) -> None:
        super().__init__(dim, **options)
        dd: dict[str, Any] = {"device": options.get("device"), "dtype": options.get("dtype")}
        self.prefix = num_prefix_tokens
        self.pos_proj = nn.Linear(3, self.num_heads, **dd)
        self.gating = nn.Parameter(torch.ones(self.num_heads, **dd))
        offsets_NN3 = patch_offsets(grid_size).to(**dd)
        between_TT = F.pad(torch.ones(offsets_NN3.shape[:2], **dd), (self.prefix, 0, self.prefix, 0))
        self.offsets: Tensor
        self.between_patches: Tensor
        self.register_buffer("offsets", offsets_NN3, persistent=False)
        self.register_buffer("between_patches", between_TT, persistent=False)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialize each head to attend to one cell: its score is minus the squared distance, up to a constant."""
        cells = torch.tensor(head_centers(self.num_heads))
        weight_H3 = torch.cat([2 * cells, -torch.ones(self.num_heads, 1)], dim=1)
        self.pos_proj.weight.copy_(weight_H3)
        self.pos_proj.bias.zero_()
        self.gating.fill_(1.0)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:  # noqa: FBT001, FBT002
        """Apply attention by content and position."""
        _refuse_masks(attn_mask, is_causal=is_causal)
        q_BHTd, k_BHTd, v_BHTd = self.split(x)
        content_BHTT = (q_BHTd * self.scale @ k_BHTd.transpose(-2, -1)).softmax(dim=-1)
        position_HNN = self.pos_proj(self.offsets).permute(2, 0, 1).softmax(dim=-1)
        position_HTT = F.pad(position_HNN, (self.prefix, 0, self.prefix, 0))
        gate_HTT = self.gating.sigmoid()[:, None, None] * self.between_patches
        weights_BHTT = (1 - gate_HTT) * content_BHTT + gate_HTT * position_HTT
        weights_BHTT = weights_BHTT / weights_BHTT.sum(dim=-1, keepdim=True)
        return self.join(self.attn_drop(weights_BHTT).to(v_BHTd.dtype) @ v_BHTd)


def patch_offsets(grid_size: tuple[int, int]) -> Tensor:
    """Offsets between all patches: columns, rows and squared distance (N, N, 3)."""
    height, width = grid_size
    row_N = torch.arange(height, dtype=torch.float32).repeat_interleave(width)
    column_N = torch.arange(width, dtype=torch.float32).repeat(height)
    dx, dy = column_N[None, :] - column_N[:, None], row_N[None, :] - row_N[:, None]
    return torch.stack([dx, dy, dx**2 + dy**2], dim=-1)


def head_centers(heads: int) -> list[list[float]]:
    """Initial center of each head's attention, as columns and rows relative to the patch."""
    side = 1
    while side * side < heads:
        side += 1
    middle = (side - 1) / 2 if side % 2 == 0 else side // 2
    cells = [[column - middle, row - middle] for row in range(side) for column in range(side)]
    if side * side > heads:
        cells = sorted(cells, key=lambda cell: cell[0] ** 2 + cell[1] ** 2)
    return cells[:heads]


def _refuse_masks(attn_mask: Tensor | None, *, is_causal: bool) -> None:
    if attn_mask is not None or is_causal:
        raise ValueError("this block takes no attention mask")

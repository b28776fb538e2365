"""Attention with widths of its own, and with transforms that come from outside.

Shapes: B pictures, T tokens, D width, H kept heads, d dimensions of a head.
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
    """timm's attention whose heads may have fewer value dimensions, each head its own number.

    Rows of ``qkv``: queries of all heads, keys of all heads, then values head by head; columns of
    ``proj`` in the order of the values. With equal numbers it is timm's attention, name by name.
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
            spread, kept, seen = [], [], 0
            for head, width in enumerate(value_dims):
                spread += [seen + i if i < width else total for i in range(self.widest)]  # total: a column of zeros
                kept += [head * self.widest + i for i in range(width)]
                seen += width
            self.register_buffer("spread", torch.tensor(spread, device=dd["device"]), persistent=False)
            self.register_buffer("kept", torch.tensor(kept, device=dd["device"]), persistent=False)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:  # noqa: FBT001, FBT002
        """Attend. Masks are refused: no student of ours has one."""
        _refuse_masks(attn_mask, is_causal=is_causal)
        q_BHTd, k_BHTd, v_BHTd = self.split(x)
        if self.fused_attn:
            dropout = self.attn_drop.p if self.training else 0.0
            return self.join(F.scaled_dot_product_attention(q_BHTd, k_BHTd, v_BHTd, dropout_p=dropout))
        weights_BHTT = (q_BHTd * self.scale @ k_BHTd.transpose(-2, -1)).softmax(dim=-1)
        return self.join(self.attn_drop(weights_BHTT) @ v_BHTd)

    def split(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values; the values of narrow heads end in zeros."""
        B, T, _ = x_BTD.shape
        qkv = self.qkv(x_BTD)
        qk, v = qkv[..., : 2 * self.attn_dim], qkv[..., 2 * self.attn_dim :]
        q_BHTd, k_BHTd = qk.reshape(B, T, 2, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        if self.ragged:
            v = F.pad(v, (0, 1)).index_select(-1, self.spread)
        v_BHTd = v.reshape(B, T, self.num_heads, self.widest).transpose(1, 2)
        return self.q_norm(q_BHTd), self.k_norm(k_BHTd), v_BHTd

    def join(self, x_BHTd: Tensor) -> Tensor:
        """Heads side by side again, without the zeros, and projected."""
        B, H, T, d = x_BHTd.shape
        x = x_BHTd.transpose(1, 2).reshape(B, T, H * d)
        if self.ragged:
            x = x.index_select(-1, self.kept)
        joined: Tensor = self.proj_drop(self.proj(x))
        return joined


class SharedAttention(SizedAttention):
    """Attention whose weights serve several runs, each with its own mixing of the heads (MiniViT)."""

    def forward(self, x: Tensor, mixing: HeadMixing | None = None) -> Tensor:  # type: ignore[override]
        """Attend as one run does."""
        if mixing is None:
            return super().forward(x)
        q_BHTd, k_BHTd, v_BHTd = self.split(x)
        q_BHTd = q_BHTd * self.scale
        scores_BHTT = mixing.before(q_BHTd @ k_BHTd.transpose(-2, -1), q_BHTd)
        weights_BHTT = mixing.after(scores_BHTT.softmax(dim=-1))
        return self.join(self.attn_drop(weights_BHTT) @ v_BHTd)


class SharedWindowAttention(WindowAttention):  # type: ignore[misc]
    """A Swin's attention whose weights serve several runs, its table of positions included (Mini-Swin).

    Shapes: n windows of a picture.
    """

    def forward(self, x: Tensor, mask: Tensor | None = None, mixing: HeadMixing | None = None) -> Tensor:
        """Attend within windows (Bn, T, D) as one run does; ``mask`` (n, T, T) is added behind its first transform."""
        if mixing is None:
            plain: Tensor = super().forward(x, mask=mask)
            return plain
        windows, T, _ = x.shape
        q, k, v = self.qkv(x).reshape(windows, T, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        q = q * self.scale
        scores = mixing.before(q @ k.transpose(-2, -1) + self._get_rel_pos_bias(), q)
        if mask is not None:
            apart = scores.reshape(-1, mask.shape[0], self.num_heads, T, T) + mask[:, None]  # (B, n, H, T, T)
            scores = apart.flatten(0, 1)
        weights = mixing.after(scores.softmax(dim=-1))
        seen = (self.attn_drop(weights) @ v).transpose(1, 2).reshape(windows, T, -1)
        joined: Tensor = self.proj_drop(self.proj(seen))
        return joined


class LocalAttention(SizedAttention):
    """Gated positional self-attention (ConViT, d'Ascoli et al. 2021, arXiv:2103.10697).

    Patches attend to patches by content and by place; a gate for each head says how much by which.
    Class and distillation tokens attend, and are attended to, by content alone; rows are brought to
    sum one again. The heads begin at the cells of a square around the patch itself. Deviation: with
    a number of heads that is no square, they take the cells nearest to the middle, and values begin
    at random. Shapes: N patches.
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
        """Each head looks at one cell: the score is minus the squared distance from it, but for a constant."""
        cells = torch.tensor(head_centres(self.num_heads))
        weight_H3 = torch.cat([2 * cells, -torch.ones(self.num_heads, 1)], dim=1)
        self.pos_proj.weight.copy_(weight_H3)
        self.pos_proj.bias.zero_()
        self.gating.fill_(1.0)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:  # noqa: FBT001, FBT002
        """Attend by content and place."""
        _refuse_masks(attn_mask, is_causal=is_causal)
        q_BHTd, k_BHTd, v_BHTd = self.split(x)
        content_BHTT = (q_BHTd * self.scale @ k_BHTd.transpose(-2, -1)).softmax(dim=-1)
        place_HNN = self.pos_proj(self.offsets).permute(2, 0, 1).softmax(dim=-1)
        place_HTT = F.pad(place_HNN, (self.prefix, 0, self.prefix, 0))
        gate_HTT = self.gating.sigmoid()[:, None, None] * self.between_patches
        weights_BHTT = (1 - gate_HTT) * content_BHTT + gate_HTT * place_HTT
        weights_BHTT = weights_BHTT / weights_BHTT.sum(dim=-1, keepdim=True)
        return self.join(self.attn_drop(weights_BHTT).to(v_BHTd.dtype) @ v_BHTd)


def patch_offsets(grid_size: tuple[int, int]) -> Tensor:
    """From each patch to each other: columns, rows and squared distance (N, N, 3)."""
    height, width = grid_size
    row_N = torch.arange(height, dtype=torch.float32).repeat_interleave(width)
    column_N = torch.arange(width, dtype=torch.float32).repeat(height)
    dx, dy = column_N[None, :] - column_N[:, None], row_N[None, :] - row_N[:, None]
    return torch.stack([dx, dy, dx**2 + dy**2], dim=-1)


def head_centres(heads: int) -> list[list[float]]:
    """Where each head looks, as columns and rows from the patch itself."""
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

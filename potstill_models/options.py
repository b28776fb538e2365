"""Options of ``potstill_vit`` and ``potstill_swin`` beyond timm's, as plain JSON values, and their validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAX_TOKENS = 16
STEM_TOKENS = 2  # one from each stem
_STEMS = ("patch", "conv", "co_advise")
_STARTS = ("random", "identity")


@dataclass(frozen=True, slots=True)
class BlockSize:
    """Widths of one block: value dimensions of each retained head, and hidden units of the MLP."""

    value_dims: tuple[int, ...]
    hidden: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VitOptions:
    """Arguments of ``potstill_vit`` that timm's ViT does not have.

    ``distillation_tokens``: learned tokens after the class token, each with its own head.
    ``patch_vote``: the last distillation head also reads the mean of the patch tokens, as one more vote of the mean.
    ``stem``: ``patch``; ``conv``, convolutions, which also produce the distillation token if there is one; or
    ``co_advise``, whose two stems produce the two distillation tokens.
    ``repeats``: runs of each stored block; ``depth`` counts runs. ``head_transforms`` and ``relative_position`` are
    separate for each run. ``transform_start``: ``random``, near zero as in the authors' code, or ``identity``, so that
    a run starts as a plain block.
    ``block_heads``, ``block_dims``, ``block_hidden``: sizes of each stored block: heads (of dimension
    ``embed_dim / num_heads``), value dimensions of each head, hidden units.
    ``head_dim``: dimension of the queries and keys of a head; it need not be ``embed_dim / num_heads``.
    ``merged_tokens``: number of patch tokens that each block merges into similar ones (token merging).
    ``heads_per_block``: attention heads of each block, at the same width, so that a head's width differs.
    ``lift_width``: width that a linear layer after the final norm projects all tokens to.
    ``wide_last``, ``wide_last_heads``: width and heads of the last block; norm and classifier have this width.
    ``local_blocks``: number of first blocks with gated positional attention.
    """

    distillation_tokens: int = 0
    patch_vote: bool = False
    stem: str = "patch"
    repeats: int = 1
    head_transforms: bool = False
    transform_start: str = "random"
    relative_position: bool = False
    block_heads: Sequence[int] | None = None
    block_dims: Sequence[Sequence[int]] | None = None
    block_hidden: Sequence[int] | None = None
    head_dim: int | None = None
    merged_tokens: Sequence[int] | None = None
    heads_per_block: Sequence[int] | None = None
    lift_width: int | None = None
    wide_last: int | None = None
    wide_last_heads: int | None = None
    local_blocks: int = 0

    @property
    def multiplexed(self) -> bool:
        """Whether blocks share weights between several runs."""
        return self.repeats > 1 or self.head_transforms or self.relative_position

    @property
    def sized(self) -> bool:
        """Whether blocks have individual widths."""
        return any(given is not None for given in (self.block_heads, self.block_dims, self.block_hidden, self.head_dim))

    def size(self, index: int, *, num_heads: int, head_dim: int, hidden: int) -> BlockSize:
        """Return the widths of a stored block; omitted ones are those of the plain block."""
        heads = num_heads if self.block_heads is None else self.block_heads[index]
        value_dims = (head_dim,) * heads if self.block_dims is None else tuple(self.block_dims[index])
        return BlockSize(value_dims, hidden if self.block_hidden is None else self.block_hidden[index])

    def check(self, *, embed_dim: int, depth: int, num_heads: int) -> None:
        """Validate the options. Raises ValueError with the reason."""
        self._check_head_dim(embed_dim, num_heads)
        if not 0 <= self.distillation_tokens <= MAX_TOKENS:
            raise ValueError(f"distillation_tokens is 0 to {MAX_TOKENS}, not {self.distillation_tokens}")
        if self.stem not in _STEMS:
            raise ValueError(f"stem is {', '.join(_STEMS[:-1])} or {_STEMS[-1]}, not {self.stem!r}")
        if self.stem == "conv" and self.distillation_tokens > 1:
            raise ValueError("the stem conv produces one token: set distillation_tokens to 0 or 1")
        _check_start(self.transform_start)
        if self.stem == "co_advise" and self.distillation_tokens != STEM_TOKENS:
            raise ValueError("the stem co_advise produces two tokens: set distillation_tokens to 2")
        if self.repeats < 1 or depth % self.repeats:
            raise ValueError(f"depth {depth} is not a multiple of repeats {self.repeats}")
        if not 0 <= self.local_blocks <= depth:
            raise ValueError(f"local_blocks is 0 to {depth}, the depth, not {self.local_blocks}")
        if self.local_blocks and self.multiplexed:
            raise ValueError("runs of a shared block cannot have the gates of local_blocks: leave one of them out")
        if self.lift_width is not None and self.lift_width < 1:
            raise ValueError("lift_width is at least 1")
        self._check_heads_per_block(depth, embed_dim)
        self._check_sizes(depth // self.repeats, num_heads, self.head_dim or embed_dim // num_heads)
        self._check_wide_last(depth, embed_dim // num_heads)
        self._check_merging(depth)

    def check_merged_tokens(self, num_patches: int) -> None:
        """Validate ``merged_tokens`` against the number of patches. Raises ValueError with the reason."""
        for index, merged in enumerate(self.merged_tokens or ()):
            if not 0 <= merged <= num_patches // 2:
                raise ValueError(f"merged_tokens[{index}] is 0 to {num_patches // 2}, half of the {num_patches} tokens")
            num_patches -= merged

    def check_pooling(self, *, global_pool: str, class_token: bool, fc_norm: bool | None, patch_drop: float) -> None:
        """Validate the options against those of timm's ViT. Raises ValueError with the reason."""
        if global_pool not in {"token", "avg"}:
            raise ValueError(f"global_pool is token or avg, not {global_pool!r}")
        if global_pool == "token" and not class_token:
            raise ValueError("global_pool token needs the class token: set class_token, or global_pool avg")
        if self.distillation_tokens and not (class_token and global_pool == "token"):
            raise ValueError("distillation_tokens need the class token and are not pooled: set global_pool token")
        if self.patch_vote and not self.distillation_tokens:
            raise ValueError("patch_vote reads patches with a distillation head: set distillation_tokens")
        if self.patch_vote and fc_norm:
            raise ValueError("patch_vote reads the mean of normalized tokens, and fc_norm normalizes it: leave one out")
        if self.lift_width is not None and fc_norm:
            raise ValueError("lift_width follows the final norm, which fc_norm puts after pooling: leave one out")
        if patch_drop > 0 and (self.local_blocks or self.relative_position):
            raise ValueError("patch_drop_rate removes patches, and local_blocks and relative_position need all of them")

    def wide_heads(self, head_dim: int) -> int:
        """Number of heads of the wide last block; by default heads have the usual dimension."""
        assert self.wide_last is not None
        return self.wide_last_heads or max(1, self.wide_last // head_dim)

    def _check_head_dim(self, embed_dim: int, num_heads: int) -> None:
        if self.head_dim is not None and self.head_dim < 1:
            raise ValueError("head_dim is at least 1")
        if num_heads < 1 or (embed_dim % num_heads and self.head_dim is None):
            raise ValueError(f"embed_dim {embed_dim} is not a multiple of num_heads {num_heads}: set head_dim")

    def _check_sizes(self, stored: int, num_heads: int, head_dim: int) -> None:
        for name in ("block_heads", "block_dims", "block_hidden"):
            given = getattr(self, name)
            if given is not None and len(given) != stored:
                raise ValueError(f"{name} has {len(given)} entries, and there are {stored} stored blocks")
        if any(not 1 <= heads <= num_heads for heads in self.block_heads or ()):
            raise ValueError(f"each of block_heads is 1 to {num_heads}; to leave out a block, lower depth")
        if any(hidden < 1 for hidden in self.block_hidden or ()):
            raise ValueError("each of block_hidden is at least 1")
        for index, dims in enumerate(self.block_dims or ()):
            heads = num_heads if self.block_heads is None else self.block_heads[index]
            if len(dims) != heads or any(not 1 <= dim <= head_dim for dim in dims):
                raise ValueError(f"block_dims[{index}] should be {heads} numbers of 1 to {head_dim}, one for each head")

    def _check_merging(self, depth: int) -> None:
        if self.merged_tokens is None:
            return
        if self.multiplexed or self.local_blocks or self.wide_last is not None:
            raise ValueError("merged_tokens needs plain blocks: leave out repeats, transforms, local_blocks, wide_last")
        if len(self.merged_tokens) != depth:
            raise ValueError(f"merged_tokens has {len(self.merged_tokens)} entries, and there are {depth} blocks")

    def _check_heads_per_block(self, depth: int, embed_dim: int) -> None:
        heads = self.heads_per_block
        if heads is None:
            return
        if self.multiplexed or self.sized or self.wide_last is not None or self.local_blocks:
            raise ValueError("heads_per_block builds plain blocks: leave out options that build other ones")
        if len(heads) != depth:
            raise ValueError(f"heads_per_block has {len(heads)} entries, and there are {depth} blocks")
        if any(number < 1 or embed_dim % number for number in heads):
            raise ValueError(f"each of heads_per_block has to divide embed_dim {embed_dim}")

    def _check_wide_last(self, depth: int, head_dim: int) -> None:
        if self.wide_last is None:
            if self.wide_last_heads is not None:
                raise ValueError("wide_last_heads needs wide_last")
            return
        if self.multiplexed or self.sized:
            raise ValueError("wide_last builds a separate last block: leave out repeats, transforms and widths")
        if self.local_blocks == depth or not depth:
            raise ValueError("wide_last needs a last block that is not among local_blocks")
        heads = self.wide_heads(head_dim)
        if self.wide_last < 1 or heads < 1 or self.wide_last % heads:
            raise ValueError(f"wide_last {self.wide_last} is not a multiple of its {heads} heads: set wide_last_heads")


@dataclass(frozen=True, slots=True, kw_only=True)
class SwinOptions:
    """Arguments of ``potstill_swin`` that timm's Swin does not have.

    ``repeats``: runs of each stored block; ``depths`` count runs. A stage with fewer runs stores one block.
    ``head_transforms`` and ``local_convolution`` (before the MLP) are separate for each run. ``transform_start``:
    ``random`` as in the authors' code, or ``identity``: transforms start at identity and local convolutions at zero.
    """

    repeats: int = 1
    head_transforms: bool = False
    transform_start: str = "random"
    local_convolution: bool = False

    @property
    def multiplexed(self) -> bool:
        """Whether blocks share weights between several runs."""
        return self.repeats > 1 or self.head_transforms or self.local_convolution

    def runs(self, depth: int) -> int:
        """Number of runs of each stored block of a stage."""
        return min(self.repeats, depth)

    def check(self, depths: Sequence[int]) -> None:
        """Validate the options. Raises ValueError with the reason."""
        if not depths or min(depths) < 1:
            raise ValueError("each of depths is at least 1")
        _check_start(self.transform_start)
        valid = [times for times in range(1, max(depths) + 1) if all(d % min(times, d) == 0 for d in depths)]
        if self.repeats not in valid:
            stages = ", ".join(str(depth) for depth in depths)
            raise ValueError(
                f"stages of {stages} blocks cannot be runs of {self.repeats} each; set repeats to one of "
                f"{', '.join(str(times) for times in valid)}, or change depths"
            )


def _check_start(start: str) -> None:
    if start not in _STARTS:
        raise ValueError(f"transform_start is {' or '.join(_STARTS)}, not {start!r}")

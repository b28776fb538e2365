"""The search for what a ViT can do without: a budget of operations, and a price for everything that is pruned.

Unified Visual Transformer Compression (Yu et al. 2022, arXiv:2203.08243): minimise the loss so that pruned groups
are zero (prices y for heads and hidden units, p for dimensions) and the operations R are within the budget (price
z). A group is what the layer behind it has for it: columns of a weight. After each step of the optimiser

* the smallest groups shrink, w / (1 + 2 · rate · price), the paper's proximal step;
* pruned shares s and r go down the gradient of y · S(s) + p · S(r) + z · R, clipped to a largest entry of 1, where
  S is the pruned part of the squared norms and its derivative the next smallest norm;
* the gates of the blocks go down the loss's own gradient and that of z · R, with momentum;
* y, p and z go up by S and by R − budget, and are never below 0.

Deviations from the official code: rates are for the whole search, so that a short training finds as much as a long
one; S is a share of a layer's norms and R's gradient is multiplied by the depth, so that no rate depends on the
model's size; R takes the gates' probabilities, not a random draw of them; gates are updated at each step, and not
by AdamW as well. What the search leaves above or below the budget, :meth:`PruningSearch.settle` evens out.
Shapes: L blocks, H heads, d dimensions of a head, D = H · d, M hidden units.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from core.losses import smallest_groups
from core.models.pruned import KeptBlock, VitSize, squared_columns
from core.models.pruning_budget import BlockWish, fit

# Of the whole search; each is divided by its number of steps.
_PACE = 4.0  # at the largest gradient a share goes from 0 to 1 in a quarter of the search
_GATE_PACE = 10.0
_GROUP_PRICE, _BUDGET_PRICE, _SHRINK = 4.0, 40.0, 10.0
# Of a step.
_GATE_MOMENTUM, _GATE_PRESSURE = 0.9, 0.05
_FIRST_PRICE = 1e-3
_FIRST_GATES = (-1.0, 1.0)  # skip, keep
_MARGIN = 1e-6


@dataclass(frozen=True, slots=True)
class Norms:
    """What each group is worth, squared: dimensions of heads (L, H, d) and hidden units (L, M)."""

    dims: Tensor
    hidden: Tensor

    @classmethod
    def of(cls, blocks: Sequence[Any], size: VitSize) -> Norms:
        """Those of the columns behind them."""
        columns_LD = torch.stack([squared_columns(block.attn.proj.weight) for block in blocks])
        hidden_LM = torch.stack([squared_columns(block.mlp.fc2.weight) for block in blocks])
        return cls(columns_LD.view(size.depth, size.heads, size.head_dim), hidden_LM)

    @property
    def heads(self) -> Tensor:
        """Whole heads, (L, H)."""
        return self.dims.sum(dim=-1)


class PruningSearch(nn.Module):
    """What is pruned so far, and the prices. All of it is in buffers; nothing here is trained by the optimiser."""

    heads: Tensor
    dims: Tensor
    hidden: Tensor
    heads_price: Tensor
    dims_price: Tensor
    hidden_price: Tensor
    budget_price: Tensor
    gates: Tensor
    gate_velocity: Tensor
    keep: Tensor
    value_mask: Tensor
    hidden_mask: Tensor
    is_finalized: Tensor

    def __init__(self, size: VitSize, *, budget: float, parts: Collection[str]) -> None:
        super().__init__()
        self.size, self.budget, self.parts = size, budget, frozenset(parts)
        self.whole = size.ends + size.depth * sum(size.block_parts)
        shapes = {"heads": (size.depth,), "dims": (size.depth, size.heads), "hidden": (size.depth,)}
        for part, shape in shapes.items():
            self.register_buffer(part, torch.zeros(shape))  # the pruned share
            self.register_buffer(f"{part}_price", torch.full(shape, _FIRST_PRICE))
        self.register_buffer("budget_price", torch.zeros(()))
        self.register_buffer("gates", torch.tensor(_FIRST_GATES).repeat(size.depth, 1))
        self.register_buffer("gate_velocity", torch.zeros(size.depth, 2))
        # What the student is multiplied with.
        self.register_buffer("keep", torch.ones(size.depth))
        self.register_buffer("value_mask", torch.ones(size.depth, size.heads * size.head_dim))
        self.register_buffer("hidden_mask", torch.ones(size.depth, size.hidden))
        self.register_buffer("settled", torch.zeros((), dtype=torch.bool))

    def update(self, blocks: Sequence[Any], gate_gradient: Tensor | None, *, steps: int) -> None:
        """A step of ``steps``; ``gate_gradient`` (L, 2) is that of the loss."""
        norms = Norms.of(blocks, self.size)
        self._shrink(blocks, norms, steps)
        groups = {"heads": norms.heads, "dims": norms.dims, "hidden": norms.hidden}
        pulls, excess = self._pulls(norms)
        gradients = {}
        for part, norm in groups.items():
            share, price = getattr(self, part), getattr(self, f"{part}_price")
            count, total = norm.shape[-1], norm.sum(dim=-1).clamp_min(_MARGIN)
            pruned, following = smallest_groups(norm, share * count - _MARGIN)
            gradients[part] = price * following * count / total + self.budget_price * pulls[part]
            price += _GROUP_PRICE / steps * pruned / total
        largest = torch.stack([gradient.abs().max() for gradient in gradients.values()]).max()
        for part, norm in groups.items():
            if part in self.parts:
                share = getattr(self, part)
                share -= _PACE / steps * gradients[part] / largest.clamp_min(1.0)
                share.clamp_(0.0, 1 - 1 / norm.shape[-1])
        if "blocks" in self.parts:
            pull = _GATE_PRESSURE * self.budget_price * pulls["gates"]
            self.gate_velocity.mul_(_GATE_MOMENTUM).add_(pull if gate_gradient is None else pull + gate_gradient)
            self.gates -= _GATE_PACE / steps * self.gate_velocity
            self.keep.copy_((self.gates[:, 1] > self.gates[:, 0]).float())
        self.budget_price.add_(_BUDGET_PRICE / steps * excess).clamp_(min=0.0)

    def operations(self, *, heads: Tensor, dims: Tensor, hidden: Tensor, gates: Tensor, stays_LH: Tensor) -> Tensor:
        """R, the share of operations that is left; ``stays_LH`` marks the heads whose dimensions count."""
        queries_and_keys, values, mlp = self.size.block_parts
        pruned_values = heads + (stays_LH * dims).sum(dim=1) / self.size.heads
        block_L = queries_and_keys * (1 - heads) + values * (1 - pruned_values).clamp(0, 1) + mlp * (1 - hidden)
        total: Tensor = (self.size.ends + (gates.softmax(dim=1)[:, 1] * block_L).sum()) / self.whole
        return total

    def finalize(self, blocks: Sequence[Any]) -> None:
        """End the search: choose what stays, within the budget, and mask the rest from now on."""
        norms, size = Norms.of(blocks, self.size), self.size
        ranked_LH = norms.heads.argsort(dim=1, descending=True, stable=True)
        strength_L = self.gates[:, 1] - self.gates[:, 0]
        order = strength_L.argsort(descending=True, stable=True).tolist()
        wishes = [
            BlockWish(
                index,
                ranked=tuple(ranked_LH[index].tolist()),
                heads=float(self.heads[index]),
                dims=tuple(self.dims[index].tolist()),
                hidden=float(self.hidden[index]),
            )
            for index in order
        ]
        num_blocks = max(1, int((strength_L > 0).sum()))
        widths = fit(size, wishes, num_blocks, operations=self.budget * self.whole, parts=self.parts)
        assert widths is not None, "a budget that cannot be met is refused before"
        for mask in (self.keep, self.value_mask, self.hidden_mask):
            mask.zero_()
        for block in widths:
            self.keep[block.index] = 1
            values_Hd = self.value_mask[block.index].view(size.heads, size.head_dim)
            for head, count in block.dims.items():
                values_Hd[head, norms.dims[block.index, head].argsort(descending=True, stable=True)[:count]] = 1
            best = norms.hidden[block.index].argsort(descending=True, stable=True)[: block.hidden]
            self.hidden_mask[block.index, best] = 1
        self.is_finalized.fill_(True)

    def kept(self) -> tuple[KeptBlock, ...]:
        """What stays, once the search has ended."""
        blocks = []
        for index in self.keep.nonzero().flatten().tolist():
            values_Hd = self.value_mask[index].view(self.size.heads, self.size.head_dim)
            dims = {head: row.nonzero().flatten().tolist() for head, row in enumerate(values_Hd)}
            hidden = self.hidden_mask[index].nonzero().flatten().tolist()
            blocks.append(KeptBlock(index, {head: rows for head, rows in dims.items() if rows}, hidden))
        return tuple(blocks)

    def _pulls(self, norms: Norms) -> tuple[dict[str, Tensor], Tensor]:
        """R's gradients, times the depth, and how far R is above the budget."""
        stays_LH = 1 - _smallest(norms.heads, self.heads)
        names = ("heads", "dims", "hidden", "gates")
        with torch.enable_grad():
            leaves = {name: getattr(self, name).detach().clone().requires_grad_() for name in names}
            left = self.operations(**leaves, stays_LH=stays_LH)
            gradients = torch.autograd.grad(left, tuple(leaves.values()))
        pulls = {name: self.size.depth * gradient for name, gradient in zip(names, gradients, strict=True)}
        return pulls, left.detach() - self.budget

    def _shrink(self, blocks: Sequence[Any], norms: Norms, steps: int) -> None:
        """The proximal step: what is pruned gets smaller, the more so the dearer it is."""
        rate = 2 * _SHRINK / steps
        heads_LH = rate * self.heads_price[:, None] * _smallest(norms.heads, self.heads)
        dims_LHd = rate * self.dims_price[..., None] * _smallest(norms.dims, self.dims)
        hidden_LM = rate * self.hidden_price[:, None] * _smallest(norms.hidden, self.hidden)
        values_LD = ((1 + heads_LH[..., None]) * (1 + dims_LHd)).flatten(1)
        for block, values_D, hidden_M in zip(blocks, values_LD, 1 + hidden_LM, strict=True):
            block.attn.proj.weight.div_(values_D)
            block.mlp.fc2.weight.div_(hidden_M)


def _smallest(norms: Tensor, share: Tensor) -> Tensor:
    """1 at the smallest groups (..., G) that a pruned share (...) stands for, 0 elsewhere."""
    count = (share * norms.shape[-1] - _MARGIN).ceil().unsqueeze(-1)
    rank = norms.argsort(dim=-1, stable=True).argsort(dim=-1, stable=True)
    return (rank < count).float()

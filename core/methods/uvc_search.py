"""The search of UVC: which parts of a ViT to prune, under a budget of FLOPs, by dual variables (prices).

Paper: Unified Visual Transformer Compression, Yu et al. 2022, arXiv:2203.08243: minimize the loss subject to pruned
groups being zero (prices y for heads and hidden units, p for dimensions) and the FLOPs R being within the budget
(price z). A group consists of the columns of the next layer's weight that read it. After each optimizer step

* the smallest groups shrink, w / (1 + 2 · rate · price), the paper's proximal step;
* pruned shares s and r descend the gradient of y · S(s) + p · S(r) + z · R, scaled to a largest entry of at most 1,
  where S is the pruned part of the squared norms and its derivative the next smallest norm;
* the gates of the blocks descend the loss's own gradient and that of z · R, with momentum;
* y, p and z increase by S and by R − budget, and are never negative.

Deviations from the official code: rates are per search, not per step, so that a short training prunes as much as a long
one; S is a share of a layer's norms and R's gradient is multiplied by the depth, so that no rate depends on the model's
size; R uses the gates' probabilities instead of a random sample; gates are updated at each step, and not also by
AdamW. :meth:`PruningSearch.finalize` corrects what the search leaves above or below the budget.

Shapes: L blocks, H heads, d dimensions of a head, D = H · d, M hidden units.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from core.losses import smallest_groups
from core.models.pruned import PrunedBlock, VitSize, squared_column_norms
from core.models.pruning_budget import BlockTarget, fit_widths

# Rates per search; each is divided by the number of its steps.
_SHARE_RATE = 4.0  # at the largest gradient a share goes from 0 to 1 in a quarter of the search
_GATE_RATE = 10.0
_GROUP_PRICE_RATE, _BUDGET_PRICE_RATE, _SHRINK_RATE = 4.0, 40.0, 10.0
# Rates per step.
_GATE_MOMENTUM, _GATE_BUDGET_WEIGHT = 0.9, 0.05
_INITIAL_PRICE = 1e-3
_INITIAL_GATES = (-1.0, 1.0)  # logits of skip and keep
_EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class Norms:
    """Squared norms of the groups: dimensions of heads (L, H, d) and hidden units (L, M)."""

    dims: Tensor
    hidden: Tensor

    @classmethod
    def from_blocks(cls, blocks: Sequence[Any], size: VitSize) -> Norms:
        """Compute the squared norms of the columns that read each group."""
        columns_LD = torch.stack([squared_column_norms(block.attn.proj.weight) for block in blocks])
        hidden_LM = torch.stack([squared_column_norms(block.mlp.fc2.weight) for block in blocks])
        return cls(columns_LD.view(size.depth, size.heads, size.head_dim), hidden_LM)

    @property
    def heads(self) -> Tensor:
        """Squared norms of entire heads, (L, H)."""
        return self.dims.sum(dim=-1)


class PruningSearch(nn.Module):
    """Pruned shares, prices, gates and masks. All are buffers; the optimizer trains none of them."""

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
        self.total_flops = size.outer_flops + size.depth * sum(size.block_part_flops)
        shapes = {"heads": (size.depth,), "dims": (size.depth, size.heads), "hidden": (size.depth,)}
        for part, shape in shapes.items():
            self.register_buffer(part, torch.zeros(shape))  # the pruned share
            self.register_buffer(f"{part}_price", torch.full(shape, _INITIAL_PRICE))
        self.register_buffer("budget_price", torch.zeros(()))
        self.register_buffer("gates", torch.tensor(_INITIAL_GATES).repeat(size.depth, 1))
        self.register_buffer("gate_velocity", torch.zeros(size.depth, 2))
        # Masks of the student's activations.
        self.register_buffer("keep", torch.ones(size.depth))
        self.register_buffer("value_mask", torch.ones(size.depth, size.heads * size.head_dim))
        self.register_buffer("hidden_mask", torch.ones(size.depth, size.hidden))
        self.register_buffer("is_finalized", torch.zeros((), dtype=torch.bool))

    def update(self, blocks: Sequence[Any], gate_gradient: Tensor | None, *, num_steps: int) -> None:
        """Run one of ``num_steps`` steps; ``gate_gradient`` (L, 2) is the loss's gradient of the gates."""
        norms = Norms.from_blocks(blocks, self.size)
        self._shrink(blocks, norms, num_steps)
        groups = {"heads": norms.heads, "dims": norms.dims, "hidden": norms.hidden}
        budget_gradients, excess = self._budget_gradients(norms)
        gradients = {}
        for part, norm in groups.items():
            share, price = getattr(self, part), getattr(self, f"{part}_price")
            count, total = norm.shape[-1], norm.sum(dim=-1).clamp_min(_EPSILON)
            pruned, following = smallest_groups(norm, share * count - _EPSILON)
            gradients[part] = price * following * count / total + self.budget_price * budget_gradients[part]
            price += _GROUP_PRICE_RATE / num_steps * pruned / total
        largest = torch.stack([gradient.abs().max() for gradient in gradients.values()]).max()
        for part, norm in groups.items():
            if part in self.parts:
                share = getattr(self, part)
                share -= _SHARE_RATE / num_steps * gradients[part] / largest.clamp_min(1.0)
                share.clamp_(0.0, 1 - 1 / norm.shape[-1])
        if "blocks" in self.parts:
            gradient = _GATE_BUDGET_WEIGHT * self.budget_price * budget_gradients["gates"]
            if gate_gradient is not None:
                gradient = gradient + gate_gradient
            self.gate_velocity.mul_(_GATE_MOMENTUM).add_(gradient)
            self.gates -= _GATE_RATE / num_steps * self.gate_velocity
            self.keep.copy_((self.gates[:, 1] > self.gates[:, 0]).float())
        self.budget_price.add_(_BUDGET_PRICE_RATE / num_steps * excess).clamp_(min=0.0)

    def flops_fraction(self, *, heads: Tensor, dims: Tensor, hidden: Tensor, gates: Tensor, stays_LH: Tensor) -> Tensor:
        """R, the remaining fraction of FLOPs; ``stays_LH`` is 1 for heads that remain, whose dimensions count."""
        queries_and_keys, values, mlp = self.size.block_part_flops
        pruned_values = heads + (stays_LH * dims).sum(dim=1) / self.size.heads
        block_L = queries_and_keys * (1 - heads) + values * (1 - pruned_values).clamp(0, 1) + mlp * (1 - hidden)
        total: Tensor = (self.size.outer_flops + (gates.softmax(dim=1)[:, 1] * block_L).sum()) / self.total_flops
        return total

    def finalize(self, blocks: Sequence[Any]) -> None:
        """End the search: select what remains within the budget, and mask the rest from now on."""
        norms, size = Norms.from_blocks(blocks, self.size), self.size
        ranked_LH = norms.heads.argsort(dim=1, descending=True, stable=True)
        strength_L = self.gates[:, 1] - self.gates[:, 0]
        order = strength_L.argsort(descending=True, stable=True).tolist()
        targets = [
            BlockTarget(
                index,
                ranked_heads=tuple(ranked_LH[index].tolist()),
                heads=float(self.heads[index]),
                dims=tuple(self.dims[index].tolist()),
                hidden=float(self.hidden[index]),
            )
            for index in order
        ]
        num_blocks = max(1, int((strength_L > 0).sum()))
        widths = fit_widths(size, targets, num_blocks, max_flops=self.budget * self.total_flops, parts=self.parts)
        assert widths is not None, "a budget that cannot be met is rejected in Uvc.__init__"
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

    def retained_blocks(self) -> tuple[PrunedBlock, ...]:
        """The remaining blocks, heads, dimensions and hidden units after :meth:`finalize`."""
        blocks = []
        for index in self.keep.nonzero().flatten().tolist():
            values_Hd = self.value_mask[index].view(self.size.heads, self.size.head_dim)
            dims = {head: row.nonzero().flatten().tolist() for head, row in enumerate(values_Hd)}
            hidden = self.hidden_mask[index].nonzero().flatten().tolist()
            blocks.append(PrunedBlock(index, {head: rows for head, rows in dims.items() if rows}, hidden))
        return tuple(blocks)

    def _budget_gradients(self, norms: Norms) -> tuple[dict[str, Tensor], Tensor]:
        """Return R's gradients, multiplied by the depth, and R − budget."""
        stays_LH = 1 - _smallest_mask(norms.heads, self.heads)
        names = ("heads", "dims", "hidden", "gates")
        with torch.enable_grad():
            leaves = {name: getattr(self, name).detach().clone().requires_grad_() for name in names}
            remaining = self.flops_fraction(**leaves, stays_LH=stays_LH)
            gradients = torch.autograd.grad(remaining, tuple(leaves.values()))
        budget_gradients = {name: self.size.depth * gradient for name, gradient in zip(names, gradients, strict=True)}
        return budget_gradients, remaining.detach() - self.budget

    def _shrink(self, blocks: Sequence[Any], norms: Norms, num_steps: int) -> None:
        """The proximal step: shrink pruned groups, in proportion to their price."""
        rate = 2 * _SHRINK_RATE / num_steps
        heads_LH = rate * self.heads_price[:, None] * _smallest_mask(norms.heads, self.heads)
        dims_LHd = rate * self.dims_price[..., None] * _smallest_mask(norms.dims, self.dims)
        hidden_LM = rate * self.hidden_price[:, None] * _smallest_mask(norms.hidden, self.hidden)
        values_LD = ((1 + heads_LH[..., None]) * (1 + dims_LHd)).flatten(1)
        for block, values_D, hidden_M in zip(blocks, values_LD, 1 + hidden_LM, strict=True):
            block.attn.proj.weight.div_(values_D)
            block.mlp.fc2.weight.div_(hidden_M)


def _smallest_mask(norms: Tensor, share: Tensor) -> Tensor:
    """Mask (..., G) that is 1 at the smallest groups, which a pruned share (...) selects, and 0 elsewhere."""
    count = (share * norms.shape[-1] - _EPSILON).ceil().unsqueeze(-1)
    rank = norms.argsort(dim=-1, stable=True).argsort(dim=-1, stable=True)
    return (rank < count).float()

"""Importance of a ViT's heads, hidden units, blocks and width: the parts that structured pruning can remove.

``magnitude`` is the norm of all weights of a part, relative to the mean of its layer, because layers differ in scale.
``taylor`` is the squared first-order change of the loss when a part is set to zero, mean over images: Molchanov et al.
2019, arXiv:1906.10771, eq. 6, with a gate on each part's output (section 3.3) and one gradient per image.
Shapes: L blocks, H heads, M hidden units, D width, B images, V value dimensions of all heads of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.models.built import BuiltModel
from core.models.pruned import value_dims
from potstill_models import PotstillVit

Batches = Iterable[tuple[Tensor, Tensor]]
"""Images in 0…1 (B, C, H, W) and classes (B,), on the device of the model."""


@dataclass(frozen=True, slots=True)
class VitImportance:
    """Scores of all parts, on the CPU; a part with a higher score is removed later.

    ``heads`` and ``hidden`` have one tensor per block, (H,) and (M,); ``blocks`` is (L,) and ``width`` (D,).
    """

    heads: tuple[Tensor, ...]
    hidden: tuple[Tensor, ...]
    blocks: Tensor
    width: Tensor


def magnitude_importance(module: PotstillVit) -> VitImportance:
    """Score each part by the norm of its weights."""
    blocks: Sequence[Any] = list(module.blocks)
    heads = [_by_head(_squares(block.attn.proj.weight, 0), block.attn) for block in blocks]
    for index, block in enumerate(blocks):
        heads[index] = heads[index] + _query_key_value_squares(block.attn)
    hidden = [_squares(block.mlp.fc1.weight, 1) + _squares(block.mlp.fc2.weight, 0) for block in blocks]
    total = [sum(p.detach().float().square().sum().item() for p in block.parameters()) for block in blocks]
    return VitImportance(
        heads=tuple(_relative(scores) for scores in heads),
        hidden=tuple(_relative(scores) for scores in hidden),
        blocks=torch.tensor(total),
        width=_width_squares(module).sqrt(),
    )


def taylor_importance(built: BuiltModel, batches: Batches, *, poll: Callable[[], None]) -> VitImportance:
    """Score each part by the change of the loss without it, from the images of ``batches``.

    The model is in evaluation mode; its weights do not change. ``poll`` is called once per batch.
    """
    module = built.module
    assert isinstance(module, PotstillVit)
    gates, total, num_images = _Gates(module), None, 0
    for images_BCHW, labels_B in batches:
        poll()
        with gates.attached(len(images_BCHW), images_BCHW.device) as masks, torch.enable_grad():
            loss = F.cross_entropy(built(images_BCHW).float(), labels_B, reduction="sum")
            gradients = torch.autograd.grad(loss, masks)
        squares = [gradient.flatten(1).square().sum(dim=0).cpu() for gradient in gradients]
        total = squares if total is None else [sums + new for sums, new in zip(total, squares, strict=True)]
        num_images += len(images_BCHW)
    assert total is not None, "there is at least one batch"
    depth = len(module.blocks)
    scores = [sums / num_images for sums in total]
    return VitImportance(
        heads=tuple(scores[:depth]),
        hidden=tuple(scores[depth : 2 * depth]),
        blocks=torch.cat(scores[2 * depth : 3 * depth]),
        width=scores[-1],
    )


class _Gates:
    """Factors of 1 on every part's output, one per image, whose gradients are the change of the loss without it."""

    def __init__(self, module: PotstillVit) -> None:
        self.module = module
        self.blocks: list[Any] = list(module.blocks)

    @contextmanager
    def attached(self, num_images: int, device: torch.device) -> Iterator[list[Tensor]]:
        """Attach gates for a batch; yield those of heads, hidden units, blocks (each L of them) and width."""

        def ones(count: int) -> Tensor:
            return torch.ones(num_images, 1, count, device=device, requires_grad=True)

        heads = [ones(block.attn.num_heads) for block in self.blocks]
        hidden = [ones(block.mlp.fc2.in_features) for block in self.blocks]
        blocks = [ones(1) for _ in self.blocks]
        width = ones(self.module.embed_dim)
        hooks = []
        for block, head_B1H, hidden_B1M, block_B11 in zip(self.blocks, heads, hidden, blocks, strict=True):
            dims = torch.tensor(value_dims(block.attn), device=device)
            values_B1V = head_B1H.repeat_interleave(dims, dim=2)
            hooks += [
                block.attn.proj.register_forward_pre_hook(_scale_input(values_B1V)),
                block.mlp.fc2.register_forward_pre_hook(_scale_input(hidden_B1M)),
                block.register_forward_hook(_scale_residual(block_B11)),
                block.norm1.register_forward_hook(_scale_output(width)),
                block.norm2.register_forward_hook(_scale_output(width)),
            ]
        last = self.module.fc_norm if isinstance(self.module.norm, nn.Identity) else self.module.norm
        hooks.append(last.register_forward_hook(_scale_output(width)))
        try:
            yield [*heads, *hidden, *blocks, width]
        finally:
            for hook in hooks:
                hook.remove()


def _scale_input(gate: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor]]:
    return lambda _module, inputs: (inputs[0] * gate,)


def _scale_output(gate_B1D: Tensor) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    # Pooled features have no dimension of tokens.
    return lambda _module, _inputs, output: output * (gate_B1D if output.ndim == 3 else gate_B1D[:, 0])


def _scale_residual(gate: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    return lambda _module, inputs, output: inputs[0] + gate * (output - inputs[0])


# --- magnitude ----------------------------------------------------------------------------------


def _squares(weight: Tensor, dim: int) -> Tensor:
    """Sum of squares over one dimension of a matrix."""
    return weight.detach().float().square().sum(dim=dim).cpu()


def _by_head(values_V: Tensor, attention: Any) -> Tensor:
    """Sum the values of each head, (H,)."""
    return torch.stack([part.sum() for part in torch.split(values_V, list(value_dims(attention)))])


def _query_key_value_squares(attention: Any) -> Tensor:
    inner = attention.num_heads * attention.head_dim
    rows = _squares(attention.qkv.weight, 1)
    queries, keys, values = torch.split(rows, [inner, inner, sum(value_dims(attention))])
    projected: Tensor = (queries + keys).view(attention.num_heads, attention.head_dim).sum(dim=1)
    return projected + _by_head(values, attention)


def _relative(squares: Tensor) -> Tensor:
    norms = squares.sqrt()
    return norms / norms.mean().clamp_min(torch.finfo(norms.dtype).tiny)


def _width_squares(module: PotstillVit) -> Tensor:
    """Sum of squares of the blocks' weights that read or write each dimension of the residual stream, (D,)."""
    total = torch.zeros(module.embed_dim)
    for block in module.blocks:
        part: Any = block
        total += _squares(part.attn.qkv.weight, 0) + _squares(part.mlp.fc1.weight, 0)
        total += _squares(part.attn.proj.weight, 1) + _squares(part.mlp.fc2.weight, 1)
    return total

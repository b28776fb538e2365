"""Capture features of a forward pass: levels, attention and embedding, in addition to the logits.

Levels are the outputs of timm's ``forward_intermediates``: the blocks of a ViT, the stages of other networks. Prefix
tokens (class, distillation, register) are separate from patch tokens. A CNN's map is represented as tokens on a grid,
so one code path serves all families.

Shapes: B batch, N patch tokens on a grid (H, W), P prefix tokens, T = P + N, D width, h heads.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.layers import Attention as TimmAttention
from torch import Tensor, nn

from potstill_models.attention import SizedAttention

_PLAIN = (TimmAttention, SizedAttention)


@dataclass(frozen=True, slots=True)
class Feature:
    """Features at one level. ``prefix`` (B, P, D) is None if the network has no prefix tokens there."""

    tokens: Tensor  # (B, N, D), in row-major order of the grid
    grid: tuple[int, int]
    prefix: Tensor | None = None

    @property
    def map(self) -> Tensor:
        """The patch tokens as a map, (B, D, H, W)."""
        batch_size, _, width = self.tokens.shape
        return self.tokens.transpose(1, 2).reshape(batch_size, width, *self.grid)

    @property
    def pooled(self) -> Tensor:
        """The mean of the patch tokens, (B, D)."""
        return self.tokens.mean(dim=1)

    def map_tensors(self, change: Callable[[Tensor], Tensor]) -> Feature:
        """Apply ``change`` to both tensors."""
        return Feature(change(self.tokens), self.grid, None if self.prefix is None else change(self.prefix))


@dataclass(frozen=True, slots=True)
class Attention:
    """One run of a self-attention. ``query``, ``key`` and ``value`` are (B, T, D), unscaled, heads merged.

    In a windowed attention, B counts windows. ``weights`` is (B, h, T, T), or None if the attention is not plain
    softmax attention.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    heads: int
    weights: Tensor | None

    @property
    def qkv(self) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value."""
        return self.query, self.key, self.value

    def map_tensors(self, change: Callable[[Tensor], Tensor]) -> Attention:
        """Apply ``change`` to every tensor."""
        weights = None if self.weights is None else change(self.weights)
        return Attention(change(self.query), change(self.key), change(self.value), self.heads, weights)


@dataclass(frozen=True, slots=True)
class FeatureRequest:
    """Features to capture from a network, in addition to its logits. Levels and attentions count from 0.

    True if it has any features. Without ``logits``, the forward pass stops as soon as all features are captured.
    """

    levels: tuple[int, ...] = ()
    last: bool = False  # features after the final norm
    embedding: bool = False  # input of the classifier
    attentions: tuple[int, ...] = ()
    logits: bool = True

    def __bool__(self) -> bool:
        return bool(self.levels or self.last or self.embedding or self.attentions)

    @property
    def levels_only(self) -> bool:
        """Whether only levels are requested, so that nothing after the deepest one is needed."""
        return bool(self.levels) and not (self.last or self.embedding or self.attentions or self.logits)


@dataclass(frozen=True, slots=True)
class Outputs:
    """Outputs of one network for a batch.

    ``logits`` (B, classes), or (B, 0) if they were not requested. ``token_logits``: logits of further heads, such as
    that of a distillation token. The other fields hold the requested features.
    """

    logits: Tensor
    token_logits: tuple[Tensor, ...] = ()
    levels: Mapping[int, Feature] = field(default_factory=dict)
    last: Feature | None = None
    embedding: Tensor | None = None  # (B, D)
    attentions: Mapping[int, Attention] = field(default_factory=dict)

    @classmethod
    def from_model_output(cls, output: Tensor | tuple[Tensor, ...], **inner: Any) -> Outputs:
        """Wrap the output of a timm model: logits, or a tuple of logits, the class head's first."""
        if isinstance(output, Tensor):
            return cls(output, **inner)
        return cls(output[0], tuple(output[1:]), **inner)

    def map(self, change: Callable[[Tensor], Tensor]) -> Outputs:
        """Apply ``change`` to every tensor."""
        return Outputs(
            logits=change(self.logits),
            token_logits=tuple(change(logits) for logits in self.token_logits),
            levels={index: feature.map_tensors(change) for index, feature in self.levels.items()},
            last=None if self.last is None else self.last.map_tensors(change),
            embedding=None if self.embedding is None else change(self.embedding),
            attentions={index: attention.map_tensors(change) for index, attention in self.attentions.items()},
        )


def run_tapped(module: nn.Module, inputs_BCHW: Tensor, request: FeatureRequest) -> Outputs:
    """Run a network once, as far as necessary, and return its logits and the requested features.

    Raises:
        ValueError: The network lacks a requested feature; :mod:`core.models.structure` lists the available ones.
    """
    if not request:
        return Outputs.from_model_output(module(inputs_BCHW))
    with (
        _capture_embeddings(module, enabled=request.embedding) as embeddings,
        capture_attentions(module, request.attentions) as attentions,
    ):
        if request.levels or request.last:
            output, levels, last = _run_by_levels(module, inputs_BCHW, request)
        else:
            output, levels, last = module(inputs_BCHW), {}, None
    if request.embedding and not embeddings:
        raise ValueError(f"{type(module).__name__} has no classifier with an input to capture")
    missing = [index for index in request.attentions if index not in attentions]
    if missing:
        raise ValueError(f"{type(module).__name__} has no readable attention {missing[0]}")
    if output is None or not request.logits:
        output = inputs_BCHW.new_empty(len(inputs_BCHW), 0)
    return Outputs.from_model_output(
        output, levels=levels, last=last, embedding=embeddings[0] if embeddings else None, attentions=attentions
    )


def _run_by_levels(
    module: nn.Module, inputs: Tensor, request: FeatureRequest
) -> tuple[Tensor | tuple[Tensor, ...] | None, dict[int, Feature], Feature | None]:
    forward: Any = getattr(module, "forward_intermediates", None)
    if forward is None:
        raise ValueError(f"{type(module).__name__} does not return features by level")
    indices = sorted(set(request.levels))
    options: dict[str, Any] = {"output_fmt": "NCHW"}
    has_prefix = getattr(module, "num_prefix_tokens", None) != 0  # if 0, some of timm's models fail with the option
    if has_prefix and "return_prefix_tokens" in inspect.signature(forward).parameters:
        options["return_prefix_tokens"] = True
    if request.levels_only:
        return None, _levels(indices, forward(inputs, indices=indices, **options, **_early_stop_options(forward))), None
    # timm needs at least one level, even if only the last features are requested.
    final, found = forward(inputs, indices=indices or [0], **options)
    levels = _levels(indices, found)
    last = None
    if request.last:
        grid = tuple(_map_of(found[-1]).shape[-2:]) if final.ndim == 3 else None
        last = _last(module, final, grid)
    if not (request.logits or request.embedding):
        return None, levels, last
    return module.forward_head(final), levels, last  # type: ignore[operator]


def _early_stop_options(forward: Any) -> dict[str, Any]:
    """Options with which timm returns only levels, and stops after the deepest one if it can."""
    early = {"stop_early": True} if "stop_early" in inspect.signature(forward).parameters else {}
    return {"intermediates_only": True, **early}


def _levels(indices: list[int], found: Sequence[Any]) -> dict[int, Feature]:
    return {index: _feature(item) for index, item in zip(indices, found, strict=True)} if indices else {}


def _map_of(item: Any) -> Tensor:
    found: Tensor = item[0] if isinstance(item, tuple | list) else item
    return found


def _feature(item: Any) -> Feature:
    """Convert timm's (B, D, H, W), optionally paired with a tensor of prefix tokens."""
    prefix = item[1] if isinstance(item, tuple | list) and item[1].shape[1] else None
    map_BDHW = _map_of(item)
    return Feature(map_BDHW.flatten(2).transpose(1, 2), (map_BDHW.shape[2], map_BDHW.shape[3]), prefix)


def _last(module: nn.Module, final: Tensor, grid: tuple[int, ...] | None) -> Feature:
    """Convert the features after the final norm: (B, T, D), (B, D, H, W), or (B, H, W, D) for Swins."""
    if final.ndim == 4:
        width = getattr(module, "num_features", final.shape[1])
        if final.shape[1] != width and final.shape[3] == width:
            final = final.permute(0, 3, 1, 2)
        return _feature(final)
    num_prefix = int(getattr(module, "num_prefix_tokens", 0) or 0)
    tokens = final[:, num_prefix:]
    if grid is None or grid[0] * grid[1] != tokens.shape[1]:
        side = round(tokens.shape[1] ** 0.5)
        grid = (side, tokens.shape[1] // side)
    return Feature(tokens, (grid[0], grid[1]), final[:, :num_prefix] if num_prefix else None)


# --- hooks --------------------------------------------------------------------------------------


@contextmanager
def _capture_embeddings(module: nn.Module, *, enabled: bool) -> Iterator[list[Tensor]]:
    """Capture the inputs of the classifier, the class head's first."""
    found: list[Tensor] = []
    if not enabled:
        yield found
        return
    classifier: Any = module.get_classifier()  # type: ignore[operator]
    heads = classifier if isinstance(classifier, tuple | list | nn.ModuleList) else [classifier]

    def capture(_head: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(inputs[0].flatten(1))

    hooks = [head.register_forward_pre_hook(capture) for head in heads if isinstance(head, nn.Module)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def capture_attentions(module: nn.Module, indices: Container[int]) -> Iterator[dict[int, Attention]]:
    """Capture runs of self-attentions with one projection of q, k and v, by index in order of execution."""
    found: dict[int, Attention] = {}
    if indices == ():
        yield found
        return
    runs = 0

    def add_hook(attention: nn.Module) -> Any:
        def capture(_layer: nn.Module, _inputs: Any, qkv: Tensor) -> None:
            nonlocal runs
            if runs in indices:
                found[runs] = _attention(attention, qkv)
            runs += 1

        return attention.qkv.register_forward_hook(capture)  # type: ignore[union-attr]

    hooks = [add_hook(part) for part in module.modules() if _has_joint_projection(part)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _has_joint_projection(part: nn.Module) -> bool:
    return isinstance(getattr(part, "qkv", None), nn.Linear) and isinstance(getattr(part, "num_heads", None), int)


def _attention(module: Any, qkv: Tensor) -> Attention:
    merged = qkv.flatten(1, -2) if qkv.ndim > 3 else qkv  # windows have rows and columns of tokens
    width = int(getattr(module, "attn_dim", qkv.shape[-1] // 3))  # values may be narrower than queries and keys
    query, key, value = merged.tensor_split((width, 2 * width), dim=-1)
    return Attention(query, key, value, int(module.num_heads), _weights(module, query, key))


def _weights(module: Any, query: Tensor, key: Tensor) -> Tensor | None:
    """Compute softmax(q kᵀ · scale) of timm's plain ``Attention``, in float32.

    None for other classes, whose additional terms (rotary positions, biases, mixed heads) are not captured.
    """
    if type(module) not in _PLAIN:
        return None
    heads = module.num_heads
    shape = (*query.shape[:-1], heads, -1)
    q_BhTd = module.q_norm(query.view(shape).transpose(1, 2)).float()
    k_BhTd = module.k_norm(key.view(shape).transpose(1, 2)).float()
    return torch.softmax(q_BhTd @ k_BhTd.transpose(-2, -1) * module.scale, dim=-1)

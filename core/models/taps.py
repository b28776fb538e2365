"""What a network holds while it looks at a batch: features by level, attention, embedding, beside its logits.

Levels are what timm's ``forward_intermediates`` gives: the blocks of a ViT, the stages of everything
else. Prefix tokens (class, distillation, register) are kept apart from patch tokens, and a map of a
CNN is read as tokens on a grid, so that one code path serves every family.

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
    """Features at one place. ``prefix`` (B, P, D) is None where the network has no prefix tokens there."""

    tokens: Tensor  # (B, N, D), row by row of the grid
    grid: tuple[int, int]
    prefix: Tensor | None = None

    @property
    def map(self) -> Tensor:
        """The patch tokens as a picture, (B, D, H, W)."""
        size_B, _, width = self.tokens.shape
        return self.tokens.transpose(1, 2).reshape(size_B, width, *self.grid)

    @property
    def all_tokens(self) -> Tensor:
        """Prefix and patch tokens, (B, T, D)."""
        return self.tokens if self.prefix is None else torch.cat((self.prefix, self.tokens), dim=1)

    @property
    def pooled(self) -> Tensor:
        """The mean of the patch tokens, (B, D)."""
        return self.tokens.mean(dim=1)

    def map_tensors(self, change: Callable[[Tensor], Tensor]) -> Feature:
        """The same with both tensors changed."""
        return Feature(change(self.tokens), self.grid, None if self.prefix is None else change(self.prefix))


@dataclass(frozen=True, slots=True)
class Attention:
    """One run of a self-attention. ``query``, ``key`` and ``value`` are (B, T, D), unscaled, heads merged.

    In a windowed attention B counts windows. ``weights`` is (B, h, T, T), or None where it is not plain
    softmax attention.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    heads: int
    weights: Tensor | None

    @property
    def qkv(self) -> tuple[Tensor, Tensor, Tensor]:
        """As relations are made of them."""
        return self.query, self.key, self.value

    def map_tensors(self, change: Callable[[Tensor], Tensor]) -> Attention:
        """The same with every tensor changed."""
        weights = None if self.weights is None else change(self.weights)
        return Attention(change(self.query), change(self.key), change(self.value), self.heads, weights)


@dataclass(frozen=True, slots=True)
class FeatureRequest:
    """Which tensors a method asks of a network, beside its logits. Levels and attentions count from 0.

    True where it asks for anything beside them. Without ``logits`` the network is left as soon as all the
    rest is known.
    """

    levels: tuple[int, ...] = ()
    last: bool = False  # the features behind the final norm
    embedding: bool = False  # what the classifier reads
    attentions: tuple[int, ...] = ()
    logits: bool = True

    def __bool__(self) -> bool:
        return bool(self.levels or self.last or self.embedding or self.attentions)

    @property
    def levels_alone(self) -> bool:
        """Whether nothing of the network counts behind the deepest level."""
        return bool(self.levels) and not (self.last or self.embedding or self.attentions or self.logits)


@dataclass(frozen=True, slots=True)
class Outputs:
    """What one network said of a batch.

    ``logits`` (B, classes), or (B, 0) where they were not wanted and not computed. ``token_logits``: logits of
    further heads, e.g. that of a distillation token. The rest is there as far as it was wanted.
    """

    logits: Tensor
    token_logits: tuple[Tensor, ...] = ()
    levels: Mapping[int, Feature] = field(default_factory=dict)
    last: Feature | None = None
    embedding: Tensor | None = None  # (B, D)
    attentions: Mapping[int, Attention] = field(default_factory=dict)

    @classmethod
    def of(cls, answer: Tensor | tuple[Tensor, ...], **inner: Any) -> Outputs:
        """Wrap what a timm model returned: logits, or a tuple of logits with the class head's first."""
        if isinstance(answer, Tensor):
            return cls(answer, **inner)
        return cls(answer[0], tuple(answer[1:]), **inner)

    def map(self, change: Callable[[Tensor], Tensor]) -> Outputs:
        """The same with every tensor changed."""
        return Outputs(
            logits=change(self.logits),
            token_logits=tuple(change(logits) for logits in self.token_logits),
            levels={index: feature.map_tensors(change) for index, feature in self.levels.items()},
            last=None if self.last is None else self.last.map_tensors(change),
            embedding=None if self.embedding is None else change(self.embedding),
            attentions={index: attention.map_tensors(change) for index, attention in self.attentions.items()},
        )


def run_tapped(module: nn.Module, inputs_BCHW: Tensor, wanted: FeatureRequest) -> Outputs:
    """Run a network once, as far as it takes, and return its logits and whatever is wanted of it.

    Raises:
        ValueError: The network has not got what is wanted; :mod:`core.models.structure` tells beforehand.
    """
    if not wanted:
        return Outputs.of(module(inputs_BCHW))
    with (
        _embeddings(module, wanted=wanted.embedding) as embeddings,
        watch_attentions(module, wanted.attentions) as seen,
    ):
        if wanted.levels or wanted.last:
            answer, levels, last = _run_by_levels(module, inputs_BCHW, wanted)
        else:
            answer, levels, last = module(inputs_BCHW), {}, None
    if wanted.embedding and not embeddings:
        raise ValueError(f"{type(module).__name__} has no classifier whose input could be read")
    missing = [index for index in wanted.attentions if index not in seen]
    if missing:
        raise ValueError(f"{type(module).__name__} has no readable attention {missing[0]}")
    if answer is None or not wanted.logits:
        answer = inputs_BCHW.new_empty(len(inputs_BCHW), 0)
    return Outputs.of(
        answer, levels=levels, last=last, embedding=embeddings[0] if embeddings else None, attentions=seen
    )


def _run_by_levels(
    module: nn.Module, inputs: Tensor, wanted: FeatureRequest
) -> tuple[Tensor | tuple[Tensor, ...] | None, dict[int, Feature], Feature | None]:
    forward: Any = getattr(module, "forward_intermediates", None)
    if forward is None:
        raise ValueError(f"{type(module).__name__} does not give its features by level")
    indices = sorted(set(wanted.levels))
    options: dict[str, Any] = {"output_fmt": "NCHW"}
    prefixes = getattr(module, "num_prefix_tokens", None) != 0  # without any, some of timm's fail if asked for them
    if prefixes and "return_prefix_tokens" in inspect.signature(forward).parameters:
        options["return_prefix_tokens"] = True
    if wanted.levels_alone:
        return None, _levels(indices, forward(inputs, indices=indices, **options, **_leaving_early(forward))), None
    # A level has to be asked for, also where only the last features are wanted.
    final, found = forward(inputs, indices=indices or [0], **options)
    levels = _levels(indices, found)
    last = None
    if wanted.last:
        grid = tuple(_map_of(found[-1]).shape[-2:]) if final.ndim == 3 else None
        last = _last(module, final, grid)
    if not (wanted.logits or wanted.embedding):
        return None, levels, last
    return module.forward_head(final), levels, last  # type: ignore[operator]


def _leaving_early(forward: Any) -> dict[str, Any]:
    """The options with which timm gives levels alone, and runs nothing behind the deepest one where it can."""
    early = {"stop_early": True} if "stop_early" in inspect.signature(forward).parameters else {}
    return {"intermediates_only": True, **early}


def _levels(indices: list[int], found: Sequence[Any]) -> dict[int, Feature]:
    return {index: _feature(item) for index, item in zip(indices, found, strict=True)} if indices else {}


def _map_of(item: Any) -> Tensor:
    found: Tensor = item[0] if isinstance(item, tuple | list) else item
    return found


def _feature(item: Any) -> Feature:
    """From timm's (B, D, H, W), with or without a tensor of prefix tokens beside it."""
    prefix = item[1] if isinstance(item, tuple | list) and item[1].shape[1] else None
    picture = _map_of(item)
    return Feature(picture.flatten(2).transpose(1, 2), (picture.shape[2], picture.shape[3]), prefix)


def _last(module: nn.Module, final: Tensor, grid: tuple[int, ...] | None) -> Feature:
    """The features behind the final norm: (B, T, D), (B, D, H, W), or (B, H, W, D) in the Swins."""
    if final.ndim == 4:
        width = getattr(module, "num_features", final.shape[1])
        if final.shape[1] != width and final.shape[3] == width:
            final = final.permute(0, 3, 1, 2)
        return _feature(final)
    prefixes = int(getattr(module, "num_prefix_tokens", 0) or 0)
    tokens = final[:, prefixes:]
    if grid is None or grid[0] * grid[1] != tokens.shape[1]:
        side = round(tokens.shape[1] ** 0.5)
        grid = (side, tokens.shape[1] // side)
    return Feature(tokens, (grid[0], grid[1]), final[:, :prefixes] if prefixes else None)


# --- hooks --------------------------------------------------------------------------------------


@contextmanager
def _embeddings(module: nn.Module, *, wanted: bool) -> Iterator[list[Tensor]]:
    """The inputs of the classifier, the class head's first."""
    found: list[Tensor] = []
    if not wanted:
        yield found
        return
    classifier: Any = module.get_classifier()  # type: ignore[operator]
    heads = classifier if isinstance(classifier, tuple | list | nn.ModuleList) else [classifier]

    def see(_head: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(inputs[0].flatten(1))

    hooks = [head.register_forward_pre_hook(see) for head in heads if isinstance(head, nn.Module)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def watch_attentions(module: nn.Module, wanted: Container[int]) -> Iterator[dict[int, Attention]]:
    """See the wanted runs of self-attentions that project q, k and v by one layer, counted as they run."""
    found: dict[int, Attention] = {}
    if wanted == ():
        yield found
        return
    runs = 0

    def watch(attention: nn.Module) -> Any:
        def see(_layer: nn.Module, _inputs: Any, qkv: Tensor) -> None:
            nonlocal runs
            if runs in wanted:
                found[runs] = _attention(attention, qkv)
            runs += 1

        return attention.qkv.register_forward_hook(see)  # type: ignore[union-attr]

    hooks = [watch(part) for part in module.modules() if _projects_at_once(part)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _projects_at_once(part: nn.Module) -> bool:
    return isinstance(getattr(part, "qkv", None), nn.Linear) and isinstance(getattr(part, "num_heads", None), int)


def _attention(module: Any, qkv: Tensor) -> Attention:
    merged = qkv.flatten(1, -2) if qkv.ndim > 3 else qkv  # windows keep their tokens in rows and columns
    width = int(getattr(module, "attn_dim", qkv.shape[-1] // 3))  # values can be narrower than queries and keys
    query, key, value = merged.tensor_split((width, 2 * width), dim=-1)
    return Attention(query, key, value, int(module.num_heads), _weights(module, query, key))


def _weights(module: Any, query: Tensor, key: Tensor) -> Tensor | None:
    """softmax(q kᵀ · scale) of timm's plain ``Attention``, in float32.

    None for every other class, as what it adds (rotations of positions, biases, mixed heads) is not seen here.
    """
    if type(module) not in _PLAIN:
        return None
    heads = module.num_heads
    shape = (*query.shape[:-1], heads, -1)
    q_BhTd = module.q_norm(query.view(shape).transpose(1, 2)).float()
    k_BhTd = module.k_norm(key.view(shape).transpose(1, 2)).float()
    return torch.softmax(q_BhTd @ k_BhTd.transpose(-2, -1) * module.scale, dim=-1)

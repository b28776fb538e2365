"""The catalogue of architectures: timm's registry, told by family and searched by name."""

from __future__ import annotations

import difflib
import re
import time
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import timm
from timm.models import (
    get_arch_pretrained_cfgs,
    get_deprecated_models,
    get_pretrained_cfg,
    list_models,
    model_entrypoint,
)

from core.errors import InvalidSpec
from core.models.meta_device import parameters_on_meta
from core.spec.info import InputInfo
from core.spec.methods import Family
from core.spec.parse import did_you_mean

# timm's modules by what their models are made of. What is not named here is a convolutional network.
_TRANSFORMERS = frozenset(
    """beit cait crossvit davit deepseek_vit deit eva flexible_swin flexible_vit gcvit gemma4_vit hiera hieradet_sam2
    mvitv2 naflexvit nest pit pvt_v2 qwen3_vit swin_transformer swin_transformer_v2 swin_transformer_v2_cr tnt twins
    vision_transformer vision_transformer_relpos vision_transformer_sam volo xcit""".split()  # noqa: SIM905 - one word a line would be a page
)
_HYBRIDS = frozenset(
    """byoanet coat convit csatv2 edgenext efficientformer efficientformer_v2 efficientvim efficientvit_mit
    efficientvit_msra fastvit focalnet iformer levit lowformer maxxvit metaformer mobilenetv5 mobilevit nextvit
    sequencer shvit swiftformer tiny_vit visformer vision_transformer_hybrid vitamin""".split()  # noqa: SIM905
)
_MLPS = frozenset({"mlp_mixer"})
_SWINS = frozenset({"swin_transformer", "flexible_swin"})  # of the first version: the second attends by cosines
_NEAR = 0.7  # least similarity of a name that is offered instead of an unknown one
_COUNTING_SECONDS = 2.0
_HYBRID_NAME = re.compile(r"_hybrid|^mobilenetv4_hybrid")


@dataclass(frozen=True, slots=True)
class ArchitectureInfo:
    """One architecture, in its ImageNet form. ``input_size`` is (channels, height, width)."""

    name: str
    family: Family
    input_size: tuple[int, int, int]
    fixed_input_size: bool
    parameters: int | None
    pretrained: bool
    pretrained_tags: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As the API answers it."""
        return {**asdict(self), "input_size": list(self.input_size), "pretrained_tags": list(self.pretrained_tags)}


@cache
def names() -> tuple[str, ...]:
    """Every architecture's name, without pretrained tags, in natural order."""
    return tuple(list_models(include_tags=False))


def family(name: str) -> Family:
    """What an architecture is made of. ``name`` may carry a pretrained tag and has to exist."""
    module = _module(name)
    if module in _HYBRIDS or _HYBRID_NAME.search(name):
        return "hybrid"
    if module in _TRANSFORMERS:
        return "transformer"
    return "mlp" if module in _MLPS else "cnn"


def is_swin(name: str) -> bool:
    """Whether an architecture is a Swin of the first version. ``name`` has to exist."""
    return _module(name) in _SWINS


def require(name: str, *, pointer: str = "/architecture") -> str:
    """Return ``name`` if timm has it (a known pretrained tag may follow a dot), without the tag.

    Raises:
        InvalidSpec: There is no such architecture, or no such tag; the nearest names are given.
    """
    architecture, _, tag = name.partition(".")
    if architecture not in _known():
        renamed = get_deprecated_models().get(architecture)
        near = nearest_names(architecture)
        hint = f" It is called {renamed} now." if renamed else f" Did you mean {' or '.join(near)}?" if near else ""
        raise InvalidSpec.for_field(
            pointer, f"there is no architecture {name[:80]!r}.{hint} GET /v1/architectures lists them."
        )
    tags = pretrained_tags(architecture)
    if tag and tag not in tags:
        known = f"Known: {', '.join(tags)}." if tags else "It has none."
        raise InvalidSpec.for_field(
            pointer, f"{architecture} has no pretrained tag {tag[:80]!r}.{did_you_mean(tag, tags)} {known}"
        )
    return architecture


def takes_image_size(architecture: str) -> bool:
    """Whether the constructor fixes the input size by ``img_size``. CNNs take any size without being told."""
    cfg = get_pretrained_cfg(architecture)
    return cfg is not None and bool(cfg.fixed_input_size)


def native_image_size(architecture: str) -> int:
    """Pixels a side that the architecture was made for; a tag may follow the name."""
    return info(architecture).input_size[-1]


def published(name: str) -> InputInfo:
    """Classes, channels and image size of the pretrained weights of ``name``, which has to have some."""
    cfg = get_pretrained_cfg(name)
    return InputInfo(num_classes=cfg.num_classes, channels=cfg.input_size[0], image_size=cfg.input_size[-1])


@cache
def pretrained_tags(architecture: str) -> tuple[str, ...]:
    """Tags of the weights that timm knows of for an architecture, the default one first."""
    cfgs = get_arch_pretrained_cfgs(architecture)
    return tuple(name.partition(".")[2] for name, cfg in cfgs.items() if cfg.has_weights)


def has_pretrained(name: str) -> bool:
    """Whether timm knows of pretrained weights for this name (with or without a tag)."""
    return bool(timm.is_model_pretrained(name))


def info(name: str, *, count_parameters: bool = False) -> ArchitectureInfo:
    """What the catalogue says of one architecture; parameters only if asked, as that builds it (10 to 70 ms)."""
    cfg = get_pretrained_cfg(name)
    channels, height, width = cfg.input_size if cfg is not None else (3, 224, 224)
    architecture = name.partition(".")[0]
    tags = pretrained_tags(architecture)
    return ArchitectureInfo(
        name=name,
        family=family(name),
        input_size=(int(channels), int(height), int(width)),
        fixed_input_size=bool(cfg is not None and cfg.fixed_input_size),
        parameters=_parameters(architecture) if count_parameters else None,
        pretrained=has_pretrained(name),
        pretrained_tags=tags,
    )


def search(text: str = "", limit: int = 20) -> list[ArchitectureInfo]:
    """Architectures whose name has every word of ``text``, the best match first, with their parameters.

    Names that begin with the text come before names that contain it; with no match the nearest names
    are given, so that a typing error still finds something. Counting parameters stops after a while:
    what was not reached has None, and is counted the next time.
    """
    words = text.lower().replace("*", " ").split()
    found = [name for name in names() if all(word in name for word in words)]
    if not found:
        found = nearest_names(text, count=limit)
    elif words:
        found.sort(key=lambda name: (name != words[0], not name.startswith(words[0])))
    deadline = time.monotonic() + _COUNTING_SECONDS
    return [info(name, count_parameters=time.monotonic() < deadline) for name in found[:limit]]


def architectures() -> list[ArchitectureInfo]:
    """The whole catalogue, without parameter counts."""
    return [info(name) for name in names()]


def _module(name: str) -> str:
    """The last name of the module that an architecture comes from."""
    module: str = model_entrypoint(name).__module__
    return module.rsplit(".", 1)[-1]


@cache
def _known() -> frozenset[str]:
    return frozenset(names())


@cache
def _parameters(architecture: str) -> int | None:
    return parameters_on_meta(architecture)


def nearest_names(word: str, count: int = 3) -> list[str]:
    """The architectures that were probably meant.

    Names are compared by their beginnings, as people leave out what follows: ``vit_tyni`` is near to
    ``vit_tiny_patch16_224``.
    """
    word = word.lower()[:80]
    if not word:
        return []
    matcher = difflib.SequenceMatcher(b=word, autojunk=False)
    scored = []
    for name in names():
        matcher.set_seq1(name[: len(word)])
        if matcher.quick_ratio() >= _NEAR and (score := matcher.ratio()) >= _NEAR:
            scored.append((name[0] != word[0], -score, len(name), name))  # few people mistype the first letter
    return [name for *_, name in sorted(scored)[:count]]

"""The catalog of architectures: timm's registry with model families and search by name."""

from __future__ import annotations

import difflib
import re
import time
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from typing import Any

from timm.models import (
    PretrainedCfg,
    get_arch_pretrained_cfgs,
    get_deprecated_models,
    get_pretrained_cfg,
    list_models,
    model_entrypoint,
)

from core.errors import InvalidSpec
from core.models.architecture_costs import ArchitectureCost, counted_costs
from core.models.meta_device import parameters_on_meta
from core.spec.info import InputInfo
from core.spec.methods import Family
from core.spec.parse import did_you_mean

# timm's modules by model family. All others are convolutional networks.
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
_RESAMPLED = frozenset({"eva", "vision_transformer"})
_SWINS = frozenset({"swin_transformer", "flexible_swin"})  # of the first version; Swin V2 uses cosine attention
_MIN_SIMILARITY = 0.7  # of a name that is suggested instead of an unknown one
_COUNTING_SECONDS = 2.0
_MAX_TAGS = 3  # that an error quotes
SAFETENSORS_NAME = "model.safetensors"
_HYBRID_NAME = re.compile(r"_hybrid|^mobilenetv4_hybrid")


@dataclass(frozen=True, slots=True)
class ArchitectureInfo:
    """One architecture with its default arguments.

    ``input_size`` is (channels, height, width), and ``flops`` are those of one such image.
    ``license`` is that of the default pretrained weights, ``licenses`` has one entry for each pretrained tag.
    """

    name: str
    family: Family
    input_size: tuple[int, int, int]
    fixed_input_size: bool
    parameters: int | None
    flops: int | None
    pretrained: bool
    pretrained_tags: tuple[str, ...]
    license: str | None
    licenses: dict[str, str | None]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form of the API."""
        return {**asdict(self), "input_size": list(self.input_size), "pretrained_tags": list(self.pretrained_tags)}


@cache
def architecture_names() -> tuple[str, ...]:
    """Names of all architectures, without pretrained tags, in natural order."""
    return tuple(list_models(include_tags=False))


def family(name: str) -> Family:
    """Family of an existing architecture; ``name`` may have a pretrained tag."""
    module = _module(name)
    if module in _HYBRIDS or _HYBRID_NAME.search(name):
        return "hybrid"
    if module in _TRANSFORMERS:
        return "transformer"
    return "mlp" if module in _MLPS else "cnn"


def is_swin(name: str) -> bool:
    """Whether an existing architecture is a Swin of the first version."""
    return _module(name) in _SWINS


def canonical_name(name: str, *, pointer: str = "/architecture") -> str:
    """Return timm's name of an architecture, with the pretrained tag if ``name`` has one.

    A name that timm has renamed gives the new name, often with a tag: ``vit_tiny_patch16_224_in21k`` gives
    ``vit_tiny_patch16_224.augreg_in21k``.

    Raises:
        InvalidSpec: There is no such architecture or tag; the detail suggests similar names.
    """
    name = _renamed(name)
    architecture, _, tag = name.partition(".")
    if architecture not in _name_set():
        near = nearest_names(architecture)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise InvalidSpec.for_field(
            pointer, f"there is no architecture {name[:80]!r}.{hint} GET /v1/architectures lists them."
        )
    tags = _all_tags(architecture)
    if tag and tag not in tags:
        known = f"Known: {', '.join(tags)}." if tags else "It has none."
        raise InvalidSpec.for_field(
            pointer, f"{architecture} has no pretrained tag {tag[:80]!r}.{did_you_mean(tag, tags)} {known}"
        )
    return name


def require(name: str, *, pointer: str = "/architecture") -> str:
    """Return timm's name of an architecture without its pretrained tag. Raises InvalidSpec for an unknown name."""
    return canonical_name(name, pointer=pointer).partition(".")[0]


def takes_image_size(architecture: str) -> bool:
    """Whether the constructor fixes the input size by ``img_size``; CNNs accept any size."""
    cfg = get_pretrained_cfg(architecture)
    return cfg is not None and bool(cfg.fixed_input_size)


def resamples_positions(architecture: str) -> bool:
    """Whether timm loads weights of an existing architecture at any image size, by resampling its positions."""
    return takes_image_size(architecture) and _module(architecture) in _RESAMPLED


def native_image_size(architecture: str) -> int:
    """Default input size in pixels a side; ``architecture`` may have a pretrained tag."""
    return info(architecture).input_size[-1]


def pretrained_info(name: str) -> InputInfo:
    """Classes, channels and image size of the pretrained weights of ``name``, which must have some."""
    cfg = get_pretrained_cfg(name)
    return InputInfo(num_classes=cfg.num_classes, channels=cfg.input_size[0], image_size=cfg.input_size[-1])


@cache
def pretrained_tags(architecture: str) -> tuple[str, ...]:
    """Tags of the pretrained weights that can be loaded, the default one first."""
    cfgs = get_arch_pretrained_cfgs(architecture)
    return tuple(name.partition(".")[2] for name, cfg in cfgs.items() if _is_loadable(cfg))


def has_pretrained(name: str) -> bool:
    """Whether pretrained weights of this name, with or without a tag, can be loaded."""
    cfg = get_pretrained_cfg(name)
    return cfg is not None and _is_loadable(cfg)


def no_weights_reason(name: str) -> str:
    """Explain why ``has_pretrained`` is false, and name the fix."""
    cfg = get_pretrained_cfg(name)
    architecture = name.partition(".")[0]
    tags = pretrained_tags(architecture)
    if tags:
        fix = f"use {' or '.join(f'{architecture}.{known}' for known in tags[:_MAX_TAGS])}"
    else:
        fix = "use weights random, weights train (teachers), or an uploaded model"
    if cfg is None or not cfg.has_weights:
        return f"there are no pretrained weights for {name}; {fix}"
    return (
        f"the pretrained weights of {name} exist only as a pickle ({cfg.url}), which is never opened; convert them to "
        f"safetensors and upload them with POST /v1/models, or {fix}"
    )


def license(name: str) -> str | None:  # noqa: A001 - timm's name of the field
    """License of the pretrained weights of ``name``, as a lower-case identifier such as ``cc-by-nc-4.0``.

    Without a tag, it is the license of the default weights. None if timm states none, or has no weights.
    """
    cfg = get_pretrained_cfg(_renamed(name))
    if cfg is None or not cfg.has_weights or cfg.license in {None, "unknown"}:
        return None
    return str(cfg.license).lower()


def info(name: str, *, count_parameters: bool = False) -> ArchitectureInfo:
    """Return the catalog's entry of one architecture.

    ``count_parameters`` builds one that :func:`counted_costs` does not have, which takes 10 to 70 ms.
    """
    cfg = get_pretrained_cfg(name)
    channels, height, width = cfg.input_size if cfg is not None else (3, 224, 224)
    architecture = name.partition(".")[0]
    tags = pretrained_tags(architecture)
    cost = counted_costs().get(architecture)
    if cost is None:
        cost = ArchitectureCost(_parameters(architecture) if count_parameters else None, None)
    return ArchitectureInfo(
        name=name,
        family=family(name),
        input_size=(int(channels), int(height), int(width)),
        fixed_input_size=bool(cfg is not None and cfg.fixed_input_size),
        parameters=cost.parameters,
        flops=cost.flops,
        pretrained=has_pretrained(name),
        pretrained_tags=tags,
        license=license(name) if has_pretrained(name) else None,
        licenses={tag: license(f"{architecture}.{tag}") for tag in tags},
    )


def search(text: str = "", limit: int = 20) -> list[ArchitectureInfo]:
    """Return architectures whose name has every word of ``text``, best match first, with their parameters.

    Names that start with the text come before names that contain it. Without a match, similar names are returned.
    Architectures of a timm that is newer than the counted costs are built, for two seconds at most; the remaining
    entries have None and are counted by a later search.
    """
    words = text.lower().replace("*", " ").split()
    matches = [name for name in architecture_names() if all(word in name for word in words)]
    if not matches:
        matches = nearest_names(text, count=limit)
    elif words:
        start = "_".join(words)
        matches.sort(key=lambda name: (name != start, not name.startswith(start), not name.startswith(words[0])))
    deadline = time.monotonic() + _COUNTING_SECONDS
    return [info(name, count_parameters=time.monotonic() < deadline) for name in matches[:limit]]


def architectures() -> list[ArchitectureInfo]:
    """Return the complete catalog, without parameter counts."""
    return [info(name) for name in architecture_names()]


def _module(name: str) -> str:
    """Return the last name of the module that defines an architecture."""
    module: str = model_entrypoint(name).__module__
    return module.rsplit(".", 1)[-1]


@lru_cache(maxsize=4096)  # timm copies its table at each call
def _renamed(name: str) -> str:
    """Return timm's new name of a renamed architecture, and other names as they are."""
    new_name = get_deprecated_models().get(name)
    if new_name is None:
        return name
    architecture, _, tag = new_name.partition(".")
    # timm's table shortens two tags: `sam` is `sam_in1k`.
    tags = [known for known in _all_tags(architecture) if known.startswith(tag)] if tag else []
    return f"{architecture}.{tags[0]}" if tag not in tags and len(tags) == 1 else new_name


def _is_loadable(cfg: PretrainedCfg) -> bool:
    """Whether the Hub has the weights as safetensors; a file behind another URL is a pickle or a NumPy archive."""
    filename = cfg.hf_hub_filename or SAFETENSORS_NAME
    return bool(cfg.hf_hub_id) and (filename.endswith((".safetensors", ".bin")))


@cache
def _all_tags(architecture: str) -> tuple[str, ...]:
    """Tags of all pretrained weights, loadable or not, the default one first."""
    return tuple(
        name.partition(".")[2] for name, cfg in get_arch_pretrained_cfgs(architecture).items() if cfg.has_weights
    )


@cache
def _name_set() -> frozenset[str]:
    return frozenset(architecture_names())


@cache
def _parameters(architecture: str) -> int | None:
    return parameters_on_meta(architecture)


def nearest_names(word: str, count: int = 3) -> list[str]:
    """Return the architectures whose names resemble ``word``.

    Only the beginnings of names are compared, as users often omit the rest: ``vit_tyni`` resembles
    ``vit_tiny_patch16_224``.
    """
    word = word.lower()[:80]
    if not word:
        return []
    matcher = difflib.SequenceMatcher(b=word, autojunk=False)
    scored = []
    for name in architecture_names():
        matcher.set_seq1(name[: len(word)])
        if matcher.quick_ratio() >= _MIN_SIMILARITY and (score := matcher.ratio()) >= _MIN_SIMILARITY:
            scored.append((name[0] != word[0], -score, len(name), name))  # a typing error in the first letter is rare
    return [name for *_, name in sorted(scored)[:count]]

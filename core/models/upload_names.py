"""Match the tensor names of an uploaded file to those of its model.

Training wrappers prepend names: ``module.`` (DataParallel), ``_orig_mod.`` (torch.compile), ``model.`` or ``backbone.``
(a user's own module), ``student.`` (a distillation). They are removed where the rest then fits the model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from core.job_warnings import JobWarning

# Added by PyTorch at any place of a name.
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
# Buffers that follow from the architecture or count steps; inference does not need them.
_DERIVED = frozenset(
    {"n_averaged", "num_batches_tracked", "relative_position_index", "relative_coords_table", "attn_mask"}
)
_MAX_PREFIX_PARTS = 4
_NUM_SHOWN = 3
_OTHER_LIBRARIES = (
    (re.compile(r"(^|\.)(embeddings\.patch_embeddings|encoder\.layer\.\d+\.attention)\."), "Hugging Face transformers"),
    (re.compile(r"(^|\.)(conv_proj\.|encoder\.layers\.encoder_layer_\d)"), "torchvision"),
    (re.compile(r"(^|\.)transformer\.resblocks\.\d"), "CLIP"),
)


@dataclass(frozen=True, slots=True)
class NameMatch:
    """Names of a model by the names of a file, and the tensors of the file that the model has not.

    ``prefixes`` were removed from names; ``dropped`` are derived buffers; ``rivals`` are prefixes under which another
    complete model lies.
    """

    names: dict[str, str]
    outside: tuple[str, ...]
    dropped: tuple[str, ...]
    prefixes: tuple[str, ...]
    rivals: tuple[str, ...] = ()

    def warnings(self) -> list[JobWarning]:
        """Return what was changed to make the names fit."""
        warnings = []
        if self.prefixes:
            removed = " and ".join(f"`{prefix}`" for prefix in self.prefixes)
            message = f"{removed} was removed from the names of {len(self.names)} tensors, which then fit the model"
            warnings.append(JobWarning(code="names_changed", field="/file", message=message))
        if self.dropped:
            message = (
                f"{len(self.dropped)} tensors without influence on the outputs are ignored: {summary(self.dropped)}"
            )
            warnings.append(JobWarning(code="tensors_ignored", field="/file", message=message))
        return warnings


def match_names(names: Iterable[str], own: Collection[str]) -> NameMatch:
    """Match the names of a file to the names ``own`` of a model, as many as possible with as few changes."""
    own = frozenset(own)
    plain = _without_wrappers(list(names), own)
    counts = _prefix_counts(plain.values(), own)
    prefix = min(counts, key=lambda known: (-counts[known], len(known), known))
    matched = {name: short.removeprefix(prefix) for name, short in plain.items() if short.startswith(prefix)}
    taken = set(matched.values())
    for parent in _ancestors(prefix)[1:]:  # a wrapper may hold the backbone under one name, and the head next to it
        for name, short in plain.items():
            rest = short.removeprefix(parent)
            if name not in matched and short.startswith(parent) and rest in own and rest not in taken:
                matched[name] = rest
                taken.add(rest)
    others = [name for name in plain if name not in matched]
    rivals = tuple(p for p in counts if p not in _ancestors(prefix) and counts[p] == counts[prefix] > 0)
    dropped = [n for n, rest in {**matched, **{o: o for o in others}}.items() if _is_derived(rest) and rest not in own]
    used = {name: rest for name, rest in matched.items() if name not in dropped}
    outside = tuple(name for name in others if name not in dropped)
    removed = tuple(dict.fromkeys(part for name, rest in used.items() if (part := _removed_part(name, rest))))
    return NameMatch(used, outside, tuple(dropped), removed[:_NUM_SHOWN], rivals)


def can_be_missing(name: str) -> bool:
    """Whether a model runs without this buffer of a file: it counts steps."""
    return name.rpartition(".")[2] == "num_batches_tracked"


def summary(names: Sequence[str]) -> str:
    """Describe many tensor names in few words: ``blocks.6 to blocks.11 (72 tensors), head``."""
    groups: dict[tuple[str, str], list[str]] = {}
    sizes: Counter[tuple[str, str]] = Counter()
    for name in names:
        key = _group(name)
        members = groups.setdefault(key, [])
        sizes[key] += 1
        member = key[0] + re.split(r"\.", name.removeprefix(key[0]), maxsplit=1)[0] if key[1] else name
        if member not in members:
            members.append(member)
    texts = []
    for key, members in list(groups.items())[:_NUM_SHOWN]:
        label = members[0] if len(members) == 1 else f"{members[0]} to {members[-1]}"
        texts.append(label if sizes[key] == 1 else f"{label} ({sizes[key]} tensors)")
    rest = sum(sizes[key] for key in list(groups)[_NUM_SHOWN:])
    return ", ".join(texts) + (f" and {rest} more" if rest else "")


def foreign_library(names: Iterable[str]) -> str | None:
    """Return the library whose names these are, if it is a known one other than timm."""
    listed = list(names)
    for pattern, library in _OTHER_LIBRARIES:
        if any(pattern.search(name) for name in listed):
            return library
    return None


def _group(name: str) -> tuple[str, str]:
    """Return the part before the first number, and ``#``; or the name's module without a number."""
    numbered = re.match(r"(.*?\.)\d+\.", name)
    return (numbered[1], "#") if numbered else (name, "")


def _without_wrappers(names: list[str], own: frozenset[str]) -> dict[str, str]:
    """Return each name without the wrappers of PyTorch that the model itself has not."""
    own_parts = {part for name in own for part in name.split(".")}
    wrappers = _WRAPPERS - own_parts
    plain = {name: ".".join(part for part in name.split(".") if part not in wrappers) for name in names}
    return plain if len(set(plain.values())) == len(names) else {name: name for name in names}


def _prefix_counts(names: Collection[str], own: frozenset[str]) -> Counter[str]:
    """Count the names that fit the model after each prefix was removed; the empty prefix is always counted."""
    counts: Counter[str] = Counter({"": 0})
    for name in names:
        parts = name.split(".")
        for length in range(min(_MAX_PREFIX_PARTS, len(parts) - 1) + 1):
            if ".".join(parts[length:]) in own:
                counts["".join(f"{part}." for part in parts[:length])] += 1
    return counts


def _ancestors(prefix: str) -> list[str]:
    """Return the prefix and its beginnings, the longest first: ``a.b.`` gives ``a.b.``, ``a.`` and the empty one."""
    parts = prefix.split(".")[:-1]
    return ["".join(f"{part}." for part in parts[:length]) for length in range(len(parts), -1, -1)]


def _is_derived(name: str) -> bool:
    return name.rpartition(".")[2] in _DERIVED


def _removed_part(name: str, rest: str) -> str:
    if name.endswith(f".{rest}"):
        return name[: -len(rest)]
    kept = rest.split(".")
    removed = [part for part in name.split(".") if part in _WRAPPERS and part not in kept]
    return "".join(f"{part}." for part in dict.fromkeys(removed))

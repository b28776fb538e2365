"""The folders of a dataset's images, without the levels that carry no information."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from core.ingest.split_names import SplitName, split_name

Folders = tuple[str, ...]  # names of the folders of an image, outermost first

_TRAIN_NAMES = frozenset({"train", "training"})


@dataclass(slots=True)
class TopFolder:
    """An outermost folder with its images.

    Attributes:
        name: Its name.
        split: The split in its name, if it contains one.
        sources: Its images.
        children: Number of images by sub-folder.
    """

    name: str
    split: SplitName | None
    sources: list[str] = field(default_factory=list)
    children: Counter[str] = field(default_factory=Counter)

    @property
    def is_flat(self) -> bool:
        """Whether no image is in a sub-folder."""
        return not self.children

    @property
    def num_direct(self) -> int:
        """Number of images that are in no sub-folder."""
        return len(self.sources) - self.children.total()

    @property
    def child_keys(self) -> set[str]:
        """Keys of the names of its sub-folders."""
        return {name_key(name) for name in self.children}


def name_key(name: str) -> str:
    """Return the key under which names are equal that differ in case, or in spaces, hyphens and underscores."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


@dataclass(frozen=True, slots=True)
class FolderTree:
    """The folders and the short path of each image.

    Attributes:
        folders: Doubled folders (``cat/cat``) once, without the outermost ones that hold all images in folders. A
            folder named ``train`` is not dropped, unless it contains other splits.
        paths: The path without the folders that all images share.
    """

    folders: dict[str, Folders]
    paths: dict[str, str]


def folder_tree(sources: Iterable[str]) -> FolderTree:
    """Return the folders and the short path of each image; ``sources`` are clean paths."""
    raw = {source: tuple(source.split("/")[:-1]) for source in sources}
    collapsed = _collapse(raw.values())
    folders = {source: collapsed[parts] for source, parts in raw.items()}
    distinct = set(folders.values())
    num_shared, num_dropped = _num_shared(distinct), _num_shared(distinct - {()})
    paths = {source: "/".join((*parts[num_shared:], source.rpartition("/")[2])) for source, parts in folders.items()}
    return FolderTree({source: parts[num_dropped:] for source, parts in folders.items()}, paths)


def group_by_top(folders: Mapping[str, Folders]) -> tuple[dict[str, TopFolder], list[str]]:
    """Return the outermost folders by name, and the images outside of all folders."""
    tops: dict[str, TopFolder] = {}
    strays: list[str] = []
    for source, parts in folders.items():
        if not parts:
            strays.append(source)
            continue
        if (top := tops.get(parts[0])) is None:
            top = tops[parts[0]] = TopFolder(parts[0], split_name(parts[0]))
        top.sources.append(source)
        if len(parts) > 1:
            top.children[parts[1]] += 1
    return dict(sorted(tops.items())), strays


def drop_wrappers(folders: Mapping[str, Folders]) -> dict[str, Folders]:
    """Drop the outermost folders that all images share, while every image has another folder below."""
    dropped = dict(folders)
    while dropped and min(map(len, dropped.values())) > 1 and len({parts[0] for parts in dropped.values()}) == 1:
        dropped = {source: parts[1:] for source, parts in dropped.items()}
    return dropped


def _collapse(folders: Iterable[Folders]) -> dict[Folders, Folders]:
    """Map each folder to its path without the folders that only repeat their parent: one child of the same name."""
    distinct = set(folders)
    doubled = {parts[:depth] for parts in distinct for depth in _repeated(parts)} - distinct
    children: defaultdict[Folders, set[str]] = defaultdict(set)
    for parts in distinct if doubled else ():
        for depth in range(1, len(parts)):
            if parts[:depth] in doubled:
                children[parts[:depth]].add(parts[depth])

    def collapse(parts: Folders) -> Folders:
        dropped = {depth for depth in _repeated(parts) if len(children.get(parts[:depth], ())) == 1}
        return tuple(name for depth, name in enumerate(parts) if depth not in dropped) if dropped else parts

    return {parts: collapse(parts) for parts in distinct}


def _repeated(parts: Folders) -> list[int]:
    """Indexes of the names that equal their parent's."""
    return [depth for depth in range(1, len(parts)) if parts[depth - 1].casefold() == parts[depth].casefold()]


def _num_shared(folders: set[Folders]) -> int:
    """Number of outermost folders to drop."""
    if not folders:
        return 0
    first, last = min(folders), max(folders)  # sorted lists share the prefix of their first and last entry
    count = 0
    while count < min(len(first), len(last)) and first[count] == last[count]:
        below = {parts[count + 1] for parts in folders if len(parts) > count + 1}
        holds_splits = len(below) > 1 and all(split_name(name) is not None for name in below)
        if first[count].casefold() in _TRAIN_NAMES and not holds_splits:
            break
        count += 1
    return count

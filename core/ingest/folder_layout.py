"""From the paths of a dataset's images to classes and splits."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from core.data.stored import UNLABELLED, SplitName
from core.ingest.limits import Rejected
from core.ingest.source_files import Labels, Row
from core.ingest_errors import TooFewImages

_TRAIN_NAMES = frozenset({"train", "training"})
_TEST_NAMES = ("test", "testing", "val", "valid", "validation")  # the first that has images is the test split
_LAYOUTS = (
    "expected is train/CLASS/image with test/ or val/ beside it, CLASS/image, or a folder of images without classes; "
    "labels: none takes any folders for a dataset without classes"
)


@dataclass(frozen=True, slots=True)
class Placed:
    """An image with its place in the dataset. ``path`` is as found, without folders that all have in common."""

    source: str
    path: str
    label: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Classes (None: unlabelled), the samples of each split ordered by path, and what fits nowhere."""

    classes: tuple[str, ...] | None
    splits: Mapping[SplitName, Sequence[Placed]]
    rejected: Sequence[Rejected]


@dataclass(slots=True)
class _Tree:
    """Images by split and class; class None is for images that lie beside the class folders."""

    train: dict[str | None, list[str]] = field(default_factory=lambda: defaultdict(list))
    test: dict[str | None, list[str]] = field(default_factory=lambda: defaultdict(list))
    rejected: list[Rejected] = field(default_factory=list)


def arrange(
    sources: Iterable[str], *, seed: int, labels: Labels = "auto", rows: Mapping[str, Row] | None = None
) -> Layout:
    """Find classes and splits.

    * Folders that all images have in common are dropped, ``train`` aside.
    * With ``train/``: its folders are the classes; ``test/`` (else ``val/`` and the like) is the test split.
    * Without: the top folders are the classes. Without folders: unlabelled.
    * With ``labels`` none: unlabelled, whatever the folders; ``train/`` and ``test/`` are still the splits.
    * With ``rows`` (of tables, by path): they say labels and splits; images beside the tables are left out.
    * Where there is no test split, a fifth of each class is set apart: the images whose digest of seed
      and path is smallest. So the choice depends on neither the packing nor the other images.

    Deeper folders belong to their class. Raises :class:`TooFewImages` where no two classes or no
    test split come out.
    """
    ordered = sorted(sources)
    dropped = _common_folders(ordered)
    paths = {source: source[dropped:] for source in ordered}
    if rows:
        tree = _of_rows(ordered, rows)
        classes = _classes(tree, order=_row_order(tree, rows.values()))
    else:
        tree = _with_splits(paths, labels) or _without_splits(paths, labels)
        classes = _classes(tree)
    homeless = "the row has no label" if rows else "the image is not in the folder of a class"
    train = _placed(tree.train, paths, classes, tree.rejected, homeless)
    test = _placed(tree.test, paths, classes, tree.rejected, homeless)
    if not test:
        train, test = _set_apart(train, seed)
    if not train or not test:
        raise TooFewImages("there are too few images for a training and a test split; send at least two of a class")
    splits: dict[SplitName, list[Placed]] = {"train": train, "test": test}
    return Layout(classes, splits, tree.rejected)


def _common_folders(ordered: Sequence[str]) -> int:
    """How many leading characters are folders that all paths have in common."""
    if not ordered:
        return 0
    length = 0
    first, last = ordered[0], ordered[-1]  # of a sorted list: what these two share, all share
    while (slash := first.find("/", length)) >= 0:
        if last[: slash + 1] != first[: slash + 1] or first[length:slash].casefold() in _TRAIN_NAMES:
            break
        length = slash + 1
    return length


def _with_splits(paths: Mapping[str, str], labels: Labels) -> _Tree | None:
    """The tree of a dataset with a ``train`` folder, or None where ``train`` is absent or just a class."""
    tops: dict[str, list[str]] = defaultdict(list)
    for source, path in paths.items():
        tops[path.partition("/")[0] if "/" in path else ""].append(source)
    train = next((top for top in sorted(tops) if top.casefold() in _TRAIN_NAMES), None)
    if train is None:
        return None
    flat = labels == "none"
    labelled = any(paths[source].count("/") >= 2 for source in tops[train])
    others = {top.casefold() for top in tops if top} - {train.casefold()}
    if not flat and not labelled and others - set(_TEST_NAMES):
        return None  # a class that is called train, beside other classes
    tree = _Tree()
    _sort_in(tree.train, tops.pop(train), paths, flat=flat)
    by_name = {top.casefold(): top for top in sorted(tops, reverse=True)}
    candidates = [by_name[name] for name in _TEST_NAMES if name in by_name]
    fits = (top for top in candidates if flat or any((paths[s].count("/") >= 2) == labelled for s in tops[top]))
    test = next(fits, None)
    if test is not None:
        _sort_in(tree.test, tops.pop(test), paths, flat=flat)
    for top, sources in tops.items():
        if top in candidates:  # one line for the whole folder
            why = "its images are not in class folders" if test is None else f"the test split is read from {test}/"
            tree.rejected.append(_unused(f"{top}/", f"{len(sources)} images are not used: {why}"))
        else:
            tree.rejected += [_unused(s, f"the image is outside {train}/ and the test split") for s in sources]
    return tree


def _sort_in(
    groups: dict[str | None, list[str]], sources: Iterable[str], paths: Mapping[str, str], *, flat: bool
) -> None:
    for source in sources:
        parts = paths[source].split("/")
        groups[parts[1] if len(parts) > 2 and not flat else None].append(source)


def _without_splits(paths: Mapping[str, str], labels: Labels) -> _Tree:
    tree = _Tree()
    for source, path in paths.items():
        folder, slash, _ = path.partition("/")
        tree.train[folder if slash and labels != "none" else None].append(source)
    return tree


def _of_rows(ordered: Sequence[str], rows: Mapping[str, Row]) -> _Tree:
    """The tree that the rows of tables state. Where no split is called train, the only usable one is divided."""
    tree = _Tree()
    by_split: dict[str, list[str]] = defaultdict(list)
    for source in ordered:
        if source in rows:
            by_split[rows[source].split].append(source)
        else:
            tree.rejected.append(_unused(source, "the image lies beside Parquet files, which are what is read"))
    labelled = any(row.label is not None for row in rows.values())
    tests = [
        name
        for name in _TEST_NAMES
        if name in by_split and (not labelled or any(rows[source].label is not None for source in by_split[name]))
    ]
    trains = [name for name in by_split if not name or name in _TRAIN_NAMES] or tests[:1]
    test = next((name for name in tests if name not in trains), None)
    for split, sources in by_split.items():
        if split in trains or split == test:
            groups = tree.train if split in trains else tree.test
            for source in sources:
                groups[rows[source].class_name].append(source)
        else:
            why = "no other split is used for tests" if test is None else f"the test split is read from {test}"
            tree.rejected.append(_unused(split, f"{len(sources)} rows are not used: {why}"))
    return tree


def _row_order(tree: _Tree, rows: Iterable[Row]) -> tuple[str, ...]:
    """The classes in the order of the tables: as declared, else the training labels in their own order."""
    kinds = {(row.names, row.label) for row in rows if row.label is not None}
    declared = next((names for names, _ in kinds if names is not None), None)
    if declared is not None:
        return declared
    numbers = sorted(label for _, label in kinds if isinstance(label, int))
    words = sorted(label for _, label in kinds if isinstance(label, str))
    return tuple(name for name in (*map(str, numbers), *words) if name in tree.train)


def _classes(tree: _Tree, order: tuple[str, ...] | None = None) -> tuple[str, ...] | None:
    """The class names in order; None for an unlabelled dataset. Raises where the training images have but one.

    With ``order``, declared classes without training images stay, so that the numbers of the others do.
    """
    names = sorted(name for name in tree.train if name is not None)
    if not names:
        return None
    if len(names) == 1:
        raise TooFewImages(f"there is one class only ({names[0]}), and at least two are needed; {_LAYOUTS}")
    return tuple(names) if order is None else order


def _placed(
    groups: Mapping[str | None, Sequence[str]],
    paths: Mapping[str, str],
    classes: tuple[str, ...] | None,
    rejected: list[Rejected],
    homeless: str,
) -> list[Placed]:
    labels: dict[str | None, int] = {None: UNLABELLED}
    if classes is not None:
        labels = {name: label for label, name in enumerate(classes)}
    found = []
    for name, sources in groups.items():
        if name in labels:
            found += [Placed(source, paths[source], labels[name]) for source in sources]
        elif name is None:
            rejected += [_unused(source, homeless) for source in sources]
        elif classes is None:
            rejected += [_unused(source, "the training images have no classes") for source in sources]
        else:
            rejected += [_unused(source, f"class {name} is not among the training classes") for source in sources]
    return sorted(found, key=lambda placed: placed.path)


def _unused(path: str, reason: str) -> Rejected:
    return Rejected(path, reason, "not_in_layout")


def _set_apart(samples: Sequence[Placed], seed: int) -> tuple[list[Placed], list[Placed]]:
    """A fifth of each class for the test split; at least one where a class has two."""
    by_label: dict[int, list[Placed]] = defaultdict(list)
    for sample in samples:
        by_label[sample.label].append(sample)
    chosen: set[str] = set()
    for group in by_label.values():
        count = max(1, (2 * len(group) + 5) // 10) if len(group) > 1 else 0
        chosen.update(sample.source for sample in sorted(group, key=lambda s: _rank(seed, s.path))[:count])
    train = [sample for sample in samples if sample.source not in chosen]
    return train, [sample for sample in samples if sample.source in chosen]


def _rank(seed: int, path: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{path}".encode()).digest()

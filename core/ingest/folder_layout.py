"""Infer classes and splits from the paths of a dataset's images."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from core.data.stored import UNLABELED, SplitName
from core.ingest.limits import RejectedFile
from core.ingest.source_files import Labels, TableRow
from core.ingest_errors import TooFewImages

_TRAIN_NAMES = frozenset({"train", "training"})
_TEST_NAMES = ("test", "testing", "val", "valid", "validation")  # in order of preference
_EXPECTED_LAYOUTS = (
    "expected: train/CLASS/image and test/ or val/, or CLASS/image, or a folder of images without classes; "
    "set labels to none for a dataset without classes in any folders"
)


@dataclass(frozen=True, slots=True)
class Sample:
    """An image with its label. ``path`` is ``source`` without the folders that all images share."""

    source: str
    path: str
    label: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Classes (None: unlabeled), the samples of each split in path order, and the rejected files."""

    classes: tuple[str, ...] | None
    splits: Mapping[SplitName, Sequence[Sample]]
    rejected: Sequence[RejectedFile]


@dataclass(slots=True)
class _Tree:
    """Images by split and class; class None holds images outside the class folders."""

    train: dict[str | None, list[str]] = field(default_factory=lambda: defaultdict(list))
    test: dict[str | None, list[str]] = field(default_factory=lambda: defaultdict(list))
    rejected: list[RejectedFile] = field(default_factory=list)


def infer_layout(
    sources: Iterable[str], *, seed: int, labels: Labels = "auto", rows: Mapping[str, TableRow] | None = None
) -> Layout:
    """Infer classes and splits.

    * Folders that all images share are dropped, except ``train``.
    * With ``train/``: its folders are the classes; ``test/`` (else ``val/`` and similar) is the test split.
    * Without ``train/``: the top folders are the classes. Without folders, the dataset is unlabeled.
    * With ``labels="none"``: unlabeled, but ``train/`` and ``test/`` are still the splits.
    * With ``rows`` (table rows by path): rows define labels and splits; images outside the tables are left out.
    * Without a test split: it gets a fifth of each class, the images with the smallest digest of seed and path.
      The choice does not depend on the packing or on other images.

    Nested folders belong to their class. Raises :class:`TooFewImages` if there is only one class, or if no image
    is left for a split.
    """
    ordered = sorted(sources)
    prefix_length = _common_prefix_length(ordered)
    paths = {source: source[prefix_length:] for source in ordered}
    if rows:
        tree = _tree_from_rows(ordered, rows)
        classes = _class_names(tree, order=_class_order(tree, rows.values()))
    else:
        tree = _tree_from_split_folders(paths, labels) or _tree_from_class_folders(paths, labels)
        classes = _class_names(tree)
    unlabeled_reason = "the row has no label" if rows else "the image is not in a class folder"
    train = _label_samples(tree.train, paths, classes, tree.rejected, unlabeled_reason)
    test = _label_samples(tree.test, paths, classes, tree.rejected, unlabeled_reason)
    if not test:
        train, test = _split_off_test(train, seed)
    if not train or not test:
        raise TooFewImages("there are too few images for a training and a test split; send at least two per class")
    splits: dict[SplitName, list[Sample]] = {"train": train, "test": test}
    return Layout(classes, splits, tree.rejected)


def _common_prefix_length(ordered: Sequence[str]) -> int:
    """Length of the folder prefix that all paths share, in characters."""
    if not ordered:
        return 0
    length = 0
    first, last = ordered[0], ordered[-1]  # the common prefix of a sorted list is that of its first and last entry
    while (slash := first.find("/", length)) >= 0:
        if last[: slash + 1] != first[: slash + 1] or first[length:slash].casefold() in _TRAIN_NAMES:
            break
        length = slash + 1
    return length


def _tree_from_split_folders(paths: Mapping[str, str], labels: Labels) -> _Tree | None:
    """Build the tree from ``train`` and test folders; return None if ``train`` is absent or a class name."""
    tops: dict[str, list[str]] = defaultdict(list)
    for source, path in paths.items():
        tops[path.partition("/")[0] if "/" in path else ""].append(source)
    train = next((top for top in sorted(tops) if top.casefold() in _TRAIN_NAMES), None)
    if train is None:
        return None
    flat = labels == "none"
    labeled = any(paths[source].count("/") >= 2 for source in tops[train])
    others = {top.casefold() for top in tops if top} - {train.casefold()}
    if not flat and not labeled and others - set(_TEST_NAMES):
        return None  # a class named train among other classes
    tree = _Tree()
    _group_by_class(tree.train, tops.pop(train), paths, flat=flat)
    by_name = {top.casefold(): top for top in sorted(tops, reverse=True)}
    candidates = [by_name[name] for name in _TEST_NAMES if name in by_name]
    fits = (top for top in candidates if flat or any((paths[s].count("/") >= 2) == labeled for s in tops[top]))
    test = next(fits, None)
    if test is not None:
        _group_by_class(tree.test, tops.pop(test), paths, flat=flat)
    for top, sources in tops.items():
        if top in candidates:  # one entry for the folder
            why = "its images are not in class folders" if test is None else f"the test split is {test}/"
            tree.rejected.append(_unused_file(f"{top}/", f"{len(sources)} images are not used: {why}"))
        else:
            tree.rejected += [_unused_file(s, f"the image is outside {train}/ and the test split") for s in sources]
    return tree


def _group_by_class(
    groups: dict[str | None, list[str]], sources: Iterable[str], paths: Mapping[str, str], *, flat: bool
) -> None:
    for source in sources:
        parts = paths[source].split("/")
        groups[parts[1] if len(parts) > 2 and not flat else None].append(source)


def _tree_from_class_folders(paths: Mapping[str, str], labels: Labels) -> _Tree:
    tree = _Tree()
    for source, path in paths.items():
        folder, slash, _ = path.partition("/")
        tree.train[folder if slash and labels != "none" else None].append(source)
    return tree


def _tree_from_rows(ordered: Sequence[str], rows: Mapping[str, TableRow]) -> _Tree:
    """Build the tree from table rows. Without a split named train, the only usable split is divided."""
    tree = _Tree()
    by_split: dict[str, list[str]] = defaultdict(list)
    for source in ordered:
        if source in rows:
            by_split[rows[source].split].append(source)
        else:
            tree.rejected.append(
                _unused_file(source, "the image is outside the Parquet files; only their rows are read")
            )
    labeled = any(row.label is not None for row in rows.values())
    tests = [
        name
        for name in _TEST_NAMES
        if name in by_split and (not labeled or any(rows[source].label is not None for source in by_split[name]))
    ]
    trains = [name for name in by_split if not name or name in _TRAIN_NAMES] or tests[:1]
    test = next((name for name in tests if name not in trains), None)
    for split, sources in by_split.items():
        if split in trains or split == test:
            groups = tree.train if split in trains else tree.test
            for source in sources:
                groups[rows[source].class_name].append(source)
        else:
            why = "it is neither the training nor the test split" if test is None else f"the test split is {test}"
            tree.rejected.append(_unused_file(split, f"{len(sources)} rows are not used: {why}"))
    return tree


def _class_order(tree: _Tree, rows: Iterable[TableRow]) -> tuple[str, ...]:
    """Class order: the declared order, else the sorted training labels."""
    kinds = {(row.class_names, row.label) for row in rows if row.label is not None}
    declared = next((names for names, _ in kinds if names is not None), None)
    if declared is not None:
        return declared
    integers = sorted(label for _, label in kinds if isinstance(label, int))
    strings = sorted(label for _, label in kinds if isinstance(label, str))
    return tuple(name for name in (*map(str, integers), *strings) if name in tree.train)


def _class_names(tree: _Tree, order: tuple[str, ...] | None = None) -> tuple[str, ...] | None:
    """Class names in order; None for an unlabeled dataset. Raises :class:`TooFewImages` for a single class.

    With ``order``, declared classes without training images are kept, so that class indices do not shift.
    """
    names = sorted(name for name in tree.train if name is not None)
    if not names:
        return None
    if len(names) == 1:
        raise TooFewImages(f"there is only one class ({names[0]}), at least two are needed; {_EXPECTED_LAYOUTS}")
    return tuple(names) if order is None else order


def _label_samples(
    groups: Mapping[str | None, Sequence[str]],
    paths: Mapping[str, str],
    classes: tuple[str, ...] | None,
    rejected: list[RejectedFile],
    unlabeled_reason: str,
) -> list[Sample]:
    labels: dict[str | None, int] = {None: UNLABELED}
    if classes is not None:
        labels = {name: label for label, name in enumerate(classes)}
    samples = []
    for name, sources in groups.items():
        if name in labels:
            samples += [Sample(source, paths[source], labels[name]) for source in sources]
        elif name is None:
            rejected += [_unused_file(source, unlabeled_reason) for source in sources]
        elif classes is None:
            rejected += [_unused_file(source, "the training images have no classes") for source in sources]
        else:
            rejected += [_unused_file(source, f"class {name} is not among the training classes") for source in sources]
    return sorted(samples, key=lambda sample: sample.path)


def _unused_file(path: str, reason: str) -> RejectedFile:
    return RejectedFile(path, reason, "not_in_layout")


def _split_off_test(samples: Sequence[Sample], seed: int) -> tuple[list[Sample], list[Sample]]:
    """Move a fifth of each class to the test split, at least one image of a class with two or more."""
    by_label: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_label[sample.label].append(sample)
    chosen: set[str] = set()
    for group in by_label.values():
        count = max(1, (2 * len(group) + 5) // 10) if len(group) > 1 else 0
        chosen.update(sample.source for sample in sorted(group, key=lambda s: _sample_digest(seed, s.path))[:count])
    train = [sample for sample in samples if sample.source not in chosen]
    return train, [sample for sample in samples if sample.source in chosen]


def _sample_digest(seed: int, path: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{path}".encode()).digest()

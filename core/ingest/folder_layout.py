"""Infer classes and splits from the paths of a dataset's images."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from core.data.stored import UNLABELED, SplitName
from core.ingest.class_groups import (
    ClassGroups,
    group_test_images,
    group_train_images,
    match_class_names,
    nearest_class,
    similar_class_warnings,
)
from core.ingest.folder_tree import folder_tree
from core.ingest.limits import RejectedFile
from core.ingest.source_files import TableRow
from core.ingest.split_option import read_named_splits
from core.ingest.split_reading import read_splits
from core.ingest.table_layout import read_table_splits, unlabeled_reason
from core.ingest_errors import TooFewImages
from core.job_warnings import JobWarning
from core.spec.dataset_layout import LayoutOptions, SplitFolders

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
    """Classes (None: unlabeled), the samples of each split in path order, the rejected files, and warnings."""

    classes: tuple[str, ...] | None
    splits: Mapping[SplitName, Sequence[Sample]]
    rejected: Sequence[RejectedFile]
    warnings: Sequence[JobWarning] = ()


@dataclass(slots=True)
class _Groups:
    """Images by split and class; class None holds images outside the class folders."""

    train: ClassGroups
    test: ClassGroups
    train_name: str
    test_name: str
    rejected: list[RejectedFile]
    warnings: list[JobWarning]


def infer_layout(
    sources: Iterable[str],
    *,
    seed: int,
    options: LayoutOptions | None = None,
    rows: Mapping[str, TableRow] | None = None,
) -> Layout:
    """Infer classes and splits.

    * Folders that all images share are dropped, and folders that repeat their parent (``cat/cat``).
    * Folders named ``train``, ``test``, ``val`` and similar are splits (:func:`core.ingest.split_reading.read_splits`),
      outside of the class folders or inside of them. ``options.splits`` names them instead.
    * Below a split, the outermost folders are the classes. Without folders, the dataset is unlabeled.
    * With ``options.labels="none"``: unlabeled, but ``train/`` and ``test/`` are still the splits.
    * With ``rows`` (table rows by path): rows define labels and splits; images outside the tables are left out.
    * Without a test split: it gets a fifth of each class, the images with the smallest digest of seed and path.
      The choice does not depend on the packing or on other images.

    Nested folders belong to their class.

    Raises:
        TooFewImages: There is only one class, or no image is left for a split.
        LayoutUnclear: The folders can be read in two ways, or the classes of the test split are not those of training.
    """
    options = options or LayoutOptions()
    tree = folder_tree(sorted(sources))
    if rows:
        groups = _groups_from_rows(list(tree.paths), rows, options)
        classes = _class_names(groups, order=_class_order(groups, rows.values()))
    else:
        groups = _groups_from_folders(tree.paths, tree.folders, options)
        classes = _class_names(groups)
    groups.test, renamed = match_class_names(
        groups.train, groups.test, train_name=groups.train_name, test_name=groups.test_name
    )
    reason = (lambda source: rows[source].reason or unlabeled_reason(source)) if rows else _outside_classes
    train = _label_samples(groups.train, tree.paths, classes, groups.rejected, reason)
    test = _label_samples(groups.test, tree.paths, classes, groups.rejected, reason)
    if not test:
        train, test = _split_off_test(train, seed)
    if not train or not test:
        raise TooFewImages("there are too few images for a training and a test split; send at least two per class")
    splits: dict[SplitName, list[Sample]] = {"train": train, "test": test}
    warnings = [*groups.warnings, *renamed, *similar_class_warnings(classes or ())]
    return Layout(classes, splits, groups.rejected, warnings)


def _groups_from_folders(
    paths: Mapping[str, str], folders: Mapping[str, tuple[str, ...]], options: LayoutOptions
) -> _Groups:
    if isinstance(options.splits, SplitFolders):
        reading = read_named_splits({source: tuple(source.split("/")[:-1]) for source in paths}, options.splits)
    else:
        reading = read_splits(folders, options)
    train = group_train_images(reading, options)
    test = group_test_images(reading, train, options)
    return _Groups(train, test, reading.train_name, reading.test_name, reading.rejected, reading.warnings)


def _groups_from_rows(sources: Sequence[str], rows: Mapping[str, TableRow], options: LayoutOptions) -> _Groups:
    table = read_table_splits(sources, rows, options)
    return _Groups(table.train, table.test, "the training split", table.test_name, table.rejected, table.warnings)


def _outside_classes(_source: str) -> str:
    return "the image is not in a class folder"


def _class_order(groups: _Groups, rows: Iterable[TableRow]) -> tuple[str, ...]:
    """Class order: the declared order, else the sorted training labels."""
    kinds = {(row.class_names, row.label) for row in rows if row.label is not None}
    declared = next((names for names, _ in kinds if names is not None), None)
    if declared is not None:
        return declared
    integers = sorted(label for _, label in kinds if isinstance(label, int))
    strings = sorted(label for _, label in kinds if isinstance(label, str))
    return tuple(name for name in (*map(str, integers), *strings) if name in groups.train)


def _class_names(groups: _Groups, order: tuple[str, ...] | None = None) -> tuple[str, ...] | None:
    """Class names in order; None for an unlabeled dataset. Raises :class:`TooFewImages` for a single class.

    With ``order``, declared classes without training images are kept, so that class indices do not shift.
    """
    names = sorted(name for name in groups.train if name is not None)
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
    unlabeled: Callable[[str], str],
) -> list[Sample]:
    labels: dict[str | None, int] = {None: UNLABELED}
    if classes is not None:
        labels = {name: label for label, name in enumerate(classes)}
    samples = []
    for name, sources in groups.items():
        if name in labels:
            samples += [Sample(source, paths[source], labels[name]) for source in sources]
            continue
        if name is None:
            rejected += [RejectedFile(source, unlabeled(source), "not_in_layout") for source in sources]
            continue
        if classes is None:
            reason = "the training images have no classes"
        else:
            near = nearest_class(name, classes)
            hint = f"; the nearest is {near}" if near else ""
            reason = f"class {name} is not among the training classes{hint}"
        rejected += [RejectedFile(source, reason, "not_in_layout") for source in sources]
    return sorted(samples, key=lambda sample: sample.path)


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

"""Group the images of each split by class, and match the class names of the test split with those of training."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable, Mapping

from core.ingest.folder_tree import Folders, drop_wrappers, name_key
from core.ingest.split_names import split_name
from core.ingest.split_reading import CLASS_POINTER, PAIRED_NAMES, SPLITS_POINTER, SplitReading, quoted, unclear
from core.ingest_errors import LayoutUnclear
from core.job_warnings import JobWarning
from core.spec.dataset_layout import LayoutOptions

ClassGroups = dict[str | None, list[str]]  # images by class; None: without a class


def group_train_images(reading: SplitReading, options: LayoutOptions) -> ClassGroups:
    """Group the training images by their class folders. Raises :class:`LayoutUnclear`."""
    if options.labels == "none":
        return {None: list(reading.train)}
    if options.class_from != "auto":
        return _group(reading.train, options)
    groups = _group(drop_wrappers(reading.train), options)
    names = [name for name in groups if name is not None]
    if len(names) == 1 and reading.train_name and name_key(names[0]) in PAIRED_NAMES:
        return {None: list(reading.train)}  # train/images/*.jpg: a wrapper, not a class
    _refuse_unclear_classes(names, reading, options)
    return groups


def group_test_images(reading: SplitReading, train: ClassGroups, options: LayoutOptions) -> ClassGroups:
    """Group the test images by their class folders; folders around all of them are dropped like in training."""
    if reading.test is None:
        return {}
    if options.labels == "none" or set(train) == {None}:
        return {None: list(reading.test)}
    if options.class_from != "auto":
        return _group(reading.test, options)
    keys = {name_key(name) for name in train if name is not None}
    folders = reading.test
    while folders and not any(parts and name_key(parts[0]) in keys for parts in folders.values()):
        if min(map(len, folders.values())) < 2 or len({parts[0] for parts in folders.values()}) > 1:
            return _group(reading.test, options)
        folders = {source: parts[1:] for source, parts in folders.items()}
    return _group(folders, options)


def match_class_names(
    train: ClassGroups, test: ClassGroups, *, train_name: str, test_name: str
) -> tuple[ClassGroups, list[JobWarning]]:
    """Rename the test classes that differ from one training class in case, spaces, hyphens or underscores only.

    Returns the renamed groups, and a warning that names the renamed classes.

    Raises:
        LayoutUnclear: No test class is a training class, so the test split would be empty.
    """
    candidates: defaultdict[str, list[str]] = defaultdict(list)
    for name in train:
        if name is not None:
            candidates[name_key(name)].append(name)
    matched: ClassGroups = defaultdict(list)
    renamed: dict[str, str] = {}
    for name, sources in test.items():
        target = name
        if name is not None and name not in train and len(near := candidates.get(name_key(name), [])) == 1:
            target = renamed[name] = near[0]
        matched[target] += sources
    names = [name for name in test if name is not None]
    if names and candidates and not any(name in train for name in matched if name is not None):
        raise _no_class_matches(names, list(train), train_name=train_name, test_name=test_name)
    return dict(matched), _renamed_warning(renamed, train_name=train_name, test_name=test_name)


def similar_class_warnings(names: Iterable[str]) -> list[JobWarning]:
    """Warn about training classes whose names differ only in case, spaces, hyphens or underscores."""
    by_key: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        by_key[name_key(name)].append(name)
    groups = [" and ".join(group) for group in by_key.values() if len(group) > 1]
    if not groups:
        return []
    message = f"Different classes have almost the same name: {quoted(groups)}."
    return [JobWarning(code="class_names_similar", message=message, fix="Merge the folders if they are one class.")]


def nearest_class(name: str, classes: Iterable[str | None]) -> str | None:
    """Return the class whose name resembles ``name`` most; None if none does."""
    by_key = {name_key(each): each for each in classes if each is not None}
    near = difflib.get_close_matches(name_key(name), list(by_key), n=1, cutoff=0.5)
    return by_key[near[0]] if near else None


def _group(folders: Mapping[str, Folders], options: LayoutOptions) -> ClassGroups:
    level = -1 if options.class_from == "parent" else 0
    groups: ClassGroups = defaultdict(list)
    for source, parts in folders.items():
        groups[parts[level] if parts else None].append(source)
    return dict(groups)


def _refuse_unclear_classes(names: list[str], reading: SplitReading, options: LayoutOptions) -> None:
    if len(names) == 1 and reading.test_name:
        raise unclear(
            [
                f"{reading.train_name} and {reading.test_name} are splits with only one class, {names[0]}",
                f"{reading.train_name} and {reading.test_name} are the classes",
            ],
            "Set splits to none for the classes, or labels to none for an unlabeled dataset; else add a second class",
        )
    found = [split_name(name) for name in names]
    are_splits = len(names) > 1 and all(split is not None and split.exact for split in found)
    if options.splits == "auto" and are_splits:
        words = quoted(names)
        raise unclear(
            [f"{words} are the classes", f"{words} are splits, without classes"],
            "Set class_from to first for the classes, or splits to the folders of the splits",
        )


def _no_class_matches(names: list[str], classes: list[str | None], *, train_name: str, test_name: str) -> LayoutUnclear:
    near = ((name, nearest_class(name, classes)) for name in sorted(names))
    example = next((f"; the class nearest to {name} is {found}" for name, found in near if found), "")
    expected = quoted(sorted(name for name in classes if name is not None))
    return LayoutUnclear(
        f"no class of {test_name} ({quoted(sorted(names))}) is a class of {train_name} ({expected}){example}. Rename "
        f'the classes, or set {SPLITS_POINTER[1:]} to {{"train": "{train_name}"}} to take the test images from '
        f"{train_name}, or {CLASS_POINTER[1:]} to parent if the class is the folder that holds the image"
    )


def _renamed_warning(renamed: Mapping[str, str], *, train_name: str, test_name: str) -> list[JobWarning]:
    if not renamed:
        return []
    pairs = quoted(f"{name} as {target}" for name, target in sorted(renamed.items()))
    message = f"Classes of {test_name} are named differently from those of {train_name}; they are read as: {pairs}."
    return [JobWarning(code="class_names_matched", message=message, fix="Use the same names in every split.")]

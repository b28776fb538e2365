"""Decide which folders of a dataset are splits and which are classes.

Two readings compete: the outermost folders are splits, or they are classes. A reading that both the names and the
sub-folders support is taken. Where both readings remain possible, :class:`LayoutUnclear` names them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from core.ingest.folder_tree import Folders, TopFolder, group_by_top, name_key
from core.ingest.limits import RejectedFile
from core.ingest.paths import printable_name
from core.ingest.split_names import TEST_ORDER, TRAIN_ORDER, SplitRole, split_name
from core.ingest_errors import LayoutUnclear
from core.job_warnings import JobWarning
from core.spec.dataset_layout import LayoutOptions

SPLITS_POINTER, CLASS_POINTER = "/splits", "/class_from"
_NO_CLASSES = "its images are not in class folders"
_PREDICT_REASON = "images to predict on have no labels"
_NUM_NAMED = 5  # folders that a message names
# Folders beside each other whose images belong together, such as photographs and their masks.
PAIRED_NAMES = frozenset(
    {"images", "image", "imgs", "img", "jpegimages", "masks", "mask", "labels", "annotations", "ground truth", "gt"}
)


@dataclass(slots=True)
class SplitReading:
    """The images of each split, with their folders inside of it.

    Attributes:
        train: Folders of each training image, without that of the split.
        test: The same for the test split; None if no folder is the test split.
        train_name, test_name: Names of the splits' folders; empty without one.
        rejected: Images and folders that are not used.
        warnings: Choices that the user may not expect.
    """

    train: dict[str, Folders]
    test: dict[str, Folders] | None = None
    train_name: str = ""
    test_name: str = ""
    rejected: list[RejectedFile] = field(default_factory=list)
    warnings: list[JobWarning] = field(default_factory=list)


def read_splits(folders: Mapping[str, Folders], options: LayoutOptions) -> SplitReading:
    """Find the splits by the names of folders. Raises :class:`LayoutUnclear`."""
    if options.splits == "none":
        return SplitReading(dict(folders))
    tops, strays = group_by_top(folders)
    predicted = _prediction_folders(tops)
    others = [top for name, top in tops.items() if name not in predicted]
    if _is_class_first(others, folders, options):
        reading = _class_first_reading(others, folders, options)
    elif _are_splits(others, options):
        reading = _split_reading(others, folders, options)
    else:
        _refuse_second_reading(others, options)
        reading = SplitReading({source: folders[source] for top in others for source in top.sources})
        reading.train |= dict.fromkeys(strays, ())
        strays = []
    reading.rejected += [unused_folder(name, len(tops[name].sources), _PREDICT_REASON) for name in predicted]
    reason = f"the image is outside {reading.train_name}/ and the test split"
    reading.rejected += [RejectedFile(source, reason, "not_in_layout") for source in strays]
    return reading


def unused_folder(folder: str, num_images: int, reason: str) -> RejectedFile:
    """Return one entry for all images of a folder."""
    return RejectedFile(f"{folder}/", f"{num_images} images are not used: {reason}", "not_in_layout")


def unclear(readings: Sequence[str], fix: str) -> LayoutUnclear:
    """Return the error that names the possible readings of the folders, and the fields that choose one."""
    listed = "; ".join(f"({number}) {reading}" for number, reading in enumerate(readings, start=1))
    return LayoutUnclear(f"the folders can be read in {len(readings)} ways: {listed}. {fix}")


def quoted(names: Iterable[str]) -> str:
    """Return folder names as text, the first five of them."""
    listed = [printable_name(name) for name in names]
    more = f" and {len(listed) - _NUM_NAMED} more" if len(listed) > _NUM_NAMED else ""
    return ", ".join(listed[:_NUM_NAMED]) + more


# --- splits outermost ---------------------------------------------------------------------------


def _prediction_folders(tops: Mapping[str, TopFolder]) -> list[str]:
    """Folders of unlabeled images beside a split or at least two classes."""
    found = [name for name, top in tops.items() if top.split is not None and top.split.role == "predict"]
    rest = [top for name, top in tops.items() if name not in found]
    if any(top.split is not None for top in rest):
        return found
    num_classes = len(rest) if len(rest) != 1 else len(rest[0].child_keys)
    return [name for name in found if num_classes > 1 and _exact(tops[name])]


def _are_splits(tops: Sequence[TopFolder], options: LayoutOptions) -> bool:
    """Whether the outermost folders are splits, by their names and by the sub-folders that they share."""
    named = [top for top in tops if top.split is not None]
    others = [top for top in tops if top.split is None]
    if not others and len(named) == 1:
        return True
    roles = {top.split.role for top in named if top.split is not None}
    if len(roles) < 2:
        return options.labels == "auto" and _is_only_train(named, others)
    if _share_children(named):
        return True
    if not _names_fit(named):
        return False
    if not others or options.labels == "none":
        return True
    if any(not top.is_flat for top in named):
        return True
    words = quoted(top.name for top in named)
    raise unclear(
        [
            f"{words} are splits without class folders, and {quoted(top.name for top in others)} are not used",
            f"all {len(tops)} folders are classes, {words} among them",
        ],
        f"Set splits to none for the classes, or to {_splits_example(named)} for the splits",
    )


def _is_only_train(named: Sequence[TopFolder], others: Sequence[TopFolder]) -> bool:
    """Decide about one kind of split beside other folders: a class of that name, unless it has class folders."""
    trains = [top for top in named if _exact(top) and top.split is not None and top.split.role == "train"]
    if len(trains) != 1 or len(trains[0].child_keys) < 2 or not others:
        return False
    raise unclear(
        [
            f"{trains[0].name} is the training split with the classes {quoted(sorted(trains[0].children))}",
            f"{quoted(top.name for top in (*trains, *others))} are the classes",
        ],
        f'Set splits to {{"train": "{trains[0].name}"}} or add the test folder to it, or set splits to none',
    )


def _exact(top: TopFolder) -> bool:
    return top.split is not None and top.split.exact


def _share_children(named: Sequence[TopFolder]) -> bool:
    """Whether two folders of different splits have a sub-folder of the same name."""
    roles: defaultdict[str, set[SplitRole]] = defaultdict(set)
    for top in named:
        assert top.split is not None
        for key in top.child_keys:
            roles[key].add(top.split.role)
    return any(len(found) > 1 for found in roles.values())


def _names_fit(named: Sequence[TopFolder]) -> bool:
    """Whether the names differ only in the split: ``seg_train`` and ``seg_test``, not bullet train and test tube."""
    return len({top.split.rest for top in named if top.split is not None}) == 1


def _split_reading(tops: Sequence[TopFolder], folders: Mapping[str, Folders], options: LayoutOptions) -> SplitReading:
    """Choose the training and the test split; the other folders are left out with one entry each."""
    named = [top for top in tops if top.split is not None]
    train = _choose_train(named)
    rest = [top for top in named if top is not train]
    tests = [top for top in rest if top.split is not None and top.split.role in TEST_ORDER]
    if options.labels == "auto":
        tests = [top for top in tests if _is_labeled(top, train) != train.is_flat]
    test = min(tests, key=_test_rank, default=None)
    reading = SplitReading(_inside(train, folders), train_name=train.name)
    if test is not None:
        reading.test, reading.test_name = _inside(test, folders), test.name
    for top in rest:
        if top is not test:
            reading.rejected.append(unused_folder(top.name, len(top.sources), _unused_reason(top, train, test)))
    for top in tops:
        if top.split is None:
            reading.rejected += _outside(top, train)
    reading.warnings += _choice_warnings(train, test, rest)
    return reading


def _unused_reason(top: TopFolder, train: TopFolder, test: TopFolder | None) -> str:
    if top.split is not None and top.split.role == "train":
        return f"the training split is {train.name}/"
    if test is not None:
        return f"the test split is {test.name}/"
    return f"only its images are in class folders, not those of {train.name}/" if train.is_flat else _NO_CLASSES


def _choose_train(named: Sequence[TopFolder]) -> TopFolder:
    """Choose the training split: ``train``, else the first of val, dev, eval and test. An exact name wins."""
    has_labels = any(not top.is_flat for top in named)
    usable = [top for top in named if not has_labels or not top.is_flat]
    trains = [top for top in named if top.split is not None and top.split.role == "train"]
    candidates = trains or usable

    def rank(top: TopFolder) -> tuple[int, bool]:
        assert top.split is not None
        return TRAIN_ORDER.index(top.split.role), not top.split.exact

    best = min(map(rank, candidates))
    first = [top for top in candidates if rank(top) == best]
    if len(first) > 1:
        raise unclear(
            [f"{top.name} is the training split" for top in first],
            f'Set splits to the folders, such as {{"train": "{first[0].name}"}}, or merge the folders',
        )
    return first[0]


def _is_labeled(top: TopFolder, train: TopFolder) -> bool:
    """Whether the folder has class folders: several sub-folders, or one that a training class is named like."""
    return len(top.child_keys) > 1 or (not top.is_flat and (train.is_flat or _may_be_classes(top, train)))


def _may_be_classes(top: TopFolder, train: TopFolder) -> bool:
    """Whether the only sub-folder is a class, or holds class folders; else it is a wrapper of unlabeled images."""
    (key,) = top.child_keys
    return key in train.child_keys or key not in PAIRED_NAMES


def _test_rank(top: TopFolder) -> tuple[int, bool, str]:
    assert top.split is not None
    return TEST_ORDER.index(top.split.role), not top.split.exact, top.name


def _inside(top: TopFolder, folders: Mapping[str, Folders]) -> dict[str, Folders]:
    return {source: folders[source][1:] for source in top.sources}


def _outside(top: TopFolder, train: TopFolder) -> list[RejectedFile]:
    if not top.is_flat:
        return [unused_folder(top.name, len(top.sources), "its name is not that of a split; set splits to use it")]
    reason = f"the image is outside {train.name}/ and the test split"
    return [RejectedFile(source, reason, "not_in_layout") for source in top.sources]


def _choice_warnings(train: TopFolder, test: TopFolder | None, rest: Sequence[TopFolder]) -> list[JobWarning]:
    assert train.split is not None
    if test is None and rest:
        message = (
            f"{quoted(f'{top.name}/' for top in rest)} cannot be the test split, because only one of it and "
            f"{train.name}/ has class folders; a fifth of {train.name}/ is the test split."
        )
        fix = "Send both splits with class folders, or both without."
        return [JobWarning(code="split_chosen", field=SPLITS_POINTER, message=message, fix=fix)]
    if test is not None and train.split.role != "train":
        message = f"No folder is named train: {train.name}/ is the training split, and {test.name}/ the test split."
        fix = f'Set splits to {{"train": "{test.name}", "test": "{train.name}"}} for the opposite.'
        return [JobWarning(code="split_chosen", field=SPLITS_POINTER, message=message, fix=fix)]
    return []


def _splits_example(named: Sequence[TopFolder]) -> str:
    train = _choose_train(named)
    tests = [top for top in named if top is not train and top.split is not None and top.split.role in TEST_ORDER]
    return f'{{"train": "{train.name}", "test": "{min(tests, key=_test_rank).name}"}}'


# --- classes outermost --------------------------------------------------------------------------


def _is_class_first(tops: Sequence[TopFolder], folders: Mapping[str, Folders], options: LayoutOptions) -> bool:
    """Whether every outermost folder is a class that is divided into splits, such as ``cat/train``."""
    if len(tops) < 2 or any(top.is_flat or top.num_direct for top in tops):
        return False
    if not all(_is_split_of(child, top) for top in tops for child in top.children):
        return False
    if len({found.role for top in tops for child in top.children if (found := split_name(child))}) < 2:
        return False
    below = {name_key(parts[2]) for top in tops for s in top.sources if len(parts := folders[s]) > 2}
    are_paired = all(name_key(top.name) in PAIRED_NAMES for top in tops)
    if options.class_from == "auto" and options.labels == "auto" and (len(below) > 1 or are_paired):
        words = quoted(top.name for top in tops)
        raise unclear(
            [
                f"{words} are the classes, each divided into splits",
                f"the classes are the folders that hold the images ({quoted(sorted(below)) or 'none'})",
            ],
            "Set class_from to first or to parent, or labels to none",
        )
    return True


def _is_split_of(child: str, top: TopFolder) -> bool:
    """Whether a sub-folder is named like a split, without other words than those of its class (``cat/cat_train``)."""
    found = split_name(child)
    return found is not None and set(found.rest) <= set(name_key(top.name).split())


def _class_first_reading(
    tops: Sequence[TopFolder], folders: Mapping[str, Folders], options: LayoutOptions
) -> SplitReading:
    """Choose the splits among the second-level folders, and move them outside of the classes."""
    turned = {}
    for top in tops:
        for source in top.sources:
            name, child, *rest = folders[source]
            turned[source] = (child, name, *rest)
    by_name, _ = group_by_top(turned)
    merged: list[TopFolder] = []
    for top in by_name.values():  # a split may be named differently in each class: cat/cat_train, dog/dog_train
        same = next((each for each in merged if _same_split(each, top)), None)
        if same is None:
            merged.append(top)
        else:
            same.sources += top.sources
            same.children += top.children
    predicted = [top for top in merged if top.split is not None and top.split.role == "predict"]
    reading = _split_reading([top for top in merged if top not in predicted], turned, options)
    reading.rejected += [unused_folder(top.name, len(top.sources), _PREDICT_REASON) for top in predicted]
    return reading


def _same_split(one: TopFolder, other: TopFolder) -> bool:
    """Whether two folders have the same role, and no class has both."""
    assert one.split is not None
    assert other.split is not None
    return one.split.role == other.split.role and not set(one.children) & set(other.children)


def _refuse_second_reading(tops: Sequence[TopFolder], options: LayoutOptions) -> None:
    """Raise :class:`LayoutUnclear` if the outermost folders are classes or something else with equal right."""
    if options.class_from != "auto" or options.labels == "none" or len(tops) < 2:
        return
    words = quoted(top.name for top in tops)
    if all(name_key(top.name) in PAIRED_NAMES for top in tops):
        raise unclear(
            [f"{words} are the classes", f"{words} hold images and their annotations"],
            "Set class_from to first for the classes; else send only the images, with labels set to none",
        )
    divided = [top.name for top in tops if top.num_direct == 0 and len(_roles(top.children)) > 1]
    if divided:
        raise unclear(
            [
                f"{words} are the classes, and the folders in {quoted(divided)} are splits",
                f"{words} are the classes, and all folders in them belong to their class",
            ],
            "Divide every class into splits for the former, or set splits to none for the latter",
        )
    if any(len(_roles(names)) > 1 for names in _by_rest(tops).values()):
        raise unclear(
            [
                f"{words} are the classes",
                f"{words} are the splits of the classes {quoted(map(' '.join, _by_rest(tops)))}",
            ],
            "Set splits to none for the former; for the latter, send train/CLASS and test/CLASS",
        )
    counts = Counter(key for top in tops for key in top.child_keys)
    if len(counts) > 1 and all(2 * len(top.child_keys) >= len(counts) for top in tops) and max(counts.values()) > 1:
        raise unclear(
            [f"{words} are the classes", f"{words} are parts of the dataset with the classes {quoted(sorted(counts))}"],
            "Set class_from to first for the former; set class_from to parent, or splits to two of the folders, for "
            f'the latter, such as {{"train": "{tops[0].name}", "test": "{tops[1].name}"}}',
        )


def _roles(names: Iterable[str]) -> set[SplitRole]:
    """Roles of the names, if each is named like a split; else none."""
    found = [split_name(name) for name in names]
    return {each.role for each in found if each is not None} if all(found) else set()


def _by_rest(tops: Sequence[TopFolder]) -> dict[tuple[str, ...], list[str]]:
    """Names of the folders named like splits, by the words that are no split: ``cat_train``, ``cat_test`` by cat."""
    groups: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for top in tops:
        if top.split is not None and top.split.rest:
            groups[top.split.rest].append(top.name)
    return dict(groups)

"""Splits of a dataset whose rows have them: Parquet tables, and lists of labels beside images."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

from core.ingest.class_groups import ClassGroups
from core.ingest.limits import RejectedFile
from core.ingest.source_files import TableRow
from core.ingest.split_names import TEST_ORDER, TRAIN_ORDER, SplitRole, split_name
from core.ingest.split_reading import SPLITS_POINTER, quoted
from core.ingest_errors import LayoutUnclear
from core.job_warnings import JobWarning
from core.spec.dataset_layout import LayoutOptions, SplitFolders

_TABLE_ROW = re.compile(r"\.(parquet|parq)#\d+$", re.IGNORECASE)
_OUTSIDE = "the image is outside the Parquet files; only their rows are read"


def unlabeled_reason(source: str) -> str:
    """Return why a row of a table, or an image of a label file, is left out of a labeled dataset."""
    return "the row has no label" if _TABLE_ROW.search(source) else "the image has no label in the label files"


class TableLayout:
    """The rows of each split, grouped by class."""

    def __init__(self) -> None:
        self.train: ClassGroups = defaultdict(list)
        self.test: ClassGroups = defaultdict(list)
        self.test_name = ""
        self.rejected: list[RejectedFile] = []
        self.warnings: list[JobWarning] = []


def read_table_splits(sources: Iterable[str], rows: Mapping[str, TableRow], options: LayoutOptions) -> TableLayout:
    """Assign the rows to splits by the names of their splits; rows without one are training rows.

    Without a training split, the first of val, dev, eval and test with labels is the training split.

    Raises:
        LayoutUnclear: No split has a name that is known, or ``options.splits`` names one that does not exist.
    """
    layout = TableLayout()
    by_split: dict[str, list[str]] = defaultdict(list)
    for source in sources:
        if source in rows:
            by_split["" if options.splits == "none" else rows[source].split].append(source)
        else:
            layout.rejected.append(RejectedFile(source, _OUTSIDE, "not_in_layout"))
    labeled = any(row.label is not None for row in rows.values())
    usable = {name for name, found in by_split.items() if not labeled or any(rows[s].label is not None for s in found)}
    trains, test = _choose(list(by_split), usable, options)
    if test is not None:
        layout.test_name = test
    for split, found in by_split.items():
        if split in trains or split == test:
            groups = layout.train if split in trains else layout.test
            for source in found:
                groups[rows[source].class_name].append(source)
        else:
            why = "it is neither the training nor the test split" if test is None else f"the test split is {test}"
            layout.rejected.append(RejectedFile(split, f"{len(found)} rows are not used: {why}", "not_in_layout"))
    layout.warnings = _choice_warnings(trains, test, [name for name in by_split if name not in usable])
    return layout


def _choose(names: list[str], usable: set[str], options: LayoutOptions) -> tuple[list[str], str | None]:
    """Return the splits to train on, and the one to test on."""
    if isinstance(options.splits, SplitFolders):
        return _named(names, options.splits)
    trains = [name for name in names if not name or _role(name) == "train"]
    candidates = sorted(name for name in names if name in usable and _role(name) in TEST_ORDER)
    if not trains and candidates:
        trains = [min(candidates, key=lambda name: TRAIN_ORDER.index(_order_role(name)))]
    if not trains:
        raise LayoutUnclear(
            f"no split of the tables ({quoted(names)}) is named train, val, test or similar; set "
            f'{SPLITS_POINTER[1:]} to two of them, such as {{"train": "{names[0]}"}}, or to none for all rows together'
        )
    tests = [name for name in candidates if name not in trains]
    return trains, min(tests, key=lambda name: TEST_ORDER.index(_order_role(name)), default=None)


def _named(names: list[str], splits: SplitFolders) -> tuple[list[str], str | None]:
    for field, name in (("train", splits.train), ("test", splits.test)):
        if name is not None and name.casefold() not in names:
            raise LayoutUnclear(
                f"{SPLITS_POINTER}/{field}: the tables have no split {name}; their splits are "
                f"{quoted(each or '(without a name)' for each in names)}"
            )
    return [splits.train.casefold()], None if splits.test is None else splits.test.casefold()


def _role(name: str) -> SplitRole | None:
    found = split_name(name)
    return None if found is None else found.role


def _order_role(name: str) -> SplitRole:
    role = _role(name)
    assert role is not None, "a candidate has the role of a split"
    return role


def _choice_warnings(trains: list[str], test: str | None, unlabeled: list[str]) -> list[JobWarning]:
    chosen = trains[0]
    if test is not None and chosen and _role(chosen) != "train":
        message = f"No split is named train: {chosen} is the training split, and {test} the test split."
        fix = f'Set splits to {{"train": "{test}", "test": "{chosen}"}} for the opposite.'
        return [JobWarning(code="split_chosen", field=SPLITS_POINTER, message=message, fix=fix)]
    if test is None and unlabeled:
        message = (
            f"The rows of {quoted(unlabeled)} have no labels; a fifth of {chosen or 'the rows'} is the test split."
        )
        return [JobWarning(code="split_chosen", field=SPLITS_POINTER, message=message, fix="Send labeled test rows.")]
    return []

"""Read the splits from the folders that the user names in ``splits``."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping

from core.ingest.folder_tree import Folders, name_key
from core.ingest.limits import RejectedFile
from core.ingest.split_reading import SPLITS_POINTER, SplitReading, quoted, unused_folder
from core.ingest_errors import LayoutUnclear
from core.spec.dataset_layout import SplitFolders, folder_parts


def read_named_splits(sources: Mapping[str, Folders], splits: SplitFolders) -> SplitReading:
    """Find the folders of ``splits`` at any level; what is outside of them is not used.

    Args:
        sources: Folders of each image, as in the archive.
        splits: Paths or names of the folders. A name that occurs at several levels is the outermost one; at one level
            it may occur several times, such as ``train`` in ``cat/train`` and ``dog/train``.

    Raises:
        LayoutUnclear: A folder does not exist.
    """
    test = {} if splits.test is None else _images_in(sources, splits.test, "test")
    rest = {source: parts for source, parts in sources.items() if source not in test}
    train = _images_in(rest, splits.train, "train")
    unused = Counter(parts[: 1 + _num_shared(sources)] for source, parts in rest.items() if source not in train)
    reason = f"splits names {quoted(f'{name}/' for name in (splits.train, splits.test) if name)}"
    strays = [source for source, parts in rest.items() if source not in train and not parts]
    rejected = [unused_folder("/".join(parts), count, reason) for parts, count in sorted(unused.items()) if parts]
    rejected += [RejectedFile(source, f"the image is not used: {reason}", "not_in_layout") for source in strays]
    return SplitReading(
        train, None if splits.test is None else test, splits.train, splits.test or "", rejected=rejected
    )


def _images_in(sources: Mapping[str, Folders], folder: str, split: str) -> dict[str, Folders]:
    """Return the images in a folder, with their other folders."""
    wanted = folder_parts(folder)
    for normalize in (str, name_key):
        key = tuple(map(normalize, wanted))
        depths = {source: _depth(tuple(map(normalize, parts)), key) for source, parts in sources.items()}
        found = [depth for depth in depths.values() if depth is not None]
        if found:
            level, size = min(found), len(wanted)
            inside = {source: sources[source] for source, depth in depths.items() if depth == level}
            shared = _num_shared(sources)
            return {
                source: parts[min(shared, level) : level] + parts[level + size :] for source, parts in inside.items()
            }
    names = sorted({name for parts in sources.values() for name in parts})
    near = difflib.get_close_matches(wanted[-1], names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"the folders are {quoted(names) or 'none'}"
    raise LayoutUnclear(f"{SPLITS_POINTER}/{split}: the dataset has no folder {folder}; {hint}")


def _depth(parts: Folders, wanted: Folders) -> int | None:
    """Index of the first occurrence of ``wanted`` in ``parts``."""
    last = len(parts) - len(wanted)
    return next((index for index in range(last + 1) if parts[index : index + len(wanted)] == wanted), None)


def _num_shared(sources: Mapping[str, Folders]) -> int:
    """Number of outermost folders that all images share."""
    distinct = set(sources.values())
    if not distinct:
        return 0
    first, last = min(distinct), max(distinct)
    return next(
        (index for index, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]),
        min(len(first), len(last)),
    )

"""Find images with the same decoded content: in both splits, and in classes that contradict each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from core.data.stored import SplitName
from core.ingest.folder_layout import Layout, Sample
from core.ingest.split_reading import quoted
from core.job_warnings import JobWarning


def duplicate_warnings(layout: Layout, digests: Mapping[SplitName, npt.NDArray[np.bytes_]]) -> list[JobWarning]:
    """Warn about images that occur in both splits, and about images that occur in several classes.

    Args:
        layout: The samples of each split.
        digests: The digest of the decoded content of each sample, by split, in the order of the samples.
    """
    warnings = []
    leaked = np.isin(digests["test"], digests["train"])
    if leaked.any():
        warnings.append(_across_splits(layout, digests, leaked))
    if layout.classes is not None:
        warnings += _across_classes(layout, digests)
    return warnings


def _across_splits(
    layout: Layout, digests: Mapping[SplitName, npt.NDArray[np.bytes_]], leaked: npt.NDArray[np.bool_]
) -> JobWarning:
    position = int(np.flatnonzero(leaked)[0])
    original = int(np.flatnonzero(digests["train"] == digests["test"][position])[0])
    count, total = int(leaked.sum()), len(leaked)
    example = quoted([layout.splits["test"][position].source, layout.splits["train"][original].source])
    message = (
        f"{count:,} of {total:,} test images are also in the training split, e.g. {example}. The measured accuracy is "
        "too high."
    )
    return JobWarning(code="duplicate_across_splits", message=message, fix="Remove them from one of the splits.")


def _across_classes(layout: Layout, digests: Mapping[SplitName, npt.NDArray[np.bytes_]]) -> list[JobWarning]:
    samples: Sequence[Sample] = [*layout.splits["train"], *layout.splits["test"]]
    labels = np.array([sample.label for sample in samples])
    _, groups = np.unique(np.concatenate([digests["train"], digests["test"]]), return_inverse=True)
    order = np.lexsort((labels, groups))
    contradicts = (groups[order][1:] == groups[order][:-1]) & (labels[order][1:] != labels[order][:-1])
    if not contradicts.any():
        return []
    affected = np.isin(groups, groups[order][1:][contradicts])
    first = int(np.flatnonzero(contradicts)[0])
    one, other = samples[order[first]], samples[order[first + 1]]
    assert layout.classes is not None
    example = quoted(f"{sample.source} ({layout.classes[sample.label]})" for sample in (one, other))
    count = int(affected.sum())
    message = f"{count:,} images occur in more than one class, e.g. {example}. Their labels contradict each other."
    fix = "Leave each image in one class only; an image of several classes cannot be used."
    return [JobWarning(code="duplicate_across_classes", message=message, fix=fix)]

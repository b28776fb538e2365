"""A few samples of each class, drawn from a seed, for pages that show a dataset. Imports no numpy, for the API."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable, Mapping, Sequence

SAMPLES_PER_CLASS = 24


def indices_by_label(labels: Iterable[int]) -> dict[int, Sequence[int]]:
    """Return the indices of the samples of each label, ascending."""
    found: dict[int, array[int]] = {}
    for index, label in enumerate(labels):
        if label not in found:
            found[label] = array("q")
        found[label].append(index)
    return dict(sorted(found.items()))


def choose_samples(indices: Mapping[int, Sequence[int]], seed: str) -> dict[int, Sequence[int]]:
    """Draw up to :data:`SAMPLES_PER_CLASS` indices of each label without replacement.

    Every prefix of the result is a draw too. The draw of a label depends on the seed and on this label alone.
    """
    return {label: _choose(found, f"{seed}/{label}") for label, found in indices.items()}


def _choose(indices: Sequence[int], seed: str) -> Sequence[int]:
    generator = random.Random(seed)  # noqa: S311 - no secret
    return generator.sample(indices, min(len(indices), SAMPLES_PER_CLASS))

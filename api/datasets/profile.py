"""Profile of a stored split: images by class, image sizes, and a few images of each class.

Everything follows from the records, so a profile needs no decoded image and exists for each ready dataset.
"""

from __future__ import annotations

import sys
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from api.datasets.record_files import read_range, records_range
from core.data.records import PACKED_RECORD, RECORDS_SUFFIX
from core.data.sample_choice import choose_samples, indices_by_label
from core.store.artifact_store import ArtifactStore, StoredFile

SPLITS = ("train", "test")
MAX_PROFILED_IMAGES = 8_000_000  # of a split; its records are read at once, 32 bytes each
_CACHED_SPLITS = 32
_WORDS = PACKED_RECORD.size // 4  # of 32 bits in a record
_SIZE, _LABEL, _WIDTH, _HEIGHT = 2, 4, 5, 6  # positions of the words; an image has less than 2 GiB
assert array("i").itemsize == 4


@dataclass(frozen=True, slots=True)
class SampleImage:
    """An image by its index in the split, with its size in pixels and bytes."""

    index: int
    width: int
    height: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ImageSizes:
    """Sizes of images in pixels.

    ``widths`` and ``heights`` are minimum, median and maximum; ``num_distinct`` counts the pairs of width and height.
    ``shorter_sides`` has the number of images by the power of two that the shorter side does not exceed, ascending.
    """

    widths: tuple[int, int, int]
    heights: tuple[int, int, int]
    num_distinct: int
    shorter_sides: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class SplitProfile:
    """Images of a split.

    ``counts`` has the number of images by label, ``samples`` a few images of each label.
    Labels are indices of classes; -1 is unlabeled. ``sizes`` is None for a split without images.
    """

    num_images: int
    size_bytes: int
    counts: Mapping[int, int]
    samples: Mapping[int, Sequence[SampleImage]]
    sizes: ImageSizes | None


def read_profiles(store: ArtifactStore, files: Sequence[StoredFile], seed: str) -> dict[str, SplitProfile]:
    """Return the profile of each split of a dataset with these files; none of a split with too many images.

    ``seed`` chooses the sample images. Raises ``StorageFailed``.
    """
    keys = {file.name: file.key for file in files}
    found = {}
    for split in SPLITS:
        if (key := keys.get(f"{split}{RECORDS_SUFFIX}")) is not None:
            profile = _read_profile(store, key, f"{seed}/{split}")
            if profile is not None:
                found[split] = profile
    return found


@lru_cache(maxsize=_CACHED_SPLITS)  # a stored file never changes
def _read_profile(store: ArtifactStore, key: str, seed: str) -> SplitProfile | None:
    start, num_images = records_range(store, key)
    if num_images > MAX_PROFILED_IMAGES:
        return None
    words = array("i")
    words.frombytes(read_range(store, key, start, num_images * PACKED_RECORD.size))
    if sys.byteorder == "big":
        words.byteswap()  # records are little-endian
    sizes, labels = words[_SIZE::_WORDS], words[_LABEL::_WORDS]
    widths, heights = words[_WIDTH::_WORDS], words[_HEIGHT::_WORDS]
    indices = indices_by_label(labels)
    samples = {
        label: [SampleImage(index, widths[index], heights[index], sizes[index]) for index in chosen]
        for label, chosen in choose_samples(indices, seed).items()
    }
    return SplitProfile(
        num_images=num_images,
        size_bytes=sum(sizes),
        counts={label: len(found) for label, found in indices.items()},
        samples=samples,
        sizes=_image_sizes(Counter(zip(widths, heights, strict=True))),
    )


def _image_sizes(counts: Mapping[tuple[int, int], int]) -> ImageSizes | None:
    if not counts:
        return None
    widths, heights, shorter_sides = Counter[int](), Counter[int](), Counter[int]()
    for (width, height), count in counts.items():
        widths[width] += count
        heights[height] += count
        shorter_sides[1 << (min(width, height) - 1).bit_length()] += count
    return ImageSizes(_three(widths), _three(heights), len(counts), dict(sorted(shorter_sides.items())))


def _three(counts: Mapping[int, int]) -> tuple[int, int, int]:
    """Return minimum, (lower) median and maximum of values with their counts."""
    values = sorted(counts)
    half, seen = (sum(counts.values()) + 1) // 2, 0
    for median in values:
        seen += counts[median]
        if seen >= half:
            break
    return values[0], median, values[-1]

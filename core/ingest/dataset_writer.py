"""Write a stored dataset: images one by one, then the index."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from core.data.deep_images import ValueRange
from core.data.records import BLOB, PACKED_RECORD
from core.data.stored import FORMAT, INDEX, RECORD, Index, SplitIndex, SplitName, StoredFile
from core.ingest.folder_layout import Layout, Sample
from core.ingest.image_check import DIGEST_BYTES, CheckedImage

_EIGHT_BITS = -1  # instead of the largest value of a deep image
_MIN_SQUARE_FRACTION = (2, 3)  # of an image's area: a center square below it loses more than a third
MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 4, 224  # minimum of a spec's image_size; the common size of pretrained models


class DatasetWriter:
    """Appends images to ``images.bin``; holds the path and 70 bytes per image in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._blob = (folder / BLOB).open("xb")
        self._offset = 0
        self._positions: dict[str, int] = {}
        self._records = bytearray()
        self._digests = bytearray()
        self._has_color = bytearray()
        self._max_values = array("i")

    def __contains__(self, path: str) -> bool:
        return path in self._positions

    def paths(self) -> Sequence[str]:
        """The paths of the added images, in insertion order."""
        return list(self._positions)

    def add(self, path: str, content: bytes, image: CheckedImage) -> None:
        """Append one image file; ``image`` has the properties of its content."""
        assert path not in self
        self._positions[path] = len(self._positions)
        self._blob.write(content)
        self._records += PACKED_RECORD.pack(self._offset, len(content), 0, image.width, image.height, image.crc32)
        self._digests += image.digest
        self._has_color.append(not image.is_grayscale)
        self._max_values.append(_EIGHT_BITS if image.max_value is None else image.max_value)
        self._offset += len(content)

    def finish(self, layout: Layout, *, name: str) -> Index:
        """Write the splits and the index. Images that are not in ``layout`` stay in the blob without an index entry."""
        self._blob.close()
        rows_by_split = {split: self._rows(samples) for split, samples in layout.splits.items()}
        all_rows = np.concatenate(list(rows_by_split.values()))
        has_color = np.frombuffer(self._has_color, dtype=np.bool_)[all_rows].any()
        max_values = np.frombuffer(self._max_values, dtype=np.int32)[all_rows]
        records = np.frombuffer(self._records, dtype=RECORD)
        index = Index(
            format=FORMAT,
            name=name,
            classes=layout.classes,
            channels=3 if has_color else 1,
            image_size=_default_image_size(records[rows_by_split["train"]]),
            value_range=_value_range(max_values),
            deep_fraction=float(np.mean(max_values != _EIGHT_BITS)),
            cropped_fraction=_cropped_fraction(records[all_rows]),
            fingerprint=self._fingerprint(layout, rows_by_split),
            size_bytes=self._offset,
            splits={
                split: self._write_split(split, layout.splits[split], rows) for split, rows in rows_by_split.items()
            },
        )
        (self._folder / INDEX).write_text(index.model_dump_json(indent=1))
        return index

    def digests(self, layout: Layout) -> dict[SplitName, npt.NDArray[np.bytes_]]:
        """BLAKE3 digests of the decoded content of each sample, by split, in the order of the samples."""
        digests = np.frombuffer(self._digests, dtype=f"S{DIGEST_BYTES}")
        return {split: digests[self._rows(samples)] for split, samples in layout.splits.items()}

    def close(self) -> None:
        """Close the blob; also needed when the ingestion fails."""
        self._blob.close()

    def _rows(self, samples: Sequence[Sample]) -> npt.NDArray[np.int64]:
        return np.array([self._positions[sample.source] for sample in samples], dtype=np.int64)

    def _write_split(self, split: SplitName, samples: Sequence[Sample], rows: npt.NDArray[np.int64]) -> SplitIndex:
        records = np.frombuffer(self._records, dtype=RECORD)[rows]
        records["label"] = _labels(samples)
        records_name, paths_name = f"{split}.npy", f"{split}.paths"
        np.save(self._folder / records_name, records)
        (self._folder / paths_name).write_bytes("".join(f"{sample.path}\0" for sample in samples).encode())
        return SplitIndex(
            num_samples=len(samples), records=self._stored_file(records_name), paths=self._stored_file(paths_name)
        )

    def _stored_file(self, name: str) -> StoredFile:
        return StoredFile(name=name, sha256=hashlib.sha256((self._folder / name).read_bytes()).hexdigest())

    def _fingerprint(self, layout: Layout, chosen: Mapping[SplitName, npt.NDArray[np.int64]]) -> str:
        """SHA-256 over class names and, per split in path order, labels and decoded values.

        Packing, compression, file names and rejected files do not change it. The values of deep images are those of
        the files; they determine ``value_range``, so equal fingerprints mean equal pixels.
        """
        digests = np.frombuffer(self._digests, dtype=np.uint8).reshape(-1, DIGEST_BYTES)
        total = hashlib.sha256(json.dumps(layout.classes).encode())
        for split in ("train", "test"):
            rows = chosen[split]
            total.update(f"\n{split} {len(rows)}\n".encode())
            total.update(_labels(layout.splits[split]).tobytes())
            total.update(digests[rows].tobytes())
        return total.hexdigest()


def _labels(samples: Sequence[Sample]) -> npt.NDArray[np.int32]:
    return np.array([sample.label for sample in samples], dtype="<i4")


def _default_image_size(records: npt.NDArray[np.void]) -> int:
    """Median shorter side of the images, clipped to ``[MIN_IMAGE_SIZE, MAX_IMAGE_SIZE]``."""
    median = int(np.median(np.minimum(records["width"], records["height"])))
    return min(max(median, MIN_IMAGE_SIZE), MAX_IMAGE_SIZE)


def _value_range(max_values: npt.NDArray[np.int32]) -> ValueRange | None:
    """The range of the images with more than 8 bits per channel; None if there are none."""
    largest = int(max_values.max())
    return None if largest == _EIGHT_BITS else ValueRange.covering(largest)


def _cropped_fraction(records: npt.NDArray[np.void]) -> float:
    """Fraction of images that lose more than a third of their area by the crop to the square at the center."""
    shorter = np.minimum(records["width"], records["height"]).astype(np.int64)
    longer = np.maximum(records["width"], records["height"]).astype(np.int64)
    numerator, denominator = _MIN_SQUARE_FRACTION
    return float(np.mean(denominator * shorter < numerator * longer))

"""Stored dataset: the original image files in one blob, with an index. Torch-free.

A folder with

* ``index.json``: the dataset's properties (:class:`Index`), written last;
* ``images.bin``: the encoded images as uploaded, concatenated in no particular order;
* ``<split>.npy``: one record per sample (``RECORD``), ordered by path;
* ``<split>.paths``: the samples' paths, UTF-8, each terminated by a NUL byte.

``index.json`` has the digests of the small files, and each record the CRC-32 of its image. So damage is detected when
a dataset is opened or a sample is read, before any training uses it.
"""

from __future__ import annotations

import hashlib
import io
import mmap
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.data.deep_images import MAX_VALUE, ValueRange
from core.data.images import BrokenImage, decode
from core.data.records import BLOB, FIELDS
from core.errors import StorageFailed
from core.spec.info import DatasetInfo

FORMAT = 1
INDEX = "index.json"
UNLABELED = -1  # the label of every sample of a dataset without classes
RECORD = np.dtype(FIELDS)

SplitName = Literal["train", "test"]


class StoredFile(BaseModel):
    """Name and expected digest of one small file of a stored dataset."""

    model_config = ConfigDict(frozen=True)

    name: str
    sha256: str


class SplitIndex(BaseModel):
    """Files of one split."""

    model_config = ConfigDict(frozen=True)

    num_samples: int = Field(ge=1)
    records: StoredFile
    paths: StoredFile


class Index(BaseModel):
    """The content of ``index.json``.

    Attributes:
        value_range: Range of the images with more than 8 bits per channel: its ``max`` is decoded as 255. None for a
            dataset without such images.
        deep_fraction: Fraction of images with more than 8 bits per channel.
        cropped_fraction: Fraction of images that lose more than a third of their area by the crop to a square.
    """

    model_config = ConfigDict(frozen=True)

    format: Literal[1]
    name: str
    classes: tuple[str, ...] | None
    channels: Literal[1, 3]
    image_size: int = Field(ge=1)
    value_range: ValueRange | None = None
    deep_fraction: float = Field(default=0.0, ge=0, le=1)
    cropped_fraction: float = Field(default=0.0, ge=0, le=1)
    fingerprint: str
    size_bytes: int = Field(ge=1)
    splits: dict[SplitName, SplitIndex]


class StoredSplit:
    """The samples of one split, ordered by path. Safe to read from several threads.

    ``max_image_size`` is the largest shorter side of an image: no larger square has more detail.
    """

    def __init__(
        self, name: SplitName, records: npt.NDArray[np.void], paths: tuple[str, ...], blob: mmap.mmap, index: Index
    ) -> None:
        self.name = name
        self.paths = paths
        self.labels: npt.NDArray[np.int64] = records["label"].astype(np.int64)
        self._records = records
        self._blob = blob
        self.max_image_size = int(np.minimum(records["width"], records["height"]).max())
        self._mode = "L" if index.channels == 1 else "RGB"
        self._max_value = MAX_VALUE if index.value_range is None else index.value_range.max

    def __len__(self) -> int:
        return len(self._records)

    def encoded(self, index: int) -> bytes:
        """Return the uploaded image file of one sample. Raises :class:`StorageFailed` if it is damaged."""
        record = self._records[index]
        start = int(record["offset"])
        content = self._blob[start : start + int(record["size"])]
        if zlib.crc32(content) != int(record["crc32"]):
            raise StorageFailed(f"the stored image {self.paths[index]} is damaged; upload the dataset again")
        return content

    def read(self, index: int, *, min_side: int | None = None) -> Image.Image:
        """Decode one sample: mode ``L`` for a dataset with one channel, else ``RGB``.

        ``min_side`` is that of :func:`core.data.images.decode`. Raises :class:`StorageFailed`.
        """
        content = self.encoded(index)
        max_pixels = int(self._records["width"][index]) * int(self._records["height"][index])
        try:
            image = decode(content, max_pixels=max_pixels, min_side=min_side, max_value=self._max_value)
        except BrokenImage as error:  # the ingestion had decoded it
            raise StorageFailed(f"the stored image {self.paths[index]} cannot be read here: {error}") from error
        return image if image.mode == self._mode else image.convert(self._mode)


class StoredDataset:
    """An opened stored dataset."""

    def __init__(self, folder: Path, index: Index, blob: mmap.mmap, splits: Mapping[SplitName, StoredSplit]) -> None:
        self.folder = folder
        self.name = index.name
        self.classes = index.classes
        self.num_classes = None if index.classes is None else len(index.classes)
        self.channels = index.channels
        self.image_size = index.image_size
        self.value_range = index.value_range
        self.fingerprint = index.fingerprint
        self.max_image_size = max(split.max_image_size for split in splits.values())
        self.splits = {str(name): {"num_samples": len(split)} for name, split in splits.items()}
        self._blob = blob
        self._splits = dict(splits)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a stored dataset and check that its files are consistent.

        Raises :class:`StorageFailed` if a file is missing, damaged or of another version.
        """
        index = _read_index(folder / INDEX)
        blob = _map_blob(folder / BLOB, index.size_bytes)
        try:
            splits = {name: _open_split(folder, name, entry, index, blob) for name, entry in index.splits.items()}
        except BaseException:
            blob.close()
            raise
        return cls(folder, index, blob, splits)

    def split(self, name: SplitName) -> StoredSplit:
        """Return a split. Every stored dataset has ``train`` and ``test``."""
        return self._splits[name]

    @property
    def description(self) -> dict[str, Any]:
        """Name, content and sizes for a report, as JSON."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "num_train": len(self.split("train")),
            "num_test": len(self.split("test")),
            "num_classes": self.num_classes,
            "channels": self.channels,
        }

    def close(self) -> None:
        """Unmap the blob; splits cannot be read afterwards."""
        self._blob.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _read_index(path: Path) -> Index:
    try:
        return Index.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise StorageFailed(f"{path.parent} is not a stored dataset: {INDEX} is missing") from None
    except ValidationError as error:
        problem: Any = error.errors(include_url=False)[0]
        raise StorageFailed(f"{path} is damaged or of another version: {problem['loc']}: {problem['msg']}") from None


def _map_blob(path: Path, size_bytes: int) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            blob = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (FileNotFoundError, ValueError):  # ValueError: an empty file cannot be mapped
        raise StorageFailed(f"{path} is missing or empty") from None
    if len(blob) != size_bytes:
        actual = len(blob)
        blob.close()
        raise StorageFailed(f"{path} has {actual} bytes, {size_bytes} are expected; the copy is incomplete")
    return blob


def _open_split(folder: Path, name: SplitName, entry: SplitIndex, index: Index, blob: mmap.mmap) -> StoredSplit:
    records = np.load(io.BytesIO(_read_verified(folder, entry.records)), allow_pickle=False)
    paths = tuple(_read_verified(folder, entry.paths).decode().split("\0")[:-1])
    num_classes = 0 if index.classes is None else len(index.classes)
    if records.dtype != RECORD or records.shape != (entry.num_samples,) or len(paths) != entry.num_samples:
        raise StorageFailed(f"the {name} split in {folder} does not match {INDEX}")
    ends = records["offset"] + records["size"]
    labels = records["label"]
    min_label, max_label = (UNLABELED, UNLABELED) if index.classes is None else (0, num_classes - 1)
    if records["offset"].min() < 0 or ends.max() > len(blob) or labels.min() < min_label or labels.max() > max_label:
        raise StorageFailed(f"the {name} split in {folder} points outside its images or classes")
    return StoredSplit(name, records, paths, blob, index)


def _read_verified(folder: Path, file: StoredFile) -> bytes:
    try:
        content = (folder / file.name).read_bytes()
    except FileNotFoundError:
        raise StorageFailed(f"{folder / file.name} is missing") from None
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise StorageFailed(f"{folder / file.name} is damaged: its digest differs from {INDEX}")
    return content


def read_dataset_info(folder: Path) -> DatasetInfo:
    """Read the properties of a stored dataset that a spec is resolved with. Raises ``StorageFailed``."""
    with StoredDataset.open(folder) as stored:
        return DatasetInfo(
            num_classes=stored.num_classes,
            classes=stored.classes,
            channels=stored.channels,
            image_size=stored.image_size,
            num_train=len(stored.split("train")),
            num_test=len(stored.split("test")),
        )


def dataset_fingerprints(datasets: Mapping[str, str], folders: Mapping[str, Path]) -> dict[str, str]:
    """Return the fingerprint of each of ``datasets``, which names one of ``folders`` for each key."""
    fingerprints = {}
    for key, reference in datasets.items():
        with StoredDataset.open(folders[reference]) as stored:
            fingerprints[key] = stored.fingerprint
    return fingerprints

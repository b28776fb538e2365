"""A stored dataset: the original image files in one blob, with an index. Torch-free.

A folder with

* ``index.json``: what the dataset is (:class:`Index`), written last;
* ``images.bin``: the encoded images as they came, one behind another, in no particular order;
* ``<split>.npy``: one record a sample (``RECORD``), samples ordered by path;
* ``<split>.paths``: the samples' paths, UTF-8, each ended by a NUL byte.

``index.json`` holds the digests of the small files, every record the CRC-32 of its image, so damage
is noticed when a dataset is opened or a sample is read, and never trains anything.
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

from core.data.images import BrokenImage, decode
from core.errors import StorageFailed

FORMAT = 1
INDEX = "index.json"
BLOB = "images.bin"
UNLABELLED = -1  # the label of every sample of a dataset without classes

RECORD = np.dtype(
    [("offset", "<i8"), ("size", "<i8"), ("label", "<i4"), ("width", "<i4"), ("height", "<i4"), ("crc32", "<u4")]
)

SplitName = Literal["train", "test"]


class StoredFile(BaseModel):
    """One small file of a stored dataset, as it must be found."""

    model_config = ConfigDict(frozen=True)

    name: str
    sha256: str


class SplitIndex(BaseModel):
    """One split."""

    model_config = ConfigDict(frozen=True)

    num_samples: int = Field(ge=1)
    records: StoredFile
    paths: StoredFile


class Index(BaseModel):
    """The content of ``index.json``."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1]
    name: str
    classes: tuple[str, ...] | None
    channels: Literal[1, 3]
    image_size: int = Field(ge=1)
    fingerprint: str
    size_bytes: int = Field(ge=1)
    splits: dict[SplitName, SplitIndex]


class StoredSplit:
    """The samples of one split, ordered by path. Safe to read from several threads."""

    def __init__(
        self, name: SplitName, records: npt.NDArray[np.void], paths: tuple[str, ...], blob: mmap.mmap, channels: int
    ) -> None:
        self.name = name
        self.paths = paths
        self.labels: npt.NDArray[np.int64] = records["label"].astype(np.int64)
        self._records = records
        self._blob = blob
        self._mode = "L" if channels == 1 else "RGB"

    def __len__(self) -> int:
        return len(self._records)

    def encoded(self, index: int) -> bytes:
        """The image file of one sample, as it was uploaded. Raises :class:`StorageFailed` if it is damaged."""
        record = self._records[index]
        start = int(record["offset"])
        content = self._blob[start : start + int(record["size"])]
        if zlib.crc32(content) != int(record["crc32"]):
            raise StorageFailed(f"the stored image {self.paths[index]} is damaged; upload the dataset again")
        return content

    def read(self, index: int) -> Image.Image:
        """One decoded picture, mode ``L`` (a dataset of one channel) or ``RGB``."""
        content = self.encoded(index)
        pixels = int(self._records["width"][index]) * int(self._records["height"][index])
        try:
            picture = decode(content, max_pixels=pixels)
        except BrokenImage as error:  # it was readable when it was stored
            raise StorageFailed(f"the stored image {self.paths[index]} cannot be read here: {error}") from error
        return picture if picture.mode == self._mode else picture.convert(self._mode)


class StoredDataset:
    """An opened stored dataset."""

    def __init__(self, folder: Path, index: Index, blob: mmap.mmap, splits: Mapping[SplitName, StoredSplit]) -> None:
        self.folder = folder
        self.name = index.name
        self.classes = index.classes
        self.num_classes = None if index.classes is None else len(index.classes)
        self.channels = index.channels
        self.image_size = index.image_size
        self.fingerprint = index.fingerprint
        self.splits = {str(name): {"num_samples": len(split)} for name, split in splits.items()}
        self._blob = blob
        self._splits = dict(splits)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a stored dataset and check that its files fit together.

        Raises :class:`StorageFailed` where a file is missing, damaged or of another version.
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
        """``train`` or ``test``; both exist in every stored dataset."""
        return self._splits[name]

    def close(self) -> None:
        """Let go of the mapped file; splits cannot be read afterwards."""
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
        found = len(blob)
        blob.close()
        raise StorageFailed(f"{path} has {found} bytes, {size_bytes} are expected; it was not copied whole")
    return blob


def _open_split(folder: Path, name: SplitName, entry: SplitIndex, index: Index, blob: mmap.mmap) -> StoredSplit:
    records = np.load(io.BytesIO(_checked(folder, entry.records)), allow_pickle=False)
    paths = tuple(_checked(folder, entry.paths).decode().split("\0")[:-1])
    num_classes = 0 if index.classes is None else len(index.classes)
    if records.dtype != RECORD or records.shape != (entry.num_samples,) or len(paths) != entry.num_samples:
        raise StorageFailed(f"the {name} split in {folder} does not have the form that {INDEX} says")
    ends = records["offset"] + records["size"]
    labels = records["label"]
    least, most = (UNLABELLED, UNLABELLED) if index.classes is None else (0, num_classes - 1)
    if records["offset"].min() < 0 or ends.max() > len(blob) or labels.min() < least or labels.max() > most:
        raise StorageFailed(f"the {name} split in {folder} points outside its images or classes")
    return StoredSplit(name, records, paths, blob, index.channels)


def _checked(folder: Path, file: StoredFile) -> bytes:
    try:
        content = (folder / file.name).read_bytes()
    except FileNotFoundError:
        raise StorageFailed(f"{folder / file.name} is missing") from None
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise StorageFailed(f"{folder / file.name} is damaged: its digest is not the one in {INDEX}")
    return content

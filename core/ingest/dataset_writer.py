"""Writing a stored dataset: images as they come, the index when all are known."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from core.data.stored import BLOB, FORMAT, INDEX, RECORD, Index, SplitIndex, SplitName, StoredFile
from core.ingest.folder_layout import Layout, Placed

_PACK = struct.Struct("<qqiiiI")  # one RECORD
_DIGEST = 32
MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 4, 224  # the least that a spec may ask for; the usual size of pretrained models


class StoredWriter:
    """Appends images to ``images.bin``; remembers 64 bytes and the path of each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._blob = (folder / BLOB).open("xb")
        self._offset = 0
        self._places: dict[str, int] = {}
        self._records = bytearray()
        self._digests = bytearray()
        self._coloured = bytearray()

    def __contains__(self, path: str) -> bool:
        return path in self._places

    def paths(self) -> Sequence[str]:
        """The paths of all images so far, in the order in which they came."""
        return list(self._places)

    def add(self, path: str, content: bytes, picture: Image.Image) -> None:
        """Store one image file; ``picture`` is what it decodes to, mode ``L`` or ``RGB``."""
        assert path not in self
        self._places[path] = len(self._places)
        self._blob.write(content)
        width, height = picture.size
        self._records += _PACK.pack(self._offset, len(content), 0, width, height, zlib.crc32(content))
        header = f"{picture.mode} {width} {height}\n".encode()
        self._digests += hashlib.sha256(header + picture.tobytes()).digest()
        self._coloured.append(picture.mode != "L")
        self._offset += len(content)

    def finish(self, layout: Layout, *, name: str) -> Index:
        """Write the splits and the index; what ``layout`` does not name stays unreachable in the blob."""
        self._blob.close()
        chosen = {split: self._rows(placed) for split, placed in layout.splits.items()}
        everything = np.concatenate(list(chosen.values()))
        coloured = np.frombuffer(self._coloured, dtype=np.bool_)[everything].any()
        train = np.frombuffer(self._records, dtype=RECORD)[chosen["train"]]
        index = Index(
            format=FORMAT,
            name=name,
            classes=layout.classes,
            channels=3 if coloured else 1,
            image_size=_usual_size(train),
            fingerprint=self._fingerprint(layout, chosen),
            size_bytes=self._offset,
            splits={split: self._write_split(split, layout.splits[split], rows) for split, rows in chosen.items()},
        )
        (self._folder / INDEX).write_text(index.model_dump_json(indent=1))
        return index

    def close(self) -> None:
        """Let go of the blob, also where the dataset is given up."""
        self._blob.close()

    def _rows(self, placed: Sequence[Placed]) -> npt.NDArray[np.int64]:
        return np.array([self._places[sample.source] for sample in placed], dtype=np.int64)

    def _write_split(self, split: SplitName, placed: Sequence[Placed], rows: npt.NDArray[np.int64]) -> SplitIndex:
        records = np.frombuffer(self._records, dtype=RECORD)[rows]
        records["label"] = _labels(placed)
        records_name, paths_name = f"{split}.npy", f"{split}.paths"
        np.save(self._folder / records_name, records)
        (self._folder / paths_name).write_bytes("".join(f"{sample.path}\0" for sample in placed).encode())
        return SplitIndex(
            num_samples=len(placed), records=self._described(records_name), paths=self._described(paths_name)
        )

    def _described(self, name: str) -> StoredFile:
        return StoredFile(name=name, sha256=hashlib.sha256((self._folder / name).read_bytes()).hexdigest())

    def _fingerprint(self, layout: Layout, chosen: Mapping[SplitName, npt.NDArray[np.int64]]) -> str:
        """SHA-256 over class names and, per split in the order of paths, labels and decoded pixels.

        Neither packing, compression, file names as such nor rejected files count.
        """
        digests = np.frombuffer(self._digests, dtype=np.uint8).reshape(-1, _DIGEST)
        total = hashlib.sha256(json.dumps(layout.classes).encode())
        for split in ("train", "test"):
            rows = chosen[split]
            total.update(f"\n{split} {len(rows)}\n".encode())
            total.update(_labels(layout.splits[split]).tobytes())
            total.update(digests[rows].tobytes())
        return total.hexdigest()


def _labels(placed: Sequence[Placed]) -> npt.NDArray[np.int32]:
    return np.array([sample.label for sample in placed], dtype="<i4")


def _usual_size(records: npt.NDArray[np.void]) -> int:
    """The median shorter side of the images, within what models usually take."""
    median = int(np.median(np.minimum(records["width"], records["height"])))
    return min(max(median, MIN_IMAGE_SIZE), MAX_IMAGE_SIZE)

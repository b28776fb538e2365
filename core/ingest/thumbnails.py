"""``python -m core.ingest.thumbnails``: small versions of the large images that pages show, in a separate process.

A page shows a few images of each class (``core.data.sample_choice``). Those whose files are large get a thumbnail:
``thumbnails.bin`` has JPEG files one after the other, and ``thumbnails.json`` their positions, as
``{"train": {"12": [offset, size]}}``.

stdin: JSON (:class:`ThumbnailRequest`). stdout: ``{"ok": {"num_thumbnails": …}}`` or ``{"error": {…}}``. The caller
limits memory and time. The process can read the dataset and write to ``out_folder``, nothing else.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from core.data.decoding import center_square
from core.data.records import RECORDS_SUFFIX, THUMBNAIL_INDEX, THUMBNAILS
from core.data.sample_choice import SAMPLES_PER_CLASS, choose_samples, indices_by_label
from core.data.stored import SplitName, StoredDataset
from core.errors import OutOfMemory, PotstillError, error_document
from core.spec.document import StrictModel
from core.system.sandbox import enter_sandbox

SIDE = 168  # pixels: twice those of a page, for dense displays
MIN_BYTES = 16_000  # a smaller file is shown itself
MAX_THUMBNAILS = 2_000
_SPLITS: tuple[SplitName, ...] = ("train", "test")
_JPEG_QUALITY = 80


class ThumbnailRequest(StrictModel):
    """The stored dataset in ``folder``, the indices of its images by split, and the folder to write to."""

    folder: Path
    out_folder: Path
    indices: dict[SplitName, list[int]]


def choose_images(folder: Path, seed: str) -> dict[SplitName, list[int]]:
    """Return the indices of the images of a stored dataset that need a thumbnail, by split; empty if none does."""
    found: dict[SplitName, list[int]] = {}
    for split in _SPLITS:
        records = np.load(folder / f"{split}{RECORDS_SUFFIX}", allow_pickle=False)
        chosen = choose_samples(indices_by_label(records["label"].tolist()), f"{seed}/{split}")
        per_class = min(SAMPLES_PER_CLASS, max(1, MAX_THUMBNAILS // (len(_SPLITS) * max(1, len(chosen)))))
        sizes = records["size"]
        indices = [index for samples in chosen.values() for index in samples[:per_class] if sizes[index] >= MIN_BYTES]
        if indices:
            found[split] = sorted(indices[: MAX_THUMBNAILS // len(_SPLITS)])
    return found


def write_thumbnails(request: ThumbnailRequest) -> int:
    """Write the thumbnails; return their number. Raises ``StorageFailed`` for a damaged dataset."""
    positions: dict[str, dict[int, tuple[int, int]]] = {}
    with StoredDataset.open(request.folder) as dataset, (request.out_folder / THUMBNAILS).open("xb") as blob:
        for name, indices in request.indices.items():
            split = dataset.split(name)
            for index in indices:
                content = io.BytesIO()
                thumbnail = center_square(split.read(index, min_side=SIDE), SIDE)
                thumbnail.save(content, format="JPEG", quality=_JPEG_QUALITY, optimize=True)
                positions.setdefault(name, {})[index] = (blob.tell(), content.tell())
                blob.write(content.getvalue())
    (request.out_folder / THUMBNAIL_INDEX).write_text(json.dumps(positions))
    return sum(len(found) for found in positions.values())


def main(source: TextIO, target: TextIO) -> None:
    """Read a request from ``source``, sandbox this process, write the result to ``target``."""
    request = ThumbnailRequest.model_validate_json(source.read())
    enter_sandbox(readable=[request.folder], writable=[request.out_folder])
    target.write(json.dumps(_result(request)) + "\n")


def _result(request: ThumbnailRequest) -> Mapping[str, Any]:
    try:
        return {"ok": {"num_thumbnails": write_thumbnails(request)}}
    except PotstillError as error:
        return {"error": error_document(error)}
    except MemoryError:
        return {"error": error_document(OutOfMemory("There was not enough memory to make thumbnails."))}


if __name__ == "__main__":
    main(sys.stdin, sys.stdout)

"""The inspector's call ``predict``: the classes that a job's student, and its small teachers, predict for one image.

The image is untrusted: a sandboxed process decodes it, and this process reads only arrays of pixels. The networks are
stored models, which this service wrote or has checked.
"""

from __future__ import annotations

import base64
import tempfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from core.broker import InspectorTimeout
from core.errors import ProcessLost, StorageFailed, StoredFileDamaged, WeightsMismatch
from core.ingest.image_main import pixels_path
from core.ingest_errors import ImageUnreadable
from core.models.built import BuiltModel
from core.models.weights import load_folder
from core.reporting import Control
from core.store.artifact_store import StoredFile, parse_stored_files
from worker.context import Context, current_context
from worker.ingest.sandboxed import ProcessLimits, SandboxCrashed, SandboxTimeout, run_sandboxed
from worker.stored_files import link_folder

NUM_CLASSES = 5  # most probable ones of an answer
_LOADED_BYTES = 1024**3  # of the networks that stay loaded for the next images
_DECODE_SECONDS = 4.0  # of processor time
_DECODE_WALL_SECONDS = 6.0
_DECODE_BYTES = 1024**3

_loaded: OrderedDict[str, BuiltModel] = OrderedDict()  # by the SHA-256 of the weights, least recently used first


def predict(payload: dict[str, Any]) -> dict[str, Any]:
    """Return the most probable classes of each network for an image.

    ``payload`` has the ``image`` as base64, and ``student`` and ``teachers`` (by index, as text) as the documents of
    their stored files. Raises :class:`ImageUnreadable`, :class:`StorageFailed` for lost or damaged files, and
    :class:`InspectorTimeout` if the machine is too busy to decode the image in time.
    """
    context = current_context()
    work = context.settings.home.resolve() / "work"
    work.mkdir(mode=0o700, parents=True, exist_ok=True)
    documents = {"student": payload["student"], **payload["teachers"]}
    with tempfile.TemporaryDirectory(prefix="predict-", dir=work) as scratch:
        networks = {name: _load(context, files, Path(scratch) / "models" / name) for name, files in documents.items()}
        sizes = sorted({network.preprocessing.image_size for network in networks.values()})
        pixels = Path(scratch) / "pixels"
        decoded = _decode(context, base64.b64decode(payload["image"]), sizes, Path(scratch), pixels)
        names = networks["student"].classes
        answers = {
            name: _top_classes(network, pixels, names) for name, network in networks.items() if network.num_classes
        }
    return {**decoded, "student": answers.pop("student"), "teachers": answers}


def _load(context: Context, documents: Sequence[Mapping[str, Any]], folder: Path) -> BuiltModel:
    """Load a stored model, or return it from memory."""
    files = parse_stored_files(documents)
    key = next(file.sha256 for file in files if file.name == "model.safetensors")
    if key not in _loaded:
        _loaded[key] = _load_files(context, files, folder)
    _loaded.move_to_end(key)
    while len(_loaded) > 1 and sum(map(_num_bytes, _loaded.values())) > _LOADED_BYTES:
        _loaded.popitem(last=False)
    return _loaded[key]


def _load_files(context: Context, files: Sequence[StoredFile], folder: Path) -> BuiltModel:
    with context.input_cache as cache:
        linked = link_folder(context.store, files, folder)
        try:
            return load_folder(linked or cache.fetch(files, folder, lambda: None))
        except (WeightsMismatch, SafetensorError, KeyError) as error:  # this service wrote or checked these files
            raise StoredFileDamaged(f"The stored file {files[0].key} or one beside it is damaged: {error!r}") from error
        except OSError as error:
            raise StorageFailed(f"The stored file {files[0].key} cannot be read: {error!r}") from error


def _num_bytes(network: BuiltModel) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in network.module.state_dict().values())


def _decode(context: Context, content: bytes, sizes: Sequence[int], scratch: Path, out: Path) -> dict[str, Any]:
    """Decode the image at these sizes to the new folder ``out``; return its width and height in pixels."""
    file, process = scratch / "image", scratch / "decode"
    file.write_bytes(content)
    process.mkdir()
    out.mkdir()
    request = {
        "file": str(file),
        "out_folder": str(out),
        "sizes": list(sizes),
        "max_pixels": context.settings.max_image_pixels,
    }
    limits = ProcessLimits(
        memory_bytes=_DECODE_BYTES, file_bytes=0, seconds=_DECODE_SECONDS, wall_seconds=_DECODE_WALL_SECONDS
    )
    try:
        return run_sandboxed("core.ingest.image_main", request, limits, scratch=process, control=lambda: Control.GO)
    except ProcessLost:
        raise InspectorTimeout("The machine is too busy to decode the image; try again soon.") from None
    except SandboxTimeout:
        raise ImageUnreadable.for_field("/file", "decoding it takes too long; save it again, or smaller") from None
    except SandboxCrashed:
        raise ImageUnreadable.for_field("/file", "the image makes its decoder crash; save it again") from None


def _top_classes(network: BuiltModel, folder: Path, student_names: Sequence[str] | None) -> list[dict[str, Any]]:
    """Return the most probable classes of the decoded image, the first one first.

    A network of as many classes as the student but without names has the student's.
    """
    size = network.preprocessing.image_size
    pixels = np.load(pixels_path(folder, size), allow_pickle=False)
    if pixels.dtype != np.uint8 or pixels.shape not in {(1, size, size), (3, size, size)}:
        raise ImageUnreadable.for_field("/file", "its decoder returned no image; save it again")
    with torch.inference_mode():
        probabilities = network(torch.from_numpy(pixels)[None].float() / 255)[0].softmax(dim=0)
    values, indices = probabilities.topk(min(NUM_CLASSES, len(probabilities)))
    names = network.classes or student_names
    is_named = names is not None and len(names) == len(probabilities)
    return [
        {"index": index, "class": names[index] if names and is_named else str(index), "probability": value}
        for index, value in zip(indices.tolist(), values.tolist(), strict=True)
    ]

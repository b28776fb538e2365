"""Training on photographs of 224 pixels against other ways of reading them.

The engine trains a student from images decoded once, and decoded on demand. A plain PyTorch loop trains it from the
same JPEG files with `ImageFolder` and `DataLoader`, with timm's loader, and from a memory map of decoded images with
`DataLoader` (as FFCV does, which is not installed). These have two worker processes. All train with the same threads,
batch size, loss and fused AdamW, and mirror and shift or crop the images. Epochs after the first, in alternating order.
The engine's epochs include its metrics, checkpoints and validation for display; the loop has none of them.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from timm.data import ImageDataset, create_loader
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks.engine import JobInputs, run
from benchmarks.figures import Figure, ratio, save_figures
from benchmarks.images import stored_photographs
from benchmarks.workload import TimingReporter, steady_epoch_seconds
from core.data.pixels import load_pixels
from core.data.stored import StoredDataset, read_dataset_info
from core.data.views import steps_per_epoch
from core.models.build import build_student
from core.models.plan import plan_student
from core.reporting import PIXEL_CACHE_BYTES, Interrupted
from core.spec import JobSpec
from core.train.optimizer import build_optimizer

_NUM_WORKERS = 2
_MEAN, _STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
_GOAL = "≥ 1.5"
_ENGINE, _ON_DEMAND, _FOLDER = "engine, decoded once", "engine, decoded on demand", "ImageFolder and DataLoader"

Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Photographs:
    """The same photographs as loose files and as a stored dataset, and the size of the training."""

    work: Path
    loose: Path
    stored: Path
    num_images: int
    image_size: int
    batch_size: int
    epochs: int
    threads: int

    def spec(self, patch_size: int) -> JobSpec:
        """Return the resolved spec of the student's training from labels."""
        arguments = {"patch_size": patch_size, "embed_dim": 96, "depth": 4, "num_heads": 3}
        document = {
            "dataset": "ds_photographs",
            "student": {"architecture": "vit_tiny_patch16_224", "arguments": arguments},
            "method": {"name": "scratch"},
            "training": {"epochs": self.epochs, "batch_size": self.batch_size, "image_size": self.image_size},
            "export": ["safetensors"],
        }
        return self.inputs().resolve(document, threads=self.threads)

    def inputs(self, pixel_cache_bytes: int = PIXEL_CACHE_BYTES) -> JobInputs:
        """Return the inputs of the engine's job."""
        return JobInputs(self.work, {"ds_photographs": self.stored}, pixel_cache_bytes=pixel_cache_bytes)


def main(arguments: Sequence[str]) -> int:
    """Measure, print and write."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    num_images, image_size, epochs = (40, 32, 3) if options.quick else (options.images, 224, 3)
    figures: list[Figure] = []
    raw: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="potstill-benchmark-") as folder:
        work = Path(folder)
        loose, stored = stored_photographs(work, num_images, widths=(48, 128) if options.quick else (320, 1280))
        batch_size = 8 if options.quick else 32
        given = Photographs(work, loose, stored, num_images, image_size, batch_size, epochs, options.threads)
        for patch_size in [8] if options.quick else options.patch_sizes:
            seconds = _measure(given, patch_size, options.repeats)
            raw[f"patch_{patch_size}"] = seconds
            figures += _figures(given, patch_size, seconds)
    if not options.quick or options.out:
        save_figures("photographs", (__doc__ or "").strip(), figures, path=options.out, seconds_an_epoch=raw)
    return 0


def _measure(given: Photographs, patch_size: int, repeats: int) -> dict[str, list[float]]:
    """Return the seconds of an epoch after the first by contender, one for each repeat."""
    spec = given.spec(patch_size)
    contenders: Mapping[str, Callable[[], Sequence[float]]] = {
        _ENGINE: lambda: _engine_epochs(given, spec, PIXEL_CACHE_BYTES),
        _FOLDER: lambda: _loop_epochs(given, spec, _image_folder(given)),
        "timm's loader": lambda: _loop_epochs(given, spec, _timm_loader(given)),
        "a memory map and DataLoader": lambda: _loop_epochs(given, spec, _memory_map(given)),
        _ON_DEMAND: lambda: _engine_epochs(given, spec, 0),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(repeats):
        for name in list(contenders)[:: -1 if repeat % 2 else 1]:
            seconds[name].append(steady_epoch_seconds(contenders[name]()))
        speeds = {name: round(given.num_images / values[-1]) for name, values in seconds.items()}
        print(f"patch {patch_size}, repeat {repeat + 1}, images/s: {speeds}", flush=True)
    return seconds


def _figures(given: Photographs, patch_size: int, seconds: Mapping[str, Sequence[float]]) -> list[Figure]:
    detail = (
        f"an epoch of {given.num_images} JPEGs at {given.image_size} pixels, batches of {given.batch_size}, ViT of "
        f"width 96, depth 4, patches of {patch_size}; {_NUM_WORKERS} workers of the others"
    )
    figures = [
        ratio(
            f"photographs: training from images decoded once against {name}",
            seconds[name],
            seconds[_ENGINE],
            goal=_GOAL if name == _FOLDER else None,
            detail=detail,
        )
        for name in seconds
        if name not in {_ENGINE, _ON_DEMAND}
    ]
    question = f"photographs: training from images decoded on demand against {_FOLDER}"
    return [*figures, ratio(question, seconds[_FOLDER], seconds[_ON_DEMAND], detail=detail)]


# --- the engine and the plain loop ----------------------------------------------------------------


def _engine_epochs(given: Photographs, spec: JobSpec, pixel_cache_bytes: int) -> Sequence[float]:
    """Run a job; return the seconds of each epoch. The first one includes what precedes it in its stage."""
    root = given.work / "run"
    shutil.rmtree(root, ignore_errors=True)
    reporter = TimingReporter(root, teachers=given.work / "teachers", only_training=True)
    with suppress(Interrupted):
        run(given.inputs(pixel_cache_bytes), spec, root, reporter)
    steps = steps_per_epoch(given.num_images, given.batch_size)
    ends = reporter.step_at[steps - 1 :: steps]
    assert len(ends) == given.epochs, "the loss of every step is reported"
    later = [end - start for start, end in pairwise(ends)]
    return [reporter.stages["distill"] - sum(later), *later]


def _loop_epochs(given: Photographs, spec: JobSpec, batches: Batches) -> Sequence[float]:
    """Train the student in a plain loop; return the seconds of each epoch."""
    facts = read_dataset_info(given.stored)
    plan = plan_student(spec.student, facts.input_info(), image_size=given.image_size)
    student: nn.Module = build_student(plan).module.train()
    optimizer = build_optimizer([student], learning_rate=1e-3, weight_decay=0.05)
    seconds = []
    for _ in range(given.epochs):
        start = time.perf_counter()
        for images, labels in batches:
            loss = nn.functional.cross_entropy(student(images), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        seconds.append(time.perf_counter() - start)
    return seconds


# --- the others' loaders ----------------------------------------------------------------------------


def _image_folder(given: Photographs) -> Batches:
    size = given.image_size
    steps = [
        transforms.Resize(size, transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(size),
        transforms.RandomHorizontalFlip(),
        transforms.RandomCrop(size, padding=size // 8),
        transforms.ToTensor(),
        transforms.Normalize(_MEAN, _STD),
    ]
    return _data_loader(given, ImageFolder(str(given.loose / "train"), transforms.Compose(steps)))


def _timm_loader(given: Photographs) -> Batches:
    loader: Batches = create_loader(
        ImageDataset(str(given.loose / "train")),
        input_size=(3, given.image_size, given.image_size),
        batch_size=given.batch_size,
        is_training=True,
        color_jitter=0.0,
        interpolation="bicubic",
        mean=_MEAN,
        std=_STD,
        num_workers=_NUM_WORKERS,
        device=torch.device("cpu"),
        pin_memory=False,
        persistent_workers=True,
    )
    return loader


def _memory_map(given: Photographs) -> Batches:
    with StoredDataset.open(given.stored) as stored:
        pixels = load_pixels(stored, "train", given.image_size, given.work / "cache", threads=given.threads)
    path = given.work / "images.npy"
    np.save(path, np.asarray(pixels.images))
    return _data_loader(given, _MappedImages(np.load(path, mmap_mode="r"), pixels.labels.tolist(), given.image_size))


def _data_loader(given: Photographs, dataset: Dataset[Any]) -> Batches:
    return DataLoader(
        dataset, batch_size=given.batch_size, shuffle=True, num_workers=_NUM_WORKERS, persistent_workers=True
    )


@dataclass(frozen=True, slots=True)
class _MappedImages(Dataset[tuple[Tensor, int]]):
    """Decoded images (N, C, H, W) uint8 in a memory map, mirrored, shifted and normalized one by one."""

    images: npt.NDArray[np.uint8]
    labels: Sequence[int]
    image_size: int

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        size = self.image_size
        flip, shift = transforms.RandomHorizontalFlip(), transforms.RandomCrop(size, padding=size // 8)
        image = shift(flip(torch.from_numpy(np.array(self.images[index]))))
        return (image.float() / 255 - _MEAN[0]) / _STD[0], self.labels[index]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks photographs", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=480)
    parser.add_argument("--patch-sizes", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="tiny images, a smoke test; nothing is written")
    parser.add_argument("--out", type=Path, help="write the result here")
    return parser

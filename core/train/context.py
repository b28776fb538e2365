"""What every training of one job shares: the data, the device, and whom to tell."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from core.data.mixing import Mixing
from core.data.pixels import Pixels, load_pixels
from core.data.stored import UNLABELLED, SplitName, StoredDataset
from core.errors import OutOfMemory
from core.evaluate import EmbeddingEvaluator, evaluate_accuracy
from core.reporting import PIXEL_CACHE_BYTES, Control, Interrupted, Reporter, Workspace
from core.spec import JobSpec, TrainingBase
from core.spec.facts import InputInfo
from core.train.environment import is_out_of_memory, reproducible
from core.train.loader import BatchLoader
from core.train.precision import ComputeConfig, choose_arithmetic, choose_device
from core.train.result_cache import ResultCache
from core.train.trainer import ValidationCallback

_LEAVE = (Control.PAUSE, Control.CANCEL, Control.DRAIN)
_MAX_LOOKS = 20
_MAX_LOOKED_AT = 2_000  # pictures of the test split
_LOOKING_SHARE = 0.1  # of the training's work, a look costing a third of a training step


@dataclass(frozen=True, slots=True)
class RunContext:
    """The surroundings of a run. ``root`` is its scratch folder, ``cache`` is shared by runs.

    ``pixel_cache_bytes``: most that decoded pictures may take of the cache; no result depends on it.
    """

    stored: StoredDataset
    compute: ComputeConfig
    threads: int
    reporter: Reporter
    root: Path
    cache: Path
    pixel_cache_bytes: int = PIXEL_CACHE_BYTES

    @property
    def facts(self) -> InputInfo:
        """What a model takes from the dataset."""
        return InputInfo(self.stored.num_classes, self.stored.channels, self.stored.image_size)

    @property
    def result_cache(self) -> ResultCache:
        """What earlier runs on such a machine found out."""
        return ResultCache(self.cache, self.compute.device, self.threads)

    def poll(self) -> None:
        """Raise ``Interrupted`` where the caller wants the run to leave. A stop is the training's business."""
        control = self.reporter.control()
        if control in _LEAVE:
            raise Interrupted(control)

    def pixels(self, split: SplitName, image_size: int) -> Pixels:
        """A split, decoded at a size."""
        return self._decoded(self.stored, split, image_size)

    def pool(self, folder: Path, image_size: int) -> Pixels:
        """The training split of another stored dataset without its labels, decoded at a size."""
        with StoredDataset.open(folder) as stored:
            whole = self._decoded(stored, "train", image_size)
        return Pixels(whole.images, torch.full((len(whole),), UNLABELLED))

    def _decoded(self, stored: StoredDataset, split: SplitName, image_size: int) -> Pixels:
        return load_pixels(
            stored,
            split,
            image_size,
            self.cache,
            max_bytes=self.pixel_cache_bytes,
            threads=self.threads,
            progress=lambda _done, _total: self.poll(),
        )

    def loader(
        self, training: TrainingBase, *, image_size: int, views: int | None = None, pixels: Pixels | None = None
    ) -> BatchLoader:
        """The training split, or other ``pixels`` of its size, as a training block wants them."""
        pixels = pixels or self.pixels("train", image_size)
        labelled = bool((pixels.labels != UNLABELLED).any())
        return BatchLoader(
            pixels,
            batch_size=training.batch_size,
            augmentation=training.augmentation,
            views=views,
            seed=training.seed,
            device=self.compute.device,
            mixing=Mixing.of(training),
            num_classes=self.stored.num_classes if labelled else None,
        )

    def validation_callback(self, name: str, training: TrainingBase, *, image_size: int) -> ValidationCallback:
        """A look at the accuracy on the test split, now and then, to be shown and never to decide anything.

        At most 2,000 evenly spaced pictures at most 20 times, and for at most a tenth of the training's work.
        """
        sample = self.validation_subset(image_size)
        work = training.epochs * len(self.stored.split("train"))
        looks = max(1, min(_MAX_LOOKS, training.epochs, int(3 * _LOOKING_SHARE * work / len(sample))))
        return ValidationCallback(name, math.ceil(training.epochs / looks), lambda logits: self.top1(logits, sample))

    def validation_subset(self, image_size: int) -> Pixels:
        """The part of the test split that is looked at while training."""
        whole = self.pixels("test", image_size)
        stride = validation_stride(len(whole))
        return Pixels(images=whole.images[::stride], labels=whole.labels[::stride])

    def embedding_evaluator(self, image_size: int) -> EmbeddingEvaluator:
        """Who says how often a network without a classifier is right."""
        return EmbeddingEvaluator(
            train=self.pixels("train", image_size),
            test=self.pixels("test", image_size),
            num_classes=self.stored.num_classes,
            device=self.compute.device,
            poll=self.poll,
        )

    def top1(self, logits: Callable[[Tensor], Tensor], pixels: Pixels) -> float:
        """The fraction of pictures that a network gets right. Raises ``Interrupted`` on request."""
        return evaluate_accuracy(logits, pixels, device=self.compute.device, poll=self.poll).top1


def validation_stride(num_pictures: int) -> int:
    """Of so many test pictures each how-manyth is looked at while training."""
    return math.ceil(num_pictures / _MAX_LOOKED_AT)


def threads_each(spec: JobSpec) -> int:
    """CPU threads of each process while several train together; all of them where there is one."""
    assert spec.resources.threads is not None, "a resolved spec says how many threads"
    return max(1, spec.resources.threads // spec.resources.devices)


@contextmanager
def open_run(spec: JobSpec, workspace: Workspace, reporter: Reporter, *, rank: int = 0) -> Iterator[RunContext]:
    """The surroundings of a run in this process, whose torch computes as the spec says until they are left.

    Each of several ranks has its part of the threads; the context's own ``threads`` are the job's, by which its
    products are known.

    Raises:
        SpecCannotRun: The device is not there.
        OutOfMemory: What is done there asked for more than there is.
    """
    assert spec.resources.threads is not None, "a resolved spec says how many threads"
    device = choose_device(spec.resources.accelerator, devices=spec.resources.devices, rank=rank)
    threads = spec.resources.threads if rank == 0 else threads_each(spec)
    with StoredDataset.open(workspace.dataset) as stored, reproducible(threads=threads, device=device):
        context = RunContext(
            stored=stored,
            compute=choose_arithmetic(device, spec.training.precision),
            threads=spec.resources.threads,
            reporter=reporter,
            root=workspace.root,
            cache=workspace.cache,
            pixel_cache_bytes=workspace.pixel_cache_bytes,
        )
        try:
            yield context
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(
                f"there is not enough memory on {device.type}: {error}. Lower training.batch_size or "
                "training.image_size, or take a smaller model."
            ) from error

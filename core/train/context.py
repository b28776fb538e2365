"""Context shared by all trainings of one job: dataset, device, reporter and caches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.data.decoding import decode_on_demand
from core.data.mixing import Mixing
from core.data.pixels import Images, Pixels, load_pixels
from core.data.stored import UNLABELED, SplitName, StoredDataset
from core.errors import OutOfMemory
from core.evaluate import EmbeddingEvaluator, EvaluationResult, evaluate_accuracy, predict
from core.models.built import BuiltModel
from core.reporting import PIXEL_CACHE_BYTES, Control, Interrupted, Reporter, Workspace
from core.spec import JobSpec, TrainingBase
from core.spec.info import InputInfo
from core.train.environment import is_out_of_memory, reproducible
from core.train.loader import BatchLoader
from core.train.precision import ComputeConfig, choose_compute, choose_device
from core.train.rank_channel import RankChannel
from core.train.result_cache import ResultCache
from core.train.time_plan import TimePlan
from core.train.torchrun import RankPlace
from core.train.validation import ValidationCallback

STUDENT_CURVE = "eval/top1"
"""Metric series of the student's accuracy during the training."""
BASELINE_CURVE = "baseline/top1"
"""Metric series of the baseline's accuracy during its training."""

_INTERRUPTING = (Control.PAUSE, Control.CANCEL, Control.DRAIN)
_MAX_VALIDATION_IMAGES = 2_000  # of the test split


@dataclass(frozen=True, slots=True)
class RunContext:
    """Dataset, device and folders of a run. ``root`` is its scratch folder, ``cache`` is shared by runs.

    ``pixel_cache_bytes`` limits the decoded images in the cache; no result depends on it. ``channel`` leads to the
    other ranks that torchrun has started; None where this process starts them itself. ``time_plan`` is shared with the
    links of a chain.
    """

    stored: StoredDataset
    compute: ComputeConfig
    threads: int
    reporter: Reporter
    root: Path
    cache: Path
    pixel_cache_bytes: int = PIXEL_CACHE_BYTES
    channel: RankChannel | None = None
    time_plan: TimePlan = field(default_factory=TimePlan)

    @property
    def input_info(self) -> InputInfo:
        """Properties of the dataset that shape a model."""
        return InputInfo(self.stored.num_classes, self.stored.channels, self.stored.image_size)

    @property
    def result_cache(self) -> ResultCache:
        """Cached results of earlier runs with the same kind of device and number of threads."""
        return ResultCache(self.cache, self.compute.device, self.threads)

    def poll(self) -> None:
        """Raise ``Interrupted`` on a pause, cancel or drain request. The trainer handles a stop request."""
        control = self.reporter.control()
        if control in _INTERRUPTING:
            raise Interrupted(control)

    def pixels(self, split: SplitName, image_size: int) -> Pixels:
        """Load a split, decoded at ``image_size`` pixels a side."""
        return self._load(self.stored, split, image_size)

    def sample_images(self, image_size: int, count: int) -> Images:
        """Return evenly spaced images of the training split at ``image_size`` pixels a side, decoded on access."""
        images = decode_on_demand(self.stored.folder, "train", image_size, threads=self.threads)
        selected: Images = images[:: max(1, len(images) // count)][:count]
        return selected

    def unlabeled_pool(self, folder: Path, image_size: int) -> Pixels:
        """Load the training split of another stored dataset, without its labels."""
        with StoredDataset.open(folder) as stored:
            pixels = self._load(stored, "train", image_size)
        return Pixels(pixels.images, torch.full((len(pixels),), UNLABELED))

    def _load(self, stored: StoredDataset, split: SplitName, image_size: int) -> Pixels:
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
        """Build the loader of a training block over ``pixels``, by default the training split."""
        pixels = pixels or self.pixels("train", image_size)
        is_labeled = bool((pixels.labels != UNLABELED).any())
        return BatchLoader(
            pixels,
            batch_size=training.batch_size,
            augmentation=training.augmentation,
            views=views,
            seed=training.seed,
            device=self.compute.device,
            mixing=Mixing.from_training(training),
            num_classes=self.stored.num_classes if is_labeled else None,
        )

    def validation_callback(self, *, image_size: int, curve: str = STUDENT_CURVE) -> ValidationCallback:
        """Build the callback that measures accuracy on the test split during training, for display only.

        ``curve`` is the metric series.
        """
        subset = self.validation_subset(image_size)
        return ValidationCallback(curve, len(subset), lambda logits: self.top1(logits, subset))

    def validation_subset(self, image_size: int) -> Pixels:
        """Evenly spaced images of the test split, at most 2,000, to evaluate during training."""
        pixels = self.pixels("test", image_size)
        stride = validation_stride(len(pixels))
        return Pixels(images=pixels.images[::stride], labels=pixels.labels[::stride])

    def embedding_evaluator(self, image_size: int) -> EmbeddingEvaluator:
        """Build the evaluator that measures the accuracy of a network without a classifier."""
        return EmbeddingEvaluator(
            train=self.pixels("train", image_size),
            test=self.pixels("test", image_size),
            num_classes=self.stored.num_classes,
            device=self.compute.device,
            poll=self.poll,
        )

    def evaluation_inputs(self, image_size: int, *, headless: bool) -> dict[str, Any]:
        """Return the arguments of :func:`core.evaluate.measure_model` for the test split at ``image_size`` pixels."""
        return {
            "pixels": self.pixels("test", image_size),
            "device": self.compute.device,
            "poll": self.poll,
            "evaluator": self._evaluator(image_size, headless=headless),
        }

    def _evaluator(self, image_size: int, *, headless: bool) -> Callable[[BuiltModel], EvaluationResult] | None:
        """Return how a network without a classifier, or on images without labels, is evaluated; else None."""
        if headless:
            return self.embedding_evaluator(image_size)
        if self.is_labeled:
            return None
        images = self.pixels("test", image_size).images

        def evaluate(built: BuiltModel) -> EvaluationResult:
            logits = predict(built, images, device=self.compute.device, poll=self.poll)
            return EvaluationResult(None, {"top1_metric": None}, logits.argmax(dim=1), logits)

        return evaluate

    @property
    def is_labeled(self) -> bool:
        """Whether the dataset has labels."""
        return self.stored.num_classes is not None

    def top1(self, logits: Callable[[Tensor], Tensor], pixels: Pixels) -> float:
        """Top-1 accuracy of a network on ``pixels``, 0…1. Raises ``Interrupted`` on request."""
        return evaluate_accuracy(logits, pixels, device=self.compute.device, poll=self.poll).top1


def validation_stride(num_images: int) -> int:
    """Stride of the validation subset, so that at most 2,000 images are evaluated."""
    return math.ceil(num_images / _MAX_VALIDATION_IMAGES)


def threads_per_rank(spec: JobSpec) -> int:
    """CPU threads of each rank: the job's threads, divided by the number of ranks."""
    assert spec.resources.threads is not None, "a resolved spec has a number of threads"
    return max(1, spec.resources.threads // spec.resources.devices)


@contextmanager
def open_run(
    spec: JobSpec,
    workspace: Workspace,
    reporter: Reporter,
    *,
    place: RankPlace | None = None,
    channel: RankChannel | None = None,
) -> Iterator[RunContext]:
    """Open the dataset, choose the device and configure torch for one rank of a run; undo it on exit.

    Ranks above 0 compute with their share of the threads. ``RunContext.threads`` is always the job's number, because
    cache keys contain it. ``place`` is that of this process, by default rank 0 of one machine. ``channel`` leads from
    rank 0 to ranks that torchrun has started.

    Raises:
        SpecCannotRun: The device is not available.
        OutOfMemory: The block ran out of device or host memory.
    """
    assert spec.resources.threads is not None, "a resolved spec has a number of threads"
    if place is None:
        place = RankPlace.on_one_machine(0, spec.resources.devices) if channel is None else channel.environment.place
    device = choose_device(spec.resources.accelerator, devices=place.local_world_size, rank=place.local_rank)
    threads = spec.resources.threads if place.rank == 0 else threads_per_rank(spec)
    with StoredDataset.open(workspace.dataset) as stored, reproducible(threads=threads, device=device):
        context = RunContext(
            stored=stored,
            compute=choose_compute(device, spec.training.precision),
            threads=spec.resources.threads,
            reporter=reporter,
            root=workspace.root,
            cache=workspace.cache,
            pixel_cache_bytes=workspace.pixel_cache_bytes,
            channel=channel,
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

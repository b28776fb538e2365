"""Accuracy of short trainings with the running statistics of BatchNorm, and with re-estimated ones.

Eight families of CNNs with BatchNorm, and ConvNeXt without, learn the width of noisy stripes from labels. Each
network is trained once. Its accuracy on test images is measured with the running statistics of the training, with
statistics of the training images without augmentation, and with those of their last augmented view.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.results import RESULTS, machine, table, write_json
from core.data.pixels import Pixels
from core.evaluate import evaluate_accuracy
from core.methods import MethodContext, build_method
from core.models.build import build_student
from core.models.built import BuiltModel
from core.models.plan import plan_student
from core.spec import METHODS, StudentSpec, TrainingSpec
from core.spec.info import InputInfo
from core.train.batch_norm import update_batch_norm
from core.train.loader import BatchLoader
from core.train.precision import ComputeConfig
from core.train.trainer import TrainingSetup, TrainStep

FAMILIES = (
    "resnet18", "mobilenetv3_small_050", "efficientnet_lite0", "repvit_m0_9", "efficientvit_b0", "ghostnet_050",
    "regnetx_002", "mobilenetv4_conv_small_050", "convnext_atto",
)  # fmt: skip
WIDTHS = (2, 3, 5, 9)  # of a stripe in pixels, one per class
NUM_CLASSES, IMAGE_SIZE = len(WIDTHS), 32
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Row:
    """Accuracies (0…1) of one trained network with three kinds of statistics."""

    architecture: str
    augmentation: str
    seed: int
    running: float
    plain: float
    augmented: float
    layers: int


class AugmentedPixels:
    """Training images in one augmented view, in place of :class:`Pixels`."""

    is_decoded_on_demand = False

    def __init__(self, loader: BatchLoader, view: int) -> None:
        self._loader, self._view = loader, view

    def __len__(self) -> int:
        return len(self._loader.pixels)

    def batch(self, indices: Tensor) -> Tensor:
        """Return augmented images, uint8 (B, C, H, W)."""
        return (self._loader.augmented(self._view, indices) * 255).round().to(torch.uint8)


def main(arguments: Sequence[str]) -> int:
    """Train all networks, print and write the table."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows = []
    for augmentation in options.augmentations.split(","):
        for architecture in options.architectures.split(","):
            for seed in range(options.seeds):
                rows.append(measure(architecture, augmentation, seed, steps=options.steps, num_train=options.images))
                print(asdict(rows[-1]), flush=True)
    print(format_rows(rows))
    if options.write:
        document = {"about": (__doc__ or "").strip(), "machine": machine(), "steps": options.steps}
        write_json(RESULTS / "batch_norm.json", document | {"rows": [asdict(row) for row in rows]})
    return 0


def measure(architecture: str, augmentation: str, seed: int, *, steps: int, num_train: int) -> Row:
    """Train one network, and measure it with each kind of statistics."""
    setup = _setup(architecture, augmentation, seed, steps=steps, train=stripes(num_train, seed=1))
    test = stripes(400, seed=2)
    step = TrainStep(setup)
    for index in range(steps):
        step.run(index)
    step.finalize_weights()
    running = _top1(setup.student, test)
    augmented_student = replace(setup.student, module=copy.deepcopy(setup.student.module))
    loader = copy.copy(setup.loader)
    last_view = (steps - 1) // setup.loader.steps_per_epoch
    loader.pixels = AugmentedPixels(setup.loader, last_view)  # type: ignore[assignment]
    update_batch_norm(replace(setup, student=augmented_student, loader=loader), steps=steps, poll=lambda: None)
    update = update_batch_norm(setup, steps=steps, poll=lambda: None)
    return Row(
        architecture,
        augmentation,
        seed,
        running=running,
        plain=_top1(setup.student, test),
        augmented=_top1(augmented_student, test),
        layers=0 if update is None else update.layers,
    )


def stripes(count: int, *, seed: int) -> Pixels:
    """Return images of noisy stripes in random directions; their width is the class, so that flips preserve it."""
    draws = np.random.default_rng(seed)
    labels = np.arange(count) % NUM_CLASSES
    y, x = np.mgrid[0:IMAGE_SIZE, 0:IMAGE_SIZE]
    angles, phases = draws.uniform(0, 2 * np.pi, (2, count, 1, 1))
    widths = np.array(WIDTHS)[labels][:, None, None]
    waves = np.sin((x * np.cos(angles) + y * np.sin(angles)) * np.pi / widths + phases)
    noisy = (waves / 2 + 0.5 + draws.normal(0, 0.1, waves.shape)).clip(0, 1)
    return Pixels((noisy * 255).astype(np.uint8)[:, None], torch.from_numpy(labels.astype(np.int64)))


def format_rows(rows: Sequence[Row]) -> str:
    """Return the mean over seeds as a table."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.architecture, row.augmentation), []).append(row)

    def mean(group: Sequence[Row], name: str) -> str:
        return f"{np.mean([getattr(row, name) for row in group]):.3f}"

    names = ("running", "plain", "augmented")
    lines = [[*key, *(mean(group, name) for name in names)] for key, group in groups.items()]
    return table(("architecture", "augmentation", *names), lines, right=names)


def _setup(architecture: str, augmentation: str, seed: int, *, steps: int, train: Pixels) -> TrainingSetup:
    per_epoch = -(-len(train) // 16)
    options: dict[str, Any] = {"epochs": -(-steps // per_epoch), "batch_size": 16, "warmup_epochs": 1, "seed": seed}
    training = TrainingSpec(augmentation=augmentation, **options)  # type: ignore[arg-type]
    info = InputInfo(num_classes=NUM_CLASSES, channels=1, image_size=IMAGE_SIZE)
    torch.manual_seed(seed)
    student = build_student(plan_student(StudentSpec(architecture=architecture), info, image_size=IMAGE_SIZE))
    loader = BatchLoader(
        train,
        batch_size=16,
        augmentation=training.augmentation,
        views=None,
        seed=seed,
        device=CPU,
        num_classes=NUM_CLASSES,
    )
    return TrainingSetup(
        training=training,
        student=student,
        method=build_method(METHODS["scratch"].params(name="scratch"), MethodContext(student=student, num_classes=4)),
        teachers=(),
        loader=loader,
        compute=ComputeConfig(CPU, "fp32"),
    )


def _top1(student: BuiltModel, pixels: Pixels) -> float:
    return evaluate_accuracy(student, pixels).top1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks batch_norm", description=__doc__)
    parser.add_argument("--architectures", default=",".join(FAMILIES))
    parser.add_argument("--augmentations", default="light,strong")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--images", type=int, default=160)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/batch_norm.json")
    return parser

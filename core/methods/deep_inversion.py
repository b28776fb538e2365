"""DeepInversion: images made from a teacher's weights, for training without data.

Paper: Yin et al. 2020, arXiv:1912.08795. Adam optimizes pixels until the teacher predicts the target class and the
inputs of its batch norms match their running statistics: cross-entropy + total variation + l2 + distance of means and
variances, with weight 10 for the first batch norm. Each step shifts the images cyclically by a random jitter. Weights
are the official code's; total variation and l2 are of the teacher's inputs. The diversity term is DearKD's
boundary-preserving intra-divergence (arXiv:2204.12997), rebuilt from its description and experimental.

Deviations: one resolution, no mirroring (which would reverse digits and letters), fewer steps by default, and the last
images are taken, not those of the lowest loss.

Shapes: B images of a batch, C channels, H and W pixels, D width of the embedding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.data.pixels import Pixels
from core.models.built import BuiltModel
from core.models.taps import FeatureRequest, run_tapped
from core.seeds import derive_seed
from core.system.disk import atomic_path

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
_FIRST_NORM_WEIGHT = 10.0
_JITTER = 30 / 224  # fraction of the image's side
_MARGIN = 0.5  # distance between unit embeddings of one class


@dataclass(frozen=True, slots=True, kw_only=True)
class Inversion:
    """Number of images and settings of the optimization. ``learning_rate`` is in units of the normalized input."""

    num_images: int
    iterations: int = 200
    diversity: float = 0.0
    batch_size: int = 128  # the batch's statistics are compared, so small batches give worse images
    learning_rate: float = 0.2
    variation: float = 1e-4
    energy: float = 1e-5
    statistics: float = 0.05


def inverted_pixels(
    teacher: BuiltModel,
    inversion: Inversion,
    *,
    shape: tuple[int, int, int],
    seed: int,
    cache_dir: Path,
    poll: Callable[[], None],
) -> Pixels:
    """Make images (C, H, W) = ``shape`` of all classes in rotation, with the classes as labels.

    Each finished batch is saved atomically in ``cache_dir``: an interrupted run resumes with the next batch, and
    every attempt has the same images. Concurrent runs with the same arguments repeat the work but write the same
    files. ``poll`` is called at each step and may raise.
    """
    labels = torch.arange(inversion.num_images) % teacher.num_classes
    path = cache_dir / "inverted.npy"
    if not path.exists():
        cache_dir.mkdir(parents=True, exist_ok=True)
        batches: dict[Path, npt.NDArray[np.uint8]] = {}
        for start in range(0, len(labels), inversion.batch_size):
            batch_path = cache_dir / f"inverted-{start:07d}.npy"
            try:
                batches[batch_path] = np.load(batch_path, allow_pickle=False)
            except FileNotFoundError:
                labels_B = labels[start : start + inversion.batch_size]
                batch_seed = derive_seed(seed, f"inversion-{start}")
                images = invert(teacher, inversion, labels_B, shape=shape, seed=batch_seed, poll=poll)
                batches[batch_path] = (images * 255).round().to(torch.uint8).numpy()
                _save(batch_path, batches[batch_path])
        _save(path, np.concatenate(list(batches.values())))
        for batch_path in batches:
            batch_path.unlink(missing_ok=True)
    return Pixels(images=np.load(path, mmap_mode="r", allow_pickle=False), labels=labels)


def invert(
    teacher: BuiltModel,
    inversion: Inversion,
    labels_B: Tensor,
    *,
    shape: tuple[int, int, int],
    seed: int,
    poll: Callable[[], None],
) -> Tensor:
    """Make one batch of images in 0…1, (B, C, H, W) on the CPU, that the teacher classifies as ``labels_B``."""
    device = next(teacher.module.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    start = 0.5 + 0.25 * torch.randn(len(labels_B), *shape, generator=generator)
    images = start.clamp(0, 1).to(device).requires_grad_()
    rate = inversion.learning_rate * sum(teacher.preprocessing.std) / len(teacher.preprocessing.std)
    optimizer = torch.optim.Adam([images], lr=rate, betas=(0.5, 0.9))
    labels_B = labels_B.to(device)
    max_shift = round(_JITTER * shape[-1])
    for step in range(inversion.iterations):
        poll()
        down, right = torch.randint(-max_shift, max_shift + 1, (2,), generator=generator).tolist()
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 + math.cos(math.pi * step / inversion.iterations)) / 2
        loss = objective(teacher, inversion, images.roll((down, right), dims=(2, 3)), labels_B)
        (images.grad,) = torch.autograd.grad(loss, [images])
        optimizer.step()
        with torch.no_grad():
            images.clamp_(0, 1)
    return images.detach().cpu()


def objective(teacher: BuiltModel, inversion: Inversion, images_BCHW: Tensor, labels_B: Tensor) -> Tensor:
    """The loss that is minimized over the images, a scalar."""
    inputs = teacher.preprocessing(images_BCHW)
    with _norm_distances(teacher.module) as distances:
        outputs = run_tapped(teacher.module, inputs, FeatureRequest(embedding=inversion.diversity > 0))
    weights = [_FIRST_NORM_WEIGHT if index == 0 else 1.0 for index in range(len(distances))]
    loss: Tensor = (
        F.cross_entropy(outputs.logits, labels_B)
        + inversion.variation * total_variation(inputs)
        + inversion.energy * inputs.flatten(1).norm(dim=1).mean()
        + inversion.statistics * torch.stack([w * d for w, d in zip(weights, distances, strict=True)]).sum()
    )
    if outputs.embedding is not None:
        loss = loss + inversion.diversity * intra_divergence(outputs.embedding, labels_B)
    return loss


def total_variation(images_BCHW: Tensor) -> Tensor:
    """Sum of the norms of differences between neighboring pixels: horizontal, vertical and along both diagonals."""
    x = images_BCHW
    differences = (
        x[..., :, :-1] - x[..., :, 1:],
        x[..., :-1, :] - x[..., 1:, :],
        x[..., 1:, :-1] - x[..., :-1, 1:],
        x[..., :-1, :-1] - x[..., 1:, 1:],
    )
    return torch.stack([difference.norm() for difference in differences]).sum()


def intra_divergence(embedding_BD: Tensor, labels_B: Tensor) -> Tensor:
    """Penalize images of one class that are too similar, and nearer to another class than to their own.

    Mean over images of relu(margin − d⁺) + relu(d⁺ − d⁻), where d⁺ and d⁻ are distances of unit embeddings to the
    nearest image of the same class and of another class. An image for which either is missing contributes 0.
    """
    unit_BD = F.normalize(embedding_BD.flatten(1), dim=1)
    squared_BB = (2 - 2 * unit_BD @ unit_BD.T).clamp_min(1e-12)  # the square root has an infinite gradient at 0
    distance_BB = squared_BB.sqrt()
    same_BB = labels_B[:, None] == labels_B[None, :]
    self_BB = torch.eye(len(labels_B), dtype=torch.bool, device=labels_B.device)
    nearest_same_B = distance_BB.masked_fill(~same_BB | self_BB, torch.inf).amin(dim=1)
    nearest_other_B = distance_BB.masked_fill(same_BB, torch.inf).amin(dim=1)
    has_both_B = nearest_same_B.isfinite() & nearest_other_B.isfinite()
    same_B, other_B = nearest_same_B[has_both_B], nearest_other_B[has_both_B]
    return (F.relu(_MARGIN - same_B) + F.relu(same_B - other_B)).sum() / len(labels_B)


@contextmanager
def _norm_distances(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect, per batch norm in order of execution, its input's distance from the running mean and variance."""
    distances: list[Tensor] = []

    def measure(norm: Any, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].float()
        all_but_channels = [0, *range(2, values.ndim)]
        mean_C, variance_C = values.mean(dim=all_but_channels), values.var(dim=all_but_channels, unbiased=False)
        distances.append((mean_C - norm.running_mean).norm() + (variance_C - norm.running_var).norm())

    hooks = [layer.register_forward_pre_hook(measure) for layer in module.modules() if isinstance(layer, _BATCH_NORMS)]
    try:
        yield distances
    finally:
        for hook in hooks:
            hook.remove()


def _save(path: Path, images: npt.NDArray[np.uint8]) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:  # np.save appends .npy to other file names
        np.save(file, images)

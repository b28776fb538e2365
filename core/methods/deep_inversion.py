"""Pictures from a teacher's weights alone, for training without data: DeepInversion.

Yin et al. 2020, arXiv:1912.08795. Pixels are optimised by Adam until the teacher sees the wanted class
and its batch norms see the statistics that they keep: cross-entropy + total variation + l2 + distance
of means and variances, the first batch norm counting tenfold. Each step sees the pictures rolled by a
random jitter. Weights are the official code's; total variation and l2 are of the teacher's inputs.

The diversity term is DearKD's boundary-preserving intra-divergence (arXiv:2204.12997), rebuilt from its
description and experimental. Deviations: one resolution, no mirroring (it would turn digits and
letters around), fewer steps by default, and the last pictures are taken, not the cheapest.
Shapes: B pictures of a batch, C channels, H and W pixels, D width of the embedding.
"""

from __future__ import annotations

import math
import os
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

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
_FIRST_NORM = 10.0
_JITTER = 30 / 224  # of the picture's side
_MARGIN = 0.5  # between unit embeddings of one class


@dataclass(frozen=True, slots=True, kw_only=True)
class Inversion:
    """How many pictures, and how they are made. ``learning_rate`` is in units of the teacher's normalisation."""

    num_images: int
    iterations: int = 200
    diversity: float = 0.0
    batch_size: int = 128  # a batch's own statistics are compared, so a small one is a poor one
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
    folder: Path,
    poll: Callable[[], None],
) -> Pixels:
    """Pictures (C, H, W) = ``shape`` of all classes in turn, with the classes as labels.

    Finished batches are kept in ``folder``, whole or not at all, so that a run that left goes on with
    the next one and every attempt has the same pictures. Runs that make the same at once do the work
    twice and do not harm each other. ``poll`` is called at each step and may raise.
    """
    labels = torch.arange(inversion.num_images) % teacher.num_classes
    path = folder / "inverted.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        parts: dict[Path, npt.NDArray[np.uint8]] = {}
        for start in range(0, len(labels), inversion.batch_size):
            part = folder / f"inverted-{start:07d}.npy"
            try:
                parts[part] = np.load(part, allow_pickle=False)
            except FileNotFoundError:
                wanted_B = labels[start : start + inversion.batch_size]
                own = derive_seed(seed, f"inversion-{start}")
                images = invert(teacher, inversion, wanted_B, shape=shape, seed=own, poll=poll)
                parts[part] = (images * 255).round().to(torch.uint8).numpy()
                _write(part, parts[part])
        _write(path, np.concatenate(list(parts.values())))
        for part in parts:
            part.unlink(missing_ok=True)
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
    """One batch of pictures in 0…1, (B, C, H, W) on the CPU, that the teacher takes for ``labels_B``."""
    device = next(teacher.module.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    start = 0.5 + 0.25 * torch.randn(len(labels_B), *shape, generator=generator)
    images = start.clamp(0, 1).to(device).requires_grad_()
    rate = inversion.learning_rate * sum(teacher.preprocessing.std) / len(teacher.preprocessing.std)
    optimizer = torch.optim.Adam([images], lr=rate, betas=(0.5, 0.9))
    labels_B = labels_B.to(device)
    reach = round(_JITTER * shape[-1])
    for step in range(inversion.iterations):
        poll()
        down, right = torch.randint(-reach, reach + 1, (2,), generator=generator).tolist()
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 + math.cos(math.pi * step / inversion.iterations)) / 2
        loss = objective(teacher, inversion, images.roll((down, right), dims=(2, 3)), labels_B)
        (images.grad,) = torch.autograd.grad(loss, [images])
        optimizer.step()
        with torch.no_grad():
            images.clamp_(0, 1)
    return images.detach().cpu()


def objective(teacher: BuiltModel, inversion: Inversion, images_BCHW: Tensor, labels_B: Tensor) -> Tensor:
    """What is minimised over the pictures, a scalar."""
    inputs = teacher.preprocessing(images_BCHW)
    with _norm_distances(teacher.module) as distances:
        outputs = run_tapped(teacher.module, inputs, FeatureRequest(embedding=inversion.diversity > 0))
    shares = [_FIRST_NORM if place == 0 else 1.0 for place in range(len(distances))]
    loss: Tensor = (
        F.cross_entropy(outputs.logits, labels_B)
        + inversion.variation * total_variation(inputs)
        + inversion.energy * inputs.flatten(1).norm(dim=1).mean()
        + inversion.statistics * torch.stack([s * d for s, d in zip(shares, distances, strict=True)]).sum()
    )
    if outputs.embedding is not None:
        loss = loss + inversion.diversity * intra_divergence(outputs.embedding, labels_B)
    return loss


def total_variation(images_BCHW: Tensor) -> Tensor:
    """Sum of the norms of the differences between neighbours: across, down and along both diagonals."""
    x = images_BCHW
    differences = (
        x[..., :, :-1] - x[..., :, 1:],
        x[..., :-1, :] - x[..., 1:, :],
        x[..., 1:, :-1] - x[..., :-1, 1:],
        x[..., :-1, :-1] - x[..., 1:, 1:],
    )
    return torch.stack([difference.norm() for difference in differences]).sum()


def intra_divergence(embedding_BD: Tensor, labels_B: Tensor) -> Tensor:
    """Keep the nearest picture of the same class away, but nearer than any of another class; a mean over pictures.

    relu(margin − d⁺) + relu(d⁺ − d⁻), with the distances d of unit embeddings to the nearest picture of
    the same class and of another. A picture that lacks one of the two counts 0.
    """
    unit_BD = F.normalize(embedding_BD.flatten(1), dim=1)
    squared_BB = (2 - 2 * unit_BD @ unit_BD.T).clamp_min(1e-12)  # the root has no gradient at 0
    distance_BB = squared_BB.sqrt()
    same_BB = labels_B[:, None] == labels_B[None, :]
    myself_BB = torch.eye(len(labels_B), dtype=torch.bool, device=labels_B.device)
    far = torch.inf
    nearest_same_B = distance_BB.masked_fill(~same_BB | myself_BB, far).amin(dim=1)
    nearest_other_B = distance_BB.masked_fill(same_BB, far).amin(dim=1)
    counts_B = nearest_same_B.isfinite() & nearest_other_B.isfinite()
    own_B, other_B = nearest_same_B[counts_B], nearest_other_B[counts_B]
    return (F.relu(_MARGIN - own_B) + F.relu(own_B - other_B)).sum() / len(labels_B)


@contextmanager
def _norm_distances(module: nn.Module) -> Iterator[list[Tensor]]:
    """For each batch norm as it runs: how far its input's mean and variance are from those that it keeps."""
    found: list[Tensor] = []

    def see(norm: Any, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].float()
        others = [0, *range(2, values.ndim)]
        mean_C, variance_C = values.mean(dim=others), values.var(dim=others, unbiased=False)
        found.append((mean_C - norm.running_mean).norm() + (variance_C - norm.running_var).norm())

    hooks = [part.register_forward_pre_hook(see) for part in module.modules() if isinstance(part, _NORMS)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _write(path: Path, images: npt.NDArray[np.uint8]) -> None:
    """Beside its place, then renamed, so that it is there whole or not at all."""
    beside = path.with_suffix(f".{os.getpid()}.partial")
    with beside.open("wb") as file:
        np.save(file, images)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)

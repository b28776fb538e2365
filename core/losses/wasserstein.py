"""WKD's Wasserstein distances of logits and of maps (Lv et al. 2024, arXiv:2412.08139). K classes, n samples."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from core.losses.labels import hard_labels, target_entries
from core.losses.precision import outside_autocast
from core.losses.shapes import require_logits, require_maps

_FLOOR = 1e-8
_MASKED = -1e9  # logit of a class that is left out


@outside_autocast
def wasserstein_logits(
    student: Tensor,
    teacher: Tensor,
    target: Tensor | None,
    cost: Tensor,
    *,
    temperature: float,
    weight: float,
    regularization: float = 0.05,
    iterations: int = 10,
) -> Tensor:
    """WKD-L: −p_t[y] log p_s[y] + weight · Wasserstein distance of the other classes, mean over B.

    Logits (B, K), ``cost`` (K, K) of moving probability between two classes; negative costs count as 0. The first term
    is at T = 1, the distance compares the softened probabilities of the classes other than the target. ``target`` None:
    the distance of all classes only. The distance is that of Sinkhorn's algorithm with ``regularization``, through
    whose ``iterations`` the gradient flows. Memory is K² + iterations · B · K.
    """
    require_logits(student, teacher, num_classes=2)
    num_classes = student.shape[1]
    if cost.shape != (num_classes, num_classes):
        raise ValueError(f"cost must be ({num_classes}, {num_classes}), not {tuple(cost.shape)}")
    student_BK, teacher_BK = student.float(), teacher.detach().float()
    cost_KK = F.relu(cost.detach().float()) + _FLOOR
    first = student_BK.new_zeros(())
    # A class that is left out has no probability in both distributions, and so no flow.
    start_BK = torch.full_like(teacher_BK, 1 / num_classes)
    if target is not None:
        label_B = hard_labels(target, student)
        confidence_B = target_entries(F.softmax(teacher_BK, dim=1), label_B)
        first = -(confidence_B * target_entries(F.log_softmax(student_BK, dim=1), label_B)).mean()
        left_out_BK = F.one_hot(label_B, num_classes).bool()
        student_BK = student_BK.masked_fill(left_out_BK, _MASKED)
        teacher_BK = teacher_BK.masked_fill(left_out_BK, _MASKED)
        start_BK = torch.full_like(teacher_BK, 1 / (num_classes - 1)).masked_fill(left_out_BK, 0.0)
    distance_B = _sinkhorn(
        F.softmax(student_BK / temperature, dim=1),
        F.softmax(teacher_BK / temperature, dim=1),
        cost_KK,
        start_BK,
        regularization=regularization,
        iterations=iterations,
    )
    return first + weight * distance_B.mean()


def _sinkhorn(
    student_BK: Tensor, teacher_BK: Tensor, cost_KK: Tensor, start_BK: Tensor, *, regularization: float, iterations: int
) -> Tensor:
    """Cost (B,) of the regularized optimal flow from the student's to the teacher's distribution."""
    kernel_KK = torch.exp(-cost_KK / regularization)
    u_BK, v_BK = start_BK, start_BK
    for _ in range(iterations):
        v_BK = teacher_BK / (u_BK @ kernel_KK + _FLOOR)
        u_BK = student_BK / (v_BK @ kernel_KK.T + _FLOOR)
    return (u_BK @ (kernel_KK * cost_KK) * v_BK).sum(dim=1)


def wasserstein_features(
    student_map: Tensor, teacher_map: Tensor, *, mean_weight: float = 2.0, grid: int = 1, eps: float = 1e-5
) -> Tensor:
    """WKD-F: squared differences of each channel's mean, times ``mean_weight``, and of its standard deviation.

    Maps (B, D, H, W) of the same shape. Sums over channels, means over B and over the grid × grid windows of adaptive
    pooling; the deviation is √(variance + eps), with the number of positions − 1 in the denominator.
    """
    require_maps(student_map, teacher_map)
    if student_map.shape != teacher_map.shape:
        shapes = f"{tuple(student_map.shape)} and {tuple(teacher_map.shape)}"
        raise ValueError(f"projected maps must have the teacher's shape, not {shapes}")
    windows = [
        (slice(*rows), slice(*columns))
        for rows in _windows(student_map.shape[2], grid)
        for columns in _windows(student_map.shape[3], grid)
    ]
    total = student_map.new_zeros((), dtype=torch.float32)
    for rows, columns in windows:
        student_BDP = student_map[:, :, rows, columns].float().flatten(2)
        teacher_BDP = teacher_map[:, :, rows, columns].detach().float().flatten(2)
        means = (student_BDP.mean(dim=2) - teacher_BDP.mean(dim=2)).square().sum()
        deviations = [(part.var(dim=2) + eps).sqrt() for part in (student_BDP, teacher_BDP)]
        total = total + mean_weight * means + (deviations[0] - deviations[1]).square().sum()
    return total / (len(windows) * len(student_map))


def _windows(length: int, count: int) -> list[tuple[int, int]]:
    """First and last + 1 position of each window of adaptive pooling. Raises ValueError for windows of one position."""
    windows = [(index * length // count, math.ceil((index + 1) * length / count)) for index in range(count)]
    if min(end - start for start, end in windows) < 2:
        raise ValueError(f"windows of a grid of {count} on {length} positions have no deviation: lower grid")
    return windows


@torch.no_grad()
@outside_autocast
def class_distances(features: Tensor) -> Tensor:
    """Return 1 − linear CKA of each pair of classes, (K, K), for features (K, n, D) of n samples per class.

    Kornblith et al. 2019, arXiv:1905.00414. The pairing of the samples of two classes is arbitrary.
    """
    if features.ndim != 3 or features.shape[1] < 2:
        raise ValueError(f"features must be (K, n, D) with two or more samples per class, not {tuple(features.shape)}")
    centered_KnD = features.float() - features.float().mean(dim=1, keepdim=True)
    unit_KM = F.normalize((centered_KnD @ centered_KnD.mT).flatten(1), dim=1)
    return 1 - unit_KM @ unit_KM.T

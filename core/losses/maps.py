"""Losses between a pair of spatial maps (B, D, H, W) with P = H·W positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from core.losses.precision import outside_autocast
from core.losses.shapes import require_maps

CONTEXT_GRIDS = (4, 2, 1)


def attention_transfer(student_map: Tensor, teacher_map: Tensor, *, power: float = 2) -> Tensor:
    """AT: squared distance of the unit maps of mean_D f^power (Zagoruyko and Komodakis 2017, arXiv:1612.03928).

    Mean over B and positions. The larger map is pooled to the grid of the smaller; widths may differ. An odd power
    keeps the sign.
    """
    student_map, teacher_map = _on_one_grid(student_map, teacher_map)
    student_BP = F.normalize(student_map.pow(power).mean(dim=1).flatten(1), dim=1)
    teacher_BP = F.normalize(teacher_map.pow(power).mean(dim=1).flatten(1), dim=1)
    return (student_BP - teacher_BP).square().mean()


@outside_autocast
def neuron_selectivity(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """NST: maximum mean discrepancy of the channels' unit maps, kernel (a·b)² (Huang and Wang 2017).

    arXiv:1707.01219. The larger map is pooled to the grid of the smaller; widths may differ.
    """
    student_map, teacher_map = _on_one_grid(student_map, teacher_map)
    student_BDP = F.normalize(student_map.flatten(2), dim=2)
    teacher_BDP = F.normalize(teacher_map.flatten(2), dim=2)

    def kernel(a_BDP: Tensor, b_BDP: Tensor) -> Tensor:
        return (a_BDP @ b_BDP.transpose(1, 2)).square().mean()

    return kernel(teacher_BDP, teacher_BDP) + kernel(student_BDP, student_BDP) - 2 * kernel(student_BDP, teacher_BDP)


def _on_one_grid(student_map: Tensor, teacher_map: Tensor) -> tuple[Tensor, Tensor]:
    """Pool both maps to the smaller height and width of the two, in float32, with the teacher's detached."""
    require_maps(student_map, teacher_map)
    student, teacher = student_map.float(), teacher_map.detach().float()
    if student.shape[2:] == teacher.shape[2:]:
        return student, teacher
    grid = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    return F.adaptive_avg_pool2d(student, grid), F.adaptive_avg_pool2d(teacher, grid)


def unit_difference(student_map: Tensor, teacher_map: Tensor, *, remove_mean: bool = False) -> Tensor:
    """ScaleKD's mimicking: squared difference of the unit vectors at each position (Fan et al. 2024, arXiv:2411.06786).

    Sum over D and positions, mean over B, for maps of the same shape. ``remove_mean`` first subtracts each channel's
    mean over the positions of an image, which is what the official code reaches by zeroing the first entry of a DCT.
    """
    require_maps(student_map, teacher_map)
    if student_map.shape != teacher_map.shape:
        shapes = f"{tuple(student_map.shape)} and {tuple(teacher_map.shape)}"
        raise ValueError(f"projected maps must have the teacher's shape, not {shapes}")
    student, teacher = student_map.float(), teacher_map.detach().float()
    if remove_mean:
        student = student - student.mean(dim=(2, 3), keepdim=True)
        teacher = teacher - teacher.mean(dim=(2, 3), keepdim=True)
    return (F.normalize(student, dim=1) - F.normalize(teacher, dim=1)).square().sum() / len(student)


def hierarchical_context(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """ReviewKD's HCL: MSE at full size and on pooled grids of 4, 2 and 1, each with half the previous weight.

    Chen et al. 2021, arXiv:2104.09044; divided by the sum of weights. Grids that are not smaller than the map are left
    out. Both maps must have the same shape.
    """
    require_maps(student_map, teacher_map)
    if student_map.shape != teacher_map.shape:
        shapes = f"{tuple(student_map.shape)} and {tuple(teacher_map.shape)}"
        raise ValueError(f"fused maps must have the same shape, not {shapes}")
    student, teacher = student_map.float(), teacher_map.detach().float()
    total, weight, sum_of_weights = F.mse_loss(student, teacher), 1.0, 1.0
    for grid in CONTEXT_GRIDS:
        if grid < min(student.shape[2:]):
            weight /= 2
            sum_of_weights += weight
            pooled = F.adaptive_avg_pool2d(student, grid), F.adaptive_avg_pool2d(teacher, grid)
            total = total + weight * F.mse_loss(*pooled)
    return total / sum_of_weights


@outside_autocast
def spectral(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """SpectralKD: mean squared difference of the maps' spectra (Tian et al. 2024, arXiv:2412.19055).

    The spectrum is the orthonormal real 2-D Fourier transform over H and W; the mean is over its real and imaginary
    parts. The channels of a wider teacher are averaged to the student's number, neighbor by neighbor. Raises
    ``ValueError`` if the student is wider than the teacher, or their grids differ.
    """
    require_maps(student_map, teacher_map)
    width = student_map.shape[1]
    if width > teacher_map.shape[1] or student_map.shape[2:] != teacher_map.shape[2:]:
        shapes = f"{tuple(student_map.shape)} and {tuple(teacher_map.shape)}"
        raise ValueError(f"maps must have the same grid, and the student at most the teacher's channels, not {shapes}")
    student, teacher = student_map.float(), teacher_map.detach().float()
    if teacher.shape[1] > width:
        averaged_BPD = F.adaptive_avg_pool1d(teacher.flatten(2).transpose(1, 2), width)
        teacher = averaged_BPD.transpose(1, 2).reshape(student.shape)
    difference = torch.fft.rfft2(student - teacher, norm="ortho")  # the transform is linear
    return torch.view_as_real(difference).square().mean()


@outside_autocast
def target_aware(query: Tensor, key: Tensor, value: Tensor, target: Tensor, *, heads: int = 1) -> Tensor:
    """TaT: reconstruct each pixel of the teacher from all pixels of the student (Lin et al. 2022, arXiv:2205.10793).

    Maps (B, C, H, W) of the same shape: ``query`` and ``value`` embed the student's map, ``key`` and ``target`` the
    teacher's. MSE between softmax(q·k) v, with unscaled products, and the target. ``heads`` split the channels.
    """
    shapes = {tuple(embedded.shape) for embedded in (query, key, value, target)}
    if len(shapes) > 1 or query.ndim != 4:
        raise ValueError(f"query, key, value and target must have the same shape (B, C, H, W), not {sorted(shapes)}")
    if query.shape[1] % heads:
        raise ValueError(f"{heads} heads do not divide {query.shape[1]} channels")

    batch, channels = query.shape[:2]

    def split(embedded: Tensor) -> Tensor:
        return embedded.float().reshape(batch, heads, channels // heads, -1).transpose(2, 3)

    query_BhPd, key_BhPd, value_BhPd, target_BhPd = map(split, (query, key.detach(), value, target.detach()))
    attention_BhPP = (query_BhPd @ key_BhPd.transpose(2, 3)).softmax(dim=3)
    return F.mse_loss(attention_BhPP @ value_BhPd, target_BhPd)


def masked_generation(
    student_map: Tensor,
    teacher_map: Tensor,
    align: Callable[[Tensor], Tensor],
    generate: Callable[[Tensor], Tensor],
    mask: Tensor,
    *,
    alpha: float,
    reduction: Literal["sum", "mean"] = "sum",
) -> Tensor:
    """MGD: generate the teacher's map from the student's masked map (Yang et al. 2022, arXiv:2205.01529).

    ``align`` projects the student's map to the teacher's width. ``mask`` broadcasts over the result and is 1 at visible
    entries (the official code draws entire channels, (B, C, 1, 1)). ``sum``, the official form: alpha · summed squared
    error / B, so that a suitable alpha depends on the map's size. ``mean`` also divides by the C·H·W entries of a map:
    an alpha of the sum, times C·H·W, is the alpha of the mean.
    """
    require_maps(student_map, teacher_map)
    generated = generate(align(student_map) * mask)
    if generated.shape != teacher_map.shape:
        shapes = f"{tuple(generated.shape)}, not {tuple(teacher_map.shape)}"
        raise ValueError(f"the generated map must have the teacher's shape: it is {shapes}")
    error = F.mse_loss(generated.float(), teacher_map.detach().float(), reduction=reduction)
    return alpha * (error / len(teacher_map) if reduction == "sum" else error)

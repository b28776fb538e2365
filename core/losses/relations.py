"""Losses of relations between the samples of a batch. Pooled features (B, D) or flattened maps; widths may differ."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from core.losses.precision import outside_autocast
from core.losses.shapes import require_embeddings

PROBABILITY_FLOOR = 1e-7
DISTANCE_FLOOR = 1e-12


@outside_autocast
def similarity_preserving(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """SP: squared distance of the row-normalized Gram matrices of the batch, / B² (Tung and Mori 2019).

    arXiv:1907.09682, for features (B, ...).
    """
    require_embeddings(student_map, teacher_map)
    student_BD = student_map.float().flatten(1)
    teacher_BD = teacher_map.detach().float().flatten(1)
    student_BB = F.normalize(student_BD @ student_BD.T, dim=1)
    teacher_BB = F.normalize(teacher_BD @ teacher_BD.T, dim=1)
    return (teacher_BB - student_BB).square().mean()


@outside_autocast
def probabilistic_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """PKT: divergence of the samples' neighbor distributions, mean over B² (Passalis and Tefas 2018, arXiv:1803.10837).

    A neighbor distribution is a row of cosines, shifted to 0…1 and normalized to a sum of 1.
    """
    require_embeddings(student, teacher)
    student_BB = _neighbor_distributions(student.float().flatten(1))
    teacher_BB = _neighbor_distributions(teacher.detach().float().flatten(1))
    ratio_BB = (teacher_BB + PROBABILITY_FLOOR) / (student_BB + PROBABILITY_FLOOR)
    return (teacher_BB * ratio_BB.log()).mean()


def _neighbor_distributions(features_BD: Tensor) -> Tensor:
    norm_B1 = torch.linalg.vector_norm(features_BD, dim=1, keepdim=True)
    unit_BD = features_BD / (norm_B1 + PROBABILITY_FLOOR)
    similarity_BB: Tensor = (unit_BD @ unit_BD.T + 1) / 2
    return similarity_BB / similarity_BB.sum(dim=1, keepdim=True)


def relational_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """RKD's distances: smooth L1 between the batch's distances, each divided by their mean (Park et al. 2019).

    arXiv:1904.05068. Mean over B², the zeros of the diagonal included, as in the official code.
    """
    require_embeddings(student, teacher, num_samples=2)
    student_BB = _distances(student.float().flatten(1))
    teacher_BB = _distances(teacher.detach().float().flatten(1))
    return F.smooth_l1_loss(student_BB, teacher_BB)


def _distances(features_BD: Tensor) -> Tensor:
    """Distances (B, B) divided by the mean over pairs of samples; no gradient where two samples coincide."""
    distance_BB = torch.cdist(features_BD, features_BD, compute_mode="donot_use_mm_for_euclid_dist")
    num_samples = len(features_BD)
    mean = distance_BB.sum() / (num_samples * (num_samples - 1))
    return distance_BB / mean.clamp_min(DISTANCE_FLOOR)


@outside_autocast
def relational_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """RKD's angles: smooth L1 between the cosines of all triples of samples (Park et al. 2019).

    arXiv:1904.05068. Mean over B³, which is also the size in memory: keep B at 128 or below.
    """
    require_embeddings(student, teacher, num_samples=2)
    return F.smooth_l1_loss(_angles(student.float().flatten(1)), _angles(teacher.detach().float().flatten(1)))


def _angles(features_BD: Tensor) -> Tensor:
    unit_BBD = F.normalize(features_BD.unsqueeze(0) - features_BD.unsqueeze(1), dim=2)
    return unit_BBD @ unit_BBD.transpose(1, 2)


def correlation(student: Tensor, teacher: Tensor, *, scale: float = 0.02) -> Tensor:
    """Correlation congruence (Peng et al. 2019, arXiv:1904.01802) in the form of OFA-KD's code.

    scale · mean over adjacent samples i of Σ |s − t|_i · |s − t|_(i + 1). Embeddings (B, D) of the same shape.
    """
    require_embeddings(student, teacher, num_samples=2)
    if student.shape != teacher.shape:
        raise ValueError(f"embeddings must have the same shape, not {tuple(student.shape)} and {tuple(teacher.shape)}")
    gap_BD = (student.float() - teacher.detach().float()).abs()
    return scale * (gap_BD[:-1] * gap_BD[1:]).flatten(1).sum(dim=1).mean()

"""Losses of relations between logits, within a sample and across the batch. All logits are (B, C)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from core.losses.precision import outside_autocast
from core.losses.shapes import require_logits

STANDARD_DEVIATION_FLOOR = 1e-7
CORRELATION_FLOOR = 1e-8


def dist(student: Tensor, teacher: Tensor, *, beta: float, gamma: float, temperature: float) -> Tensor:
    """DIST: one minus Pearson's correlation, of samples (beta) and of classes (gamma) (Huang et al. 2022).

    arXiv:2205.10536, on softened probabilities, times T². A class whose probability is constant in the batch has a
    correlation of 0, so use batches of 64 or more.
    """
    require_logits(student, teacher)
    student_BC = F.softmax(student.float() / temperature, dim=1)
    teacher_BC = F.softmax(teacher.detach().float() / temperature, dim=1)
    between_classes = 1 - _pearson(student_BC, teacher_BC).mean()
    between_samples = 1 - _pearson(student_BC.T, teacher_BC.T).mean()
    return temperature**2 * (beta * between_classes + gamma * between_samples)


def _pearson(student_RC: Tensor, teacher_RC: Tensor) -> Tensor:
    """Pearson correlation (R,) of each student row with the teacher row of the same index."""
    student_RC = student_RC - student_RC.mean(dim=1, keepdim=True)
    teacher_RC = teacher_RC - teacher_RC.mean(dim=1, keepdim=True)
    norms_R: Tensor = torch.linalg.vector_norm(student_RC, dim=1) * torch.linalg.vector_norm(teacher_RC, dim=1)
    correlation_R: Tensor = (student_RC * teacher_RC).sum(dim=1) / (norms_R + CORRELATION_FLOOR)
    return correlation_R


def standardize(logits: Tensor) -> Tensor:
    """Standardize logits (B, C) to mean 0 and standard deviation 1 per sample (Sun et al. 2024, arXiv:2403.01427).

    The deviation divides by C − 1, and the gradient flows through both moments. Returns (B, C), for any logit loss of
    both networks.
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"logits must be (B, C) with two or more classes, not {tuple(logits.shape)}")
    logits_BC = logits.float()
    deviation_B1 = logits_BC.std(dim=1, keepdim=True)
    return (logits_BC - logits_BC.mean(dim=1, keepdim=True)) / (STANDARD_DEVIATION_FLOOR + deviation_B1)


@outside_autocast
def class_correlation(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """MLKD's class term: Σ (PᵀP of the teacher − of the student)² / C (Jin et al. 2023, CVPR)."""
    require_logits(student, teacher)
    student_BC = F.softmax(student.float() / temperature, dim=1)
    teacher_BC = F.softmax(teacher.detach().float() / temperature, dim=1)
    return (teacher_BC.T @ teacher_BC - student_BC.T @ student_BC).square().sum() / student.shape[1]


@outside_autocast
def batch_correlation(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """MLKD's batch term: Σ (PPᵀ of the teacher − of the student)² / B (Jin et al. 2023, CVPR)."""
    require_logits(student, teacher)
    student_BC = F.softmax(student.float() / temperature, dim=1)
    teacher_BC = F.softmax(teacher.detach().float() / temperature, dim=1)
    return (teacher_BC @ teacher_BC.T - student_BC @ student_BC.T).square().sum() / student.shape[0]

"""Shape checks of pairs of tensors, before broadcasting can hide a mistake. Each raises ``ValueError``."""

from __future__ import annotations

from torch import Tensor


def require_logits(student: Tensor, teacher: Tensor, *, num_classes: int = 1, num_samples: int = 1) -> None:
    """Require logits (B, C) of the same shape, at least ``num_samples`` by ``num_classes``."""
    if student.ndim != 2 or student.shape != teacher.shape:
        raise ValueError(f"logits must be (B, C) of the same shape, not {_pair(student, teacher)}")
    if student.shape[0] < num_samples or student.shape[1] < num_classes:
        raise ValueError(f"needs at least {num_samples} samples and {num_classes} classes, not {tuple(student.shape)}")


def require_embeddings(student: Tensor, teacher: Tensor, *, num_samples: int = 1) -> None:
    """Require features (B, ...) of the same samples, at least ``num_samples``; widths may differ."""
    if student.ndim < 2 or teacher.ndim < 2 or len(student) != len(teacher):
        raise ValueError(f"features must be (B, ...) of the same samples, not {_pair(student, teacher)}")
    if len(student) < num_samples:
        raise ValueError(f"needs at least {num_samples} samples, not {len(student)}")


def require_maps(student_map: Tensor, teacher_map: Tensor) -> None:
    """Require maps (B, D, H, W) of the same samples; widths and grids may differ."""
    if student_map.ndim != 4 or teacher_map.ndim != 4 or len(student_map) != len(teacher_map):
        raise ValueError(f"maps must be (B, D, H, W) of the same samples, not {_pair(student_map, teacher_map)}")


def require_tokens(student_tokens: Tensor, teacher_tokens: Tensor) -> None:
    """Require tokens (B, N, D) with the same B and N; widths may differ."""
    if student_tokens.ndim != 3 or teacher_tokens.ndim != 3 or student_tokens.shape[:2] != teacher_tokens.shape[:2]:
        raise ValueError(f"tokens must be (B, N, D) with the same B and N, not {_pair(student_tokens, teacher_tokens)}")


def _pair(student: Tensor, teacher: Tensor) -> str:
    return f"{tuple(student.shape)} and {tuple(teacher.shape)}"

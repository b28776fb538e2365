"""Divergences that separate the target class from the other classes.

Logits (B, C); a target is (B,) int64, or (B, C) probabilities, of which the most probable class is used. O are the
C − 1 other classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from core.losses.divergence import kd
from core.losses.labels import hard_labels, other_entries, target_entries
from core.losses.logit_relations import standardize
from core.losses.shapes import require_logits

_MASKED = -1e9  # logit of a class that is left out; finite, so that a sample without any other class has no NaN


def decoupled(
    student: Tensor, teacher: Tensor, target: Tensor, *, alpha: float, beta: float, temperature: float
) -> Tensor:
    """DKD: alpha · target-class divergence + beta · divergence among the others (Zhao et al. 2022, arXiv:2203.08679).

    Both terms have a factor T² and are divided by B. The warm-up of the official recipe is up to the caller.
    """
    require_logits(student, teacher, num_classes=2)
    label_B = hard_labels(target, student)
    student_BC, teacher_BC = student.float(), teacher.detach().float()
    two_way = kd(
        _binary_logits(student_BC / temperature, label_B),
        _binary_logits(teacher_BC / temperature, label_B),
        temperature=1.0,
    )
    others = kd(other_entries(student_BC, label_B), other_entries(teacher_BC, label_B), temperature=temperature)
    return alpha * temperature**2 * two_way + beta * others


def _binary_logits(logits_BC: Tensor, label_B: Tensor) -> Tensor:
    """Logits (B, 2) of the target class against all other classes together."""
    others_B = other_entries(logits_BC, label_B).logsumexp(dim=1)
    return torch.stack([target_entries(logits_BC, label_B), others_B], dim=1)


def normalized(student: Tensor, teacher: Tensor, target: Tensor, *, gamma: float, temperature: float) -> Tensor:
    """NKD: −p_t[y] log p_s[y] − gamma · T² · Σ p̂_t log p̂_s over the others (Yang et al. 2023, arXiv:2303.13005).

    The probabilities p̂ of the others are normalized to 1. The target's term is at T = 1, as in the official code.
    """
    require_logits(student, teacher, num_classes=2)
    label_B = hard_labels(target, student)
    student_BC, teacher_BC = student.float(), teacher.detach().float()
    log_student_B = target_entries(F.log_softmax(student_BC, dim=1), label_B)
    teacher_B = target_entries(F.softmax(teacher_BC, dim=1), label_B)
    log_student_BO = F.log_softmax(other_entries(student_BC, label_B) / temperature, dim=1)
    teacher_BO = F.softmax(other_entries(teacher_BC, label_B) / temperature, dim=1)
    others = -(teacher_BO * log_student_BO).sum(dim=1).mean() * temperature**2
    return -(teacher_B * log_student_B).mean() + gamma * others


def weighted_soft_labels(
    student: Tensor, teacher: Tensor, target: Tensor, *, alpha: float, temperature: float
) -> Tensor:
    """WSLD: soft labels count less for samples the student predicts better (Zhou et al. 2021, arXiv:2102.00650).

    alpha · T² · mean of (1 − exp(−CE_s / CE_t)) · −Σ p_t log p_s; the weight has no gradient.
    """
    require_logits(student, teacher)
    label_B = hard_labels(target, student)
    student_BC, teacher_BC = student.float(), teacher.detach().float()
    student_error_B = F.cross_entropy(student_BC.detach(), label_B, reduction="none")
    teacher_error_B = F.cross_entropy(teacher_BC, label_B, reduction="none")
    weight_B = -torch.expm1(-student_error_B / (teacher_error_B + 1e-7))
    log_student_BC = F.log_softmax(student_BC / temperature, dim=1)
    soft_B = -(F.softmax(teacher_BC / temperature, dim=1) * log_student_BC).sum(dim=1)
    return alpha * temperature**2 * (weight_B * soft_B).mean()


def one_for_all(student: Tensor, teacher: Tensor, target: Tensor, *, epsilon: float, temperature: float) -> Tensor:
    """OFA: Σ −((p_t + m)^epsilon − m) log p_s, where m is the one-hot target, mean over B (Hao et al. 2023).

    arXiv:2310.19444. No factor T². At epsilon = T = 1 its gradient equals that of :func:`core.losses.kd`.
    """
    require_logits(student, teacher)
    label_B1 = hard_labels(target, student).unsqueeze(1)
    label_BC = torch.zeros_like(student, dtype=torch.float32).scatter(1, label_B1, 1.0)
    teacher_BC = F.softmax(teacher.detach().float() / temperature, dim=1)
    log_student_BC = F.log_softmax(student.float() / temperature, dim=1)
    weight_BC = (teacher_BC + label_BC).pow(epsilon) - label_BC
    return -(weight_BC * log_student_BC).sum(dim=1).mean()


def refined(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    alpha: float = 1.0,
    beta: float,
    temperature: float,
    alpha_temperature: float = 1.0,
    standardized: bool = False,
) -> Tensor:
    """RLD: alpha · confidence + beta · classes below the target (Sun et al. 2024, arXiv:2408.07703).

    The first term is T_a² · KL between (1 − p, p) of the teacher's most probable class, whichever it is, and of the
    student's target class, with T_a = ``alpha_temperature``. The second is T² · KL among the classes whose teacher
    logit is below that of the target: what the teacher ranks above the target is not taught. Both are divided by B. A
    sample without such classes adds 0. ``standardized`` standardizes both logits first.
    """
    require_logits(student, teacher, num_classes=2)
    label_B = hard_labels(target, student)
    student_BC, teacher_BC = student.float(), teacher.detach().float()
    if standardized:
        student_BC, teacher_BC = standardize(student_BC), standardize(teacher_BC)
    confidence = kd(
        _binary_logits(student_BC / alpha_temperature, label_B),
        _binary_logits(teacher_BC / alpha_temperature, teacher_BC.argmax(dim=1)),
        temperature=1.0,
    )
    left_out_BC = teacher_BC >= teacher_BC.gather(1, label_B.unsqueeze(1))
    below = kd(
        student_BC.masked_fill(left_out_BC, _MASKED),
        teacher_BC.masked_fill(left_out_BC, _MASKED),
        temperature=temperature,
    )
    return alpha * alpha_temperature**2 * confidence + beta * below

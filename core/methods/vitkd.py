"""ViTKD: the student imitates the teacher's first blocks and generates its last tokens from a masked part of its own.

Paper: Yang et al. 2022, arXiv:2209.02432. The tokens of the first two blocks, projected if the widths differ, regress
the teacher's. A random part of the last tokens, after the final norm, is replaced by one learned token, and two 3 × 3
convolutions with a ReLU generate the teacher's tokens there. Formula and deviations:
:class:`core.spec.methods.vitkd.VitkdParams`.

Projectors, mask token and generator are dropped at export. Shapes: B images, N patch tokens, M masked ones, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.methods.base import Batch, MethodContext, invalid_architecture
from core.methods.compatibility import check_levels, pair_levels
from core.methods.feature_base import FeatureMethod
from core.models.align import TokenProjector, coarser_grid, map_generator, resample
from core.models.structure import FeatureLevel, ModelStructure
from core.models.taps import Feature, FeatureRequest, Outputs
from core.spec.methods.vitkd import VitkdParams

_NUM_IMITATED_BLOCKS = 2


class TokenGenerator(nn.Module):
    """Generate the teacher's tokens at masked positions."""

    def __init__(self, student_width: int, teacher_width: int, *, masked: float) -> None:
        super().__init__()
        self.masked = masked
        self.mask_token = nn.Parameter(torch.zeros(1, 1, teacher_width))
        self.align = _aligner(student_width, teacher_width)
        self.generate = map_generator(teacher_width)

    def forward(self, student: Feature, teacher: Feature, noise_BN: Tensor) -> Tensor:
        """Squared error, mean over B · M · D. The M tokens with the largest ``noise_BN`` are masked, at least one."""
        batch, num_tokens = noise_BN.shape
        num_visible = min(int(num_tokens * (1 - self.masked)), num_tokens - 1)
        rank_BN = noise_BN.argsort(dim=1).argsort(dim=1)
        is_masked_BN1 = (rank_BN >= num_visible).unsqueeze(-1)
        masked_BND = torch.where(is_masked_BN1, self.mask_token, self.align(student.tokens.float()))
        generated_BND = self.generate(Feature(masked_BND, student.grid).map).flatten(2).transpose(1, 2)
        error_BND = (generated_BND - teacher.tokens.float()).square() * is_masked_BN1
        num_entries = batch * (num_tokens - num_visible) * error_BND.shape[2]
        mean: Tensor = error_BND.sum() / num_entries
        return mean


class Vitkd(FeatureMethod):
    """Terms ``imitation`` and ``generation``."""

    def __init__(self, params: VitkdParams, context: MethodContext) -> None:
        super().__init__(params, context)
        self.params = params
        student, teacher = context.student_structure, context.teacher_structures[0]
        student_last = _last(student, "student", params.name)
        teacher_last = _last(teacher, "teachers/0", params.name)
        depth = min(_NUM_IMITATED_BLOCKS, len(student.levels), len(teacher.levels))
        layers = params.layers or tuple((block, block) for block in range(depth))
        self.pairs = pair_levels(student, teacher, layers, count=depth, method=params.name)
        self.imitations = nn.ModuleList(
            _aligner(student.levels[s].width, teacher.levels[t].width) for s, t in self.pairs
        )
        self.generator = TokenGenerator(student_last.width, teacher_last.width, masked=params.masked)
        self.student_taps = FeatureRequest(levels=tuple(s for s, _ in self.pairs), last=True)
        self.teacher_taps = FeatureRequest(levels=tuple(t for _, t in self.pairs), last=True)

    def feature_terms(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs]) -> dict[str, Tensor]:
        """``imitation``, the sum over the pairs, and ``generation``, each with its weight."""
        errors = []
        for (s, t), align in zip(self.pairs, self.imitations, strict=True):
            source, target = _on_coarser_grid(student.levels[s], teachers[0].levels[t])
            errors.append(F.mse_loss(align(source.tokens.float()), target.tokens.float()))
        assert student.last is not None
        assert teachers[0].last is not None
        source, target = _on_coarser_grid(student.last, teachers[0].last)
        noise_BN = torch.rand(source.tokens.shape[:2], device=source.tokens.device)
        return {
            "imitation": self.params.imitation_weight * torch.stack(errors).sum(),
            "generation": self.params.generation_weight * self.generator(source, target, noise_BN),
        }


def _aligner(student_width: int, teacher_width: int) -> nn.Module:
    return nn.Identity() if student_width == teacher_width else TokenProjector(student_width, teacher_width)


def _on_coarser_grid(student: Feature, teacher: Feature) -> tuple[Feature, Feature]:
    grid = coarser_grid(student.grid, teacher.grid)
    return resample(student, grid), resample(teacher, grid)


def _last(structure: ModelStructure, model_field: str, method: str) -> FeatureLevel:
    """The last tokens of a plain ViT. Raises ``InvalidSpec`` for other networks."""
    check_levels(structure, model_field, method)
    if structure.last is None or not structure.is_vit:
        raise invalid_architecture(
            model_field,
            f"{method} compares the blocks of plain ViTs, and {structure.architecture} is none; use a vit_* or deit_* "
            "architecture, or method mgd",
        )
    return structure.last

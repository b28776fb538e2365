"""Features of ViTs: imitate the first blocks, generate the last tokens.

Yang et al. 2022, arXiv:2209.02432. The tokens of the first two blocks, projected where the widths differ,
regress the teacher's; of the last tokens, behind the final norm, a random part is replaced by one learned
token, and two 3 × 3 convolutions with a ReLU generate the teacher's there. Both squared errors are summed over
tokens and channels and divided by the batch size, the second by the masked part as well, as in the official
code; so the weights do not transfer between widths and resolutions. Prefix tokens are left out; unlike grids
are brought to the coarser one (the official code needs equal ones). Projectors, mask token and generator are
dropped at export.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.methods.base import Batch, MethodContext, invalid_architecture
from core.methods.compatibility import check_levels, pair_levels
from core.methods.feature_base import FeatureMethod
from core.models.align import TokenProjector, coarser, map_generator, resampled
from core.models.structure import FeatureLevel, ModelStructure
from core.models.taps import Feature, FeatureRequest, Outputs
from core.spec.methods.vitkd import VitkdParams

_IMITATED = 2


class TokenGenerator(nn.Module):
    """Generates the teacher's tokens at masked places."""

    def __init__(self, width: int, wanted: int, *, masked: float) -> None:
        super().__init__()
        self.masked = masked
        self.mask_token = nn.Parameter(torch.zeros(1, 1, wanted))
        self.align = _aligner(width, wanted)
        self.generate = map_generator(wanted)

    def forward(self, student: Feature, teacher: Feature, noise_BN: Tensor) -> Tensor:
        """Squared error at masked tokens, summed / (B · masked part). ``noise_BN`` orders a picture's tokens."""
        batch, num_tokens = noise_BN.shape
        rank_BN = noise_BN.argsort(dim=1).argsort(dim=1)
        is_masked_BN1 = (rank_BN >= int(num_tokens * (1 - self.masked))).unsqueeze(-1)
        seen_BND = torch.where(is_masked_BN1, self.mask_token, self.align(student.tokens.float()))
        generated_BND = self.generate(Feature(seen_BND, student.grid).map).flatten(2).transpose(1, 2)
        error_BND = (generated_BND - teacher.tokens.float()).square() * is_masked_BN1
        total: Tensor = error_BND.sum() / (batch * self.masked)
        return total


class Vitkd(FeatureMethod):
    """Imitation and generation."""

    def __init__(self, params: VitkdParams, setting: MethodContext) -> None:
        super().__init__(params, setting)
        self.params = params
        mine, theirs = setting.student_structure, setting.teacher_structures[0]
        ends = _last(mine, "student", params.name), _last(theirs, "teachers/0", params.name)
        depth = min(_IMITATED, len(mine.levels), len(theirs.levels))
        first = params.layers or tuple((block, block) for block in range(depth))
        self.pairs = pair_levels(mine, theirs, first, count=depth, method=params.name)
        self.imitations = nn.ModuleList(_aligner(mine.levels[s].width, theirs.levels[t].width) for s, t in self.pairs)
        self.generator = TokenGenerator(ends[0].width, ends[1].width, masked=params.masked)
        self.student_taps = FeatureRequest(levels=tuple(s for s, _ in self.pairs), last=True)
        self.teacher_taps = FeatureRequest(levels=tuple(t for _, t in self.pairs), last=True)

    def feature_terms(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs]) -> dict[str, Tensor]:
        """``imitation``, the sum over the pairs, and ``generation``, each with its weight."""
        errors = []
        for (mine, theirs), align in zip(self.pairs, self.imitations, strict=True):
            own, guide = _on_one_grid(student.levels[mine], teachers[0].levels[theirs])
            errors.append(
                F.mse_loss(align(own.tokens.float()), guide.tokens.float(), reduction="sum") / len(own.tokens)
            )
        assert student.last is not None
        assert teachers[0].last is not None
        own, guide = _on_one_grid(student.last, teachers[0].last)
        noise_BN = torch.rand(own.tokens.shape[:2], device=own.tokens.device)
        return {
            "imitation": self.params.imitation_weight * torch.stack(errors).sum(),
            "generation": self.params.generation_weight * self.generator(own, guide, noise_BN),
        }


def _aligner(width: int, wanted: int) -> nn.Module:
    return nn.Identity() if width == wanted else TokenProjector(width, wanted)


def _on_one_grid(student: Feature, teacher: Feature) -> tuple[Feature, Feature]:
    grid = coarser(student.grid, teacher.grid)
    return resampled(student, grid), resampled(teacher, grid)


def _last(anatomy: ModelStructure, whose: str, method: str) -> FeatureLevel:
    """The last tokens of a plain ViT. Raises ``InvalidSpec`` for other networks."""
    check_levels(anatomy, whose, method)
    if anatomy.last is None or not anatomy.is_vit:
        raise invalid_architecture(
            whose,
            f"{method} compares the blocks of plain ViTs, and {anatomy.architecture} is none; use a vit_* or deit_* "
            "architecture, or mgd",
        )
    return anatomy.last

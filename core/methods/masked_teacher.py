"""The teacher sees only what the student looks at: MaskedKD.

Son et al. 2024, arXiv:2302.10494. The student goes first; the attention of its last block's class token
to the patches, mean over the heads, picks the patches that the ViT teacher sees, with their positions.
Defaults of the official code: half the patches, 0.5 · labels + 0.5 · KL at temperature 1.

Deviations: where the two patch grids differ, the student's attention is brought to the teacher's grid
(the paper's grids are alike), and any logit method can be the term. Nothing is dropped at export.
Shapes: B pictures, h heads, T student tokens, P of them prefix tokens, N patches, K seen patches.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from core.methods.base import Batch, Method, MethodContext, StepContext, invalid_architecture
from core.methods.logit_base import LogitMethod
from core.methods.registry import build_method
from core.models.align import resampled
from core.models.patch_masking import seeing_only, sees_patches
from core.models.structure import ModelStructure
from core.models.taps import Feature, FeatureRequest, Outputs
from core.spec.methods import METHODS
from core.spec.methods.masked_teacher import MaskedTeacherParams

_PAPERS_TEMPERATURE = 1.0  # of kd


class MaskedTeacher(Method):
    """Any logit term from a teacher that sees a part of each picture."""

    def __init__(self, params: MaskedTeacherParams, setting: MethodContext) -> None:
        super().__init__(setting)
        mine, theirs = setting.student_structure, setting.teacher_structures[0]
        _check_student(mine)
        if not sees_patches(setting.teachers[0].module) or not theirs.is_vit:
            raise invalid_architecture(
                "teachers/0",
                f"masked_teacher leaves out patches of a plain ViT (vit_*, deit_*), and {theirs.architecture} is "
                "none; choose such a teacher, or method kd",
            )
        self.params = params
        self.prefix, self.grid = mine.num_prefix_tokens, mine.levels[-1].grid
        self.teacher_grid = theirs.levels[0].grid
        self.num_seen = max(1, round(params.keep * theirs.levels[0].tokens))
        self.last = len(mine.attentions) - 1
        self.student_taps = FeatureRequest(attentions=(self.last,))
        self.logit_method = _logit_method(params, setting)
        self.per_sample = self.logit_method.per_sample

    def terms(self, batch: Batch, room: StepContext) -> dict[str, Tensor]:
        """``label`` and ``distillation``, weighted; the student answers before its teacher does."""
        student = room.student(batch.images)
        (teacher,) = room.teachers
        with seeing_only(teacher.built.module, self.chosen(student)):
            guide = teacher(batch.images)
        return {
            "label": self.params.label_weight * self.label_loss(student.logits, batch),
            "distillation": self.params.logits_weight * self.logit_method.distillation(student.logits, [guide], batch),
        }

    def chosen(self, student: Outputs) -> Tensor:
        """Places on the teacher's grid that it is to see, (B, K) int64."""
        weights_BhTT = student.attentions[self.last].weights
        assert weights_BhTT is not None, "checked when the method was built"
        attention_BN = weights_BhTT.detach().mean(dim=1)[:, 0, self.prefix :]
        on_grid = resampled(Feature(attention_BN.unsqueeze(2), self.grid), self.teacher_grid)
        return on_grid.tokens.squeeze(2).topk(self.num_seen, dim=1).indices


def _check_student(anatomy: ModelStructure) -> None:
    last = anatomy.attentions[-1] if anatomy.attentions else None
    readable = last is not None and last.has_weights and last.windows == 1
    if not (anatomy.is_vit and anatomy.has_class_token and readable):
        raise invalid_architecture(
            "student",
            f"masked_teacher reads the attention of the class token in the last block, and {anatomy.architecture} "
            "has none that can be read; use a plain ViT with a class token, or method kd",
        )


def _logit_method(params: MaskedTeacherParams, setting: MethodContext) -> LogitMethod:
    given: dict[str, Any] = {"name": params.logits}
    if params.temperature is not None or params.logits == "kd":
        given["temperature"] = params.temperature or _PAPERS_TEMPERATURE
    built = build_method(METHODS[params.logits].params.model_validate(given), setting)
    assert isinstance(built, LogitMethod), f"{params.logits} compares more than logits"
    return built

"""MaskedKD: the teacher sees only the patches that the student attends to.

Paper: Son et al. 2024, arXiv:2302.10494. The student runs first. The attention of its last block's class token to the
patches, mean over the heads, selects the patches (with their positions) that the ViT teacher sees. Defaults are those
of the official code: half of the patches, 0.5 · labels + 0.5 · KL at temperature 1.

Deviations: different patch grids are supported by resampling the student's attention to the teacher's grid (the
paper's grids are equal), and any logit method can be the term. Nothing is dropped at export.

Shapes: B images, h heads, T student tokens, P of them prefix tokens, N patches, K visible patches.
"""

from __future__ import annotations

from torch import Tensor

from core.methods.base import Batch, Method, MethodContext, StepContext, invalid_architecture
from core.methods.logit_base import LogitMethod, build_logit_term
from core.models.align import resample
from core.models.patch_masking import mask_patches, supports_patch_masking
from core.models.structure import ModelStructure
from core.models.taps import Feature, FeatureRequest, Outputs
from core.spec.methods.masked_teacher import MaskedTeacherParams

_KD_TEMPERATURE = 1.0  # the paper's


class MaskedTeacher(Method):
    """Terms ``label`` and ``distillation``, any logit method with a teacher that sees a part of each image."""

    def __init__(self, params: MaskedTeacherParams, context: MethodContext) -> None:
        super().__init__(context)
        student, teacher = context.student_structure, context.teacher_structures[0]
        _check_student(student)
        if not supports_patch_masking(context.teachers[0].module) or not teacher.is_vit:
            raise invalid_architecture(
                "teachers/0",
                f"masked_teacher needs a plain ViT (vit_*, deit_*) as teacher, and {teacher.architecture} is none; "
                "choose such a teacher, or method kd",
            )
        self.params = params
        self.num_prefix_tokens, self.grid = student.num_prefix_tokens, student.levels[-1].grid
        self.teacher_grid = teacher.levels[0].grid
        self.num_visible = max(1, round(params.keep * teacher.levels[0].tokens))
        self.last_attention = len(student.attentions) - 1
        self.student_taps = FeatureRequest(attentions=(self.last_attention,))
        self.logit_method = _logit_method(params, context)
        self.per_sample = self.logit_method.per_sample

    def terms(self, batch: Batch, step: StepContext) -> dict[str, Tensor]:
        """``label`` and ``distillation``, weighted; the student runs before its teacher."""
        student = step.student(batch.images)
        (teacher_network,) = step.teachers
        with mask_patches(teacher_network.built.module, self.visible_patches(student)):
            teacher = teacher_network(batch.images)
        divergence = self.logit_method.distillation(student.logits, [teacher], batch)
        return {
            **self.label_term(self.params.label_weight, student.logits, batch),
            "distillation": self.params.logits_weight * divergence,
        }

    def visible_patches(self, student: Outputs) -> Tensor:
        """Indices on the teacher's grid of the patches that the teacher sees, (B, K) int64."""
        weights_BhTT = student.attentions[self.last_attention].weights
        assert weights_BhTT is not None, "checked when the method was built"
        attention_BN = weights_BhTT.detach().mean(dim=1)[:, 0, self.num_prefix_tokens :]
        resampled_attention = resample(Feature(attention_BN.unsqueeze(2), self.grid), self.teacher_grid)
        return resampled_attention.tokens.squeeze(2).topk(self.num_visible, dim=1).indices


def _check_student(structure: ModelStructure) -> None:
    last = structure.attentions[-1] if structure.attentions else None
    is_readable = last is not None and last.has_weights and last.windows == 1
    if not (structure.is_vit and structure.has_class_token and is_readable):
        raise invalid_architecture(
            "student",
            f"masked_teacher reads the attention of the class token in the last block, and {structure.architecture} "
            "has none that can be read; use a plain ViT with a class token, or method kd",
        )


def _logit_method(params: MaskedTeacherParams, context: MethodContext) -> LogitMethod:
    temperature = _KD_TEMPERATURE if params.temperature is None and params.logits == "kd" else params.temperature
    return build_logit_term(params.logits, context, temperature=temperature)

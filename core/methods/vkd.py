"""VkD: an orthogonal projection of the student's pooled feature regresses the teacher's normalized one.

Paper: Miles et al. 2024, arXiv:2403.06213: cross-entropy of the class head with the labels + logits_weight · T² · KL of
the distillation token's head + weight · smooth L1 between the projected mean of the student's patch tokens and the
teacher's mean feature after a layer norm without parameters. Both are read after the final norm; that of a CNN is its
last map. The projection preserves the distances of the student's features, so it cannot learn the teacher's part of
the task; its trained parameter has no weight decay. It is dropped at export. At inference the student averages both
heads.

The paper's student is not a plain DeiT: it has the convolutional stem of Co-advise, whose mean is the distillation
token's input (``stem: conv``). Recipe: 300 epochs, AdamW 5e-4 without warm-up, mixup 0.8, cutmix 1.

Deviations: the feature of a ViT teacher is the mean of its patch tokens (the paper's teachers are CNNs); the
projection has no scale and bias after it with ``standard``. Shapes: B images, N patch tokens, d and D widths of student
and teacher.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from core.losses import kd, normalized_regression
from core.methods.base import Batch, Method, MethodContext, StepInfo, invalid_architecture, invalid_param
from core.methods.compatibility import check_batch, last_level, return_all_logits
from core.models.align import OrthogonalProjector
from core.models.structure import ModelStructure
from core.models.student_variants import StudentVariant
from core.models.taps import Feature, FeatureRequest, Outputs
from core.spec.methods.vkd import VkdParams


class Vkd(Method):
    """Terms ``label``, ``distillation`` and ``features``."""

    def __init__(self, params: VkdParams, context: MethodContext) -> None:
        super().__init__(context)
        self.params = params
        for parameter, token in (("label_weight", "class token"), ("logits_weight", "distillation token")):
            if params.token and getattr(params, parameter) == 0:
                raise invalid_param(parameter, f"the {token} learns from nothing else; raise it, or set token to false")
        if params.normalization == "standard":
            check_batch(context, params.name)
            self.per_sample = False
        student, teacher = context.student_structure, context.teacher_structures[0]
        self.project = OrthogonalProjector(
            last_level(student, "student", "vkd").width, last_level(teacher, "teachers/0", "vkd").width
        )
        self.student_taps = self.teacher_taps = FeatureRequest(last=True)

    @classmethod
    def student_variant(
        cls, params: VkdParams, student: ModelStructure, teachers: Sequence[ModelStructure]
    ) -> StudentVariant | None:
        """A ViT with a distillation token, with convolutions as its stem, or both; None for the student itself."""
        if not params.token and params.stem == "patch":
            return None
        if not student.is_vit:
            raise invalid_architecture(
                "student",
                f"a distillation token and the stem conv need a plain ViT, and {student.architecture} is none; use a "
                "vit_* or deit_*, or set token to false and stem to patch",
            )
        if params.stem == "patch":
            return StudentVariant("distilled")
        return StudentVariant("flexible", {"distillation_tokens": int(params.token), "stem": "conv"})

    @property
    def reads_teacher_logits(self) -> bool:
        """Whether there is a term ``distillation``."""
        return self.params.logits_weight > 0

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters without weight decay, by timm's convention: decay would set the projection to 0."""
        return {f"project.{name}" for name, _ in self.project.named_parameters()}

    def prepare_student(self, student: nn.Module) -> None:
        """Make a student with a distillation token return the logits of both heads in training mode.

        Raises ``SpecCannotRun`` for a student without the token.
        """
        if self.params.token:
            return_all_logits(student, "vkd", fix="choose a ViT as student, or set token to false")

    def loss(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs], info: StepInfo) -> dict[str, Tensor]:
        """All terms, weighted; without ``distillation`` if its weight is 0."""
        params, (teacher,) = self.params, teachers
        terms = self.label_term(params.label_weight, student.logits, batch)
        if params.logits_weight > 0:
            logits_BC = student.token_logits[0] if params.token else student.logits
            terms["distillation"] = params.logits_weight * kd(logits_BC, teacher.logits, temperature=params.temperature)
        assert student.last is not None
        assert teacher.last is not None
        projected_BD = self.project(_pooled(student.last))
        terms["features"] = params.weight * normalized_regression(
            projected_BD, _pooled(teacher.last), normalization=params.normalization
        )
        return terms


def _pooled(feature: Feature) -> Tensor:
    """Mean of the patch tokens in float32, (B, width)."""
    return feature.tokens.float().mean(dim=1)

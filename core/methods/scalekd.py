"""ScaleKD: a student learns a strong teacher's last features, also through the teacher's own last stage.

Paper: Fan et al. 2024, arXiv:2411.06786. Attention projectors map maps of the student to the teacher's grid and width.
The projected last map matches the teacher's last features as unit vectors, once directly and once without each
channel's mean; each of the two views has projectors of its own. The student's map before is projected to the input of
the teacher's last stage and passes through that stage, which is frozen and lets gradients through. Its output matches
the same features, and is the query of the last map's projectors. Further terms: (1 − alpha) · labels + alpha · logits.
Projectors are dropped at export.

Deviations: the sum over positions is scaled by 49 / positions, so that the weights hold for any grid; projectors
have up to 8 heads; the logit term is a KL divergence, with the same gradient as the paper's cross-entropy. A plain
ViT has four stages of a quarter of its blocks; as a teacher it runs its last stage on patch tokens only, as in the
official code.

The teacher's last features and logits can be cached. Its last stage is used directly, in evaluation mode.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from core.losses import unit_difference
from core.methods.base import Batch, Method, MethodContext, StepContext, invalid_architecture
from core.methods.compatibility import check_levels, last_level
from core.methods.ema_teacher import precision_of
from core.methods.logit_base import LogitMethod
from core.methods.registry import build_method
from core.models.attention_projector import AttentionProjector
from core.models.last_stage import last_stage_input, run_last_stage, stage_levels
from core.models.structure import FeatureLevel
from core.models.taps import Feature, FeatureRequest
from core.spec.methods import METHODS
from core.spec.methods.scalekd import ScalekdParams

_PAPER_POSITIONS = 49  # of the last map of a Swin at 224 × 224 pixels
_KD_TEMPERATURE = 1.0  # the paper's
_VIEWS = ("direct", "without_mean")


class Scalekd(Method):
    """Terms ``label``, ``distillation``, ``direct`` and ``without_mean``, and the latter two ``through_teacher_…``."""

    uses_cached_outputs = True

    def __init__(self, params: ScalekdParams, context: MethodContext) -> None:
        super().__init__(context)
        self.params = params
        student, teacher = context.student_structure, context.teacher_structures[0]
        check_levels(student, "student", params.name)
        student_last, teacher_last = (
            last_level(structure, model_field, "scalekd")
            for structure, model_field in ((student, "student"), (teacher, "teachers/0"))
        )
        self.views = [index for index, weight in enumerate(params.weights) if weight > 0]
        self.projectors = self._projectors(student_last, teacher_last, own_query=not params.through_teacher)
        self.previous_level = stage_levels(student)[0]
        if params.through_teacher:
            self.stage_input = _stage_input(context)
            previous = student.levels[self.previous_level]
            self.stage_projectors = self._projectors(previous, self.stage_input, own_query=True)
        self.logit_method = _logit_method(params, context)
        self.per_sample = self.logit_method is None or self.logit_method.per_sample
        levels = (self.previous_level,) if params.through_teacher else ()
        self.student_taps = FeatureRequest(levels=levels, last=True)
        self.teacher_taps = FeatureRequest(last=True)

    @property
    def reads_teacher_logits(self) -> bool:
        """Whether there is a logit term."""
        return self.logit_method is not None and self.params.alpha > 0

    @property
    def balanceable(self) -> bool:
        """Whether there is a label term."""
        return self.logit_method is None or self.params.alpha < 1

    def terms(self, batch: Batch, step: StepContext) -> dict[str, Tensor]:
        """All terms, weighted."""
        student, (teacher,) = step.student(batch.images), step.teacher_outputs(batch)
        alpha = 0.0 if self.logit_method is None else self.params.alpha
        terms = self.label_term(1 - alpha, student.logits, batch)
        if self.logit_method is not None and alpha > 0:
            divergence = self.logit_method.distillation(student.logits, [teacher], batch)
            terms["distillation"] = alpha * self.logit_method.warmup(step.info) * divergence
        assert student.last is not None
        assert teacher.last is not None
        for view in self.views:
            query_BND = None
            if self.params.through_teacher:
                with precision_of(student.logits):
                    query_BND = self._through_teacher(step, student.levels[self.previous_level], view).float()
                terms[f"through_teacher_{_VIEWS[view]}"] = self._difference(query_BND, teacher.last, view)
            projected_BND = self.projectors[str(view)](student.last.map, query_BND)
            terms[_VIEWS[view]] = self._difference(projected_BND, teacher.last, view)
        return terms

    def _through_teacher(self, step: StepContext, previous: Feature, view: int) -> Tensor:
        """The student's stage before the last, projected, behind the teacher's last stage, (B, N, D)."""
        (teacher,), level = step.teachers, self.stage_input
        tokens_BND = self.stage_projectors[str(view)](previous.map)
        map_BDHW = Feature(tokens_BND, level.grid).map
        return run_last_stage(teacher.built.module, map_BDHW).flatten(2).transpose(1, 2)

    def _difference(self, tokens_BND: Tensor, teacher: Feature, view: int) -> Tensor:
        student_BDHW = Feature(tokens_BND, teacher.grid).map
        difference = unit_difference(student_BDHW, teacher.map, remove_mean=_VIEWS[view] == "without_mean")
        return self.params.weights[view] * _PAPER_POSITIONS / teacher.tokens.shape[1] * difference

    def _projectors(self, student: FeatureLevel, teacher: FeatureLevel, *, own_query: bool) -> nn.ModuleDict:
        """One projector per view."""
        scale = self.params.softmax_scale
        return nn.ModuleDict(
            {
                str(view): AttentionProjector(student, teacher, softmax_scale=scale, own_query=own_query)
                for view in self.views
            }
        )


def _stage_input(context: MethodContext) -> FeatureLevel:
    """Return the input of the teacher's last stage. Raises ``InvalidSpec`` if that stage cannot be run alone."""
    (teacher,) = context.teacher_structures
    level = last_stage_input(teacher, context.teachers[0].arguments)
    if level is None:
        raise invalid_architecture(
            "teachers/0",
            f"scalekd runs the teacher's last stage on the student's features, which it cannot for "
            f"{teacher.architecture}; use a swin_*, vit_*, deit_*, convnext_*, resnet* or regnet*, or set "
            "method.through_teacher to false",
        )
    return level


def _logit_method(params: ScalekdParams, context: MethodContext) -> LogitMethod | None:
    if params.logits == "none":
        return None
    fields: dict[str, Any] = {"name": params.logits}
    if params.logits == "kd":
        fields["temperature"] = _KD_TEMPERATURE
    method = build_method(METHODS[params.logits].params.model_validate(fields), context)
    assert isinstance(method, LogitMethod), f"{params.logits} compares more than logits"
    return method

"""Base of methods that compare inner features, in addition to a logit term and the labels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor

from core.methods.base import Batch, Method, MethodContext, StepInfo, warmup_factor
from core.methods.logit_base import LogitMethod, build_logit_term
from core.models.taps import Outputs
from core.spec.methods.composition import FeatureParams


class FeatureMethod(Method):
    """Weighted terms ``label``, ``distillation`` (unless ``logits`` is ``none``) and those of :meth:`feature_terms`."""

    def __init__(self, params: FeatureParams, context: MethodContext) -> None:
        super().__init__(context)
        self.composition = params
        self.logit_method = _logit_method(params, context)
        self.per_sample = self.logit_method is None or self.logit_method.per_sample

    @property
    def reads_teacher_logits(self) -> bool:
        """Whether there is a logit term."""
        return self.logit_method is not None and self.composition.logits_weight > 0

    @property
    def balanceable(self) -> bool:
        """Whether there is a label term."""
        return self.composition.label_weight > 0

    def feature_weight(self, info: StepInfo) -> float:
        """Weight of the feature terms in a step, with their warm-up."""
        return self.composition.weight * warmup_factor(info, self.composition.warmup_epochs)

    @abstractmethod
    def feature_terms(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs]) -> dict[str, Tensor]:
        """The method's own terms by name, unweighted float32 scalars."""

    def loss(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs], info: StepInfo) -> dict[str, Tensor]:
        """All terms, weighted."""
        params = self.composition
        terms = self.label_term(params.label_weight, student.logits, batch)
        if self.logit_method is not None and params.logits_weight > 0:
            divergence = self.logit_method.distillation(student.logits, teachers, batch)
            terms["distillation"] = params.logits_weight * self.logit_method.warmup(info) * divergence
        weight = self.feature_weight(info)
        return terms | {name: weight * value for name, value in self.feature_terms(batch, student, teachers).items()}


def _logit_method(params: FeatureParams, context: MethodContext) -> LogitMethod | None:
    if params.logits == "none":
        return None
    return build_logit_term(params.logits, context, temperature=params.temperature)

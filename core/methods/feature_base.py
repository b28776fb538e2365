"""Methods that compare inner features, beside a logit term and the labels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor

from core.methods.base import Batch, Method, MethodContext, StepInfo, warmup_factor
from core.methods.logit_base import LogitMethod
from core.methods.registry import build_method
from core.models.taps import Outputs
from core.spec.methods import METHODS
from core.spec.methods.composition import FeatureParams


class FeatureMethod(Method):
    """Terms ``label``, ``distillation`` (where asked for), and those of :meth:`feature_terms`, which are weighted."""

    def __init__(self, params: FeatureParams, setting: MethodContext) -> None:
        super().__init__(setting)
        self.composition = params
        self.logit_method = _logit_method(params, setting)
        self.per_sample = self.logit_method is None or self.logit_method.per_sample

    @property
    def reads_teacher_logits(self) -> bool:
        """Only in the logit term."""
        return self.logit_method is not None and self.composition.logits_weight > 0

    @abstractmethod
    def feature_terms(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs]) -> dict[str, Tensor]:
        """The terms that are this method's own, unweighted scalars in float32."""

    def loss(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs], moment: StepInfo) -> dict[str, Tensor]:
        """All terms, weighted."""
        asked = self.composition
        terms: dict[str, Tensor] = {}
        if asked.label_weight > 0:
            terms["label"] = asked.label_weight * self.label_loss(student.logits, batch)
        if self.logit_method is not None and asked.logits_weight > 0:
            divergence = self.logit_method.distillation(student.logits, teachers, batch)
            terms["distillation"] = asked.logits_weight * self.logit_method.warmup(moment) * divergence
        weight = asked.weight * warmup_factor(moment, asked.warmup_epochs)
        return terms | {name: weight * value for name, value in self.feature_terms(batch, student, teachers).items()}


def _logit_method(params: FeatureParams, setting: MethodContext) -> LogitMethod | None:
    if params.logits == "none":
        return None
    entry = METHODS[params.logits]
    given = {} if params.temperature is None else {"temperature": params.temperature}
    built = build_method(entry.params.model_validate({"name": params.logits, **given}), setting)
    assert isinstance(built, LogitMethod), f"{params.logits} compares more than logits"
    return built

"""Parameters of ``wttm``: weighted transformed teacher matching (Zheng and Yang 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import LogitParams, Weight


class WttmParams(LogitParams):
    """Soften the teacher alone, and weight each sample by how smooth its soft labels are."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="Only the teacher is softened, by an exponent, and samples with smoother soft labels have more weight.",
        paper="Knowledge Distillation Based on Transformed Teacher Matching, arXiv:2402.11148",
        year=2024,
        when="ViT students, alone or as `logits` term of vitkd: the authors report 77.0 % and 78.0 % on ImageNet for "
        "DeiT-Ti from DeiT III-S, and 76.0 % for kd. The exponent and the weight need tuning.",
        needs=Requirements(max_teachers=None),
        caches=("logits",),
        formula="label_weight · cross-entropy(labels) + weight · mean over the batch of U · KL(q ‖ p_s), where p_s "
        "are the student's probabilities without temperature, q_k = p_k^γ / U the teacher's with `exponent` γ, and U "
        "= Σ_k p_k^γ. U is 1 for a certain teacher and C^(1 − γ) for a uniform one of C classes. Without `weighted`, "
        "U · KL is KL. There is no factor T².",
        deviations=(
            (
                "The defaults are not published: the authors' code has exponents of 0.1 and 0.2 with weights of 45 "
                "and 4 for CIFAR-100, and the values for ImageNet are in the paper's appendix. Tune the exponent in "
                "0.1 to 1, and the weight so that weight · U is 1 to 10."
            ),
            "Several teachers are compared separately, and their distances are averaged.",
        ),
    )
    label_free: ClassVar[Mapping[str, tuple[Any, ...]]] = {"label_weight": (0.0,)}
    name: Literal["wttm"] = Field(description="The method's name.")
    exponent: float = Field(
        default=0.5,
        ge=0.01,
        le=1,
        description="Exponent γ of the teacher's probabilities, 1 / temperature: 1 leaves them unchanged.",
    )
    weight: Weight = Field(
        default=1.0,
        description="Weight β of the soft labels. Published values are 4 to 45; the weights of the samples are 1 to "
        "C^(1 − γ) for C classes, so β depends on the number of classes.",
    )
    weighted: bool = Field(
        default=True, description="Weight samples by the smoothness of their soft labels. False: equal weights (TTM)."
    )
    label_weight: Weight = Field(default=1.0, description="Weight of the cross-entropy with the labels.")

    @classmethod
    def temperature_fields(cls, temperature: float) -> dict[str, float]:
        """The exponent 1 / temperature."""
        if temperature < 1:
            raise ValueError(
                f"wttm has a temperature of 1 or more (its exponent is 1 / temperature), not {temperature:g}"
            )
        return {"exponent": 1 / temperature}

"""Parameters of ``rld``: refined logits (Sun et al. 2024)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, MethodParams, Requirements
from core.spec.methods.composition import Weight


class RldParams(MethodParams):
    """Match the teacher's confidence, and the classes that it ranks below the label."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="The student's probability of the label matches the teacher's confidence, whichever class that is in; "
        "classes that the teacher ranks above the label are not matched.",
        paper="Knowledge Distillation with Refined Logits, arXiv:2408.07703",
        year=2024,
        when="The teacher is often wrong on the training images, and labels are hard: its errors are not taught.",
        needs=Requirements(),
        caches=("logits",),
        formula="cross-entropy with the labels + α · T_a² · KL((t, 1 − t) ‖ (p_y, 1 − p_y)) + β · T² · KL(q_T ‖ q), "
        "mean over the batch. p_y is the student's probability of the label and t the largest probability of the "
        "teacher, both at temperature T_a; q and q_T are the probabilities at temperature T among the classes whose "
        "teacher logit is below that of the label. In the first epochs both terms grow linearly.",
        deviations=(
            "Mixed images count as their most probable class.",
            (
                "The defaults are those of the paper for ResNet-34 and ResNet-18 on ImageNet. β is 2 there for "
                "ResNet-50 and MobileNet, and α 1, β 8, T 4, 20 warm-up epochs on CIFAR-100. No ViT was published."
            ),
        ),
    )
    name: Literal["rld"] = Field(description="The method's name.")
    alpha: Weight = Field(default=1.0, description="Weight α of the confidence.")
    beta: Weight = Field(default=0.5, description="Weight β of the classes below the label.")
    temperature: float = Field(default=1.0, gt=0, le=100, description="Temperature T of the classes below the label.")
    alpha_temperature: float = Field(default=1.0, gt=0, le=100, description="Temperature T_a of the confidence.")
    standardized: bool = Field(
        default=False, description="Standardize the logits of both networks to mean 0 and deviation 1 first."
    )
    warmup_epochs: float = Field(
        default=1.0,
        ge=0,
        le=10_000,
        description="Number of epochs over which both terms grow linearly from 0 to their weight.",
    )

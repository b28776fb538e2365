"""Parameters of ``kd``: soft labels (Hinton et al. 2015)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import LogitParams


class KdParams(LogitParams):
    """Match the teacher's softened class probabilities."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="The student matches the teacher's class probabilities, softened by a temperature.",
        paper="Distilling the Knowledge in a Neural Network, arXiv:1503.02531",
        year=2015,
        when="The default choice: any teacher and any student, cheap and hard to beat.",
        needs=Requirements(max_teachers=None),
        caches=("logits",),
        formula="alpha · T² · KL(softmax(z_t / T) ‖ softmax(z_s / T)) + (1 − alpha) · CE(softmax(z_s), labels); KL is "
        "the mean over images. The paper gives no symbols to the two weights: it calls the soft term with its T² and "
        "the label term a weighted average, with a considerably lower weight on the labels. 0.9 and T 4 are the "
        "values of mdistiller for CIFAR-100; for ImageNet it has 0.5 and T 1. alpha here weighs the teacher, as λ in "
        "DeiT; some papers give the letter to the labels.",
        deviations=(
            (
                "`reduction` `element` also divides by the number of classes, as DeiT's code. Then alpha has almost no "
                "effect with many classes."
            ),
        ),
    )
    label_free: ClassVar[Mapping[str, tuple[Any, ...]]] = {"alpha": (1.0,)}
    name: Literal["kd"] = Field(description="The method's name.")
    temperature: float = Field(default=4.0, gt=0, le=100, description="Temperature T that softens both distributions.")
    alpha: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="Weight of the teacher's soft labels, T² included; the labels have 1 − alpha. 1: labels are not "
        "read.",
    )
    reduction: Literal["sample", "element"] = Field(
        default="sample",
        description="`sample` divides the divergence by the batch size, `element` by batch size times number of "
        "classes.",
    )

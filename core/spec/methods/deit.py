"""Parameters of ``deit``: a distillation token (Touvron et al. 2021)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, MethodParams, Requirements


class DeitParams(MethodParams):
    """Add a token to the student that learns from the teacher while the class token learns from labels."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="A distillation token with its own head learns from the teacher, the class token from the labels; at "
        "inference both heads are averaged.",
        paper="Training data-efficient image transformers & distillation through attention, arXiv:2012.12877",
        year=2020,
        when="ViT student, especially with a CNN teacher, whose inductive bias it acquires.",
        needs=Requirements(
            min_teachers=1,
            max_teachers=1,
            student=("logits", "distillation token"),
            student_families=("transformer",),
        ),
        caches=("logits",),
        formula="(1 − alpha) · CE(class head, labels) + alpha · D(distillation head, teacher). `soft`: D = T² · "
        "KL(teacher ‖ distillation head), both softened by T. `hard`: D = CE(distillation head, the teacher's most "
        "probable class). Teacher and student see the same augmented and mixed image.",
        deviations=(
            (
                "`soft` is the default; the paper recommends `hard`, with a CNN teacher on ImageNet. In three paired "
                "runs on 2,000 images of CIFAR-10, with a teacher that is wrong on a quarter of the augmented images, "
                "soft was better by 3.9, 1.0 and 3.5 points: a wrong decision is a wrong label, and a soft label "
                "shows the doubt."
            ),
            "alpha is 0.5 with `soft` too; the paper has 0.1 there, and 0.5 with `hard`.",
            (
                "`reduction` `sample` divides by the batch size, as the paper's formula. The official code also "
                "divides by the number of classes, which makes its term weaker by this factor: `element`."
            ),
        ),
    )
    name: Literal["deit"] = Field(description="The method's name.")
    distillation_type: Literal["soft", "hard"] = Field(
        default="soft",
        description="`soft`: divergence from the teacher's softened probabilities. `hard`: cross-entropy with its "
        "decision, recommended where the teacher is right on nearly all augmented images that it is shown.",
    )
    alpha: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Weight λ of the distillation head; the class head has 1 − alpha.",
    )
    temperature: float = Field(
        default=3.0, gt=0, le=100, description="Temperature T that softens both distributions; used only with `soft`."
    )
    reduction: Literal["sample", "element"] = Field(
        default="sample",
        description="`sample` divides the soft divergence by the batch size, as in the paper; `element` by batch size "
        "times number of classes, as in the official code.",
    )

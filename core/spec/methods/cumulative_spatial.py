"""Parameters of ``cumulative_spatial``: a CNN's predictions at every position (Zhao et al. 2023)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, MethodParams, Requirements
from core.spec.methods.composition import Weight


class CumulativeSpatialParams(MethodParams):
    """Patch tokens learn a CNN's predictions at their positions; a distillation token learns its global prediction."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="Patch tokens learn the CNN teacher's predictions at their positions: local predictions at first, the "
        "global prediction towards the end. A distillation token always learns the global prediction.",
        paper="Cumulative Spatial Knowledge Distillation for Vision Transformers, arXiv:2307.08500",
        year=2023,
        when="ViT student and a CNN teacher that ends in global average pooling and one linear layer, such as a "
        "ResNet or RegNet, with a last map of more than one position: at 224 pixels 7 × 7, at 32 pixels only with "
        "a smaller stride.",
        needs=Requirements(
            student=("logits", "distillation token", "patch tokens"),
            teacher=("logits", "last map of several positions"),
            student_families=("transformer",),
            teacher_families=("cnn",),
        ),
        caches=("logits", "last"),
        formula="(1 − alpha) · CE(class head, labels) + alpha · CE(distillation head, teacher's class) + weight · mean "
        "over positions p of CE(distillation head at p, class of α(t) · local_p + (1 − α(t)) · global). local_p are "
        "the logits of the teacher's classifier at position p of its last map, and global is their mean, the teacher's "
        "logits. The student's logits of its patches are averaged to the teacher's positions (14 × 14 to 7 × 7). With "
        "`soft`, CE is T² · KL of the softened probabilities. The exported student averages three votes, as the "
        "official code: class head, distillation head, and distillation head of the mean patch token. timm's distilled "
        "ViT has only the first two, so the student is a `potstill_vit` with `distillation_tokens` 1 and `patch_vote`. "
        "The official runs on ImageNet (DeiT-Ti 76.3, DeiT-S 82.3, DeiT-B 83.8) have learning rates of 1e-3, 5e-4 and "
        "2.5e-4 at batch sizes of 1024, 512 and 256, `drop_path` 0 and no `gradient_clip`.",
        deviations=(
            "α(t) falls with every step. The official code changes it once an epoch.",
            (
                "The official soft terms differ in scale: `reduction` `official` divides the token's term by classes "
                "too, and sums the patches' term over positions."
            ),
        ),
    )
    name: Literal["cumulative_spatial"] = Field(description="The method's name.")
    alpha: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Weight of the distillation token's term; the labels have 1 − alpha. It is not the paper's α(t), "
        "which is the share that `decay` sets.",
    )
    weight: Weight = Field(default=1.0, description="Weight of the patch tokens' term.")
    token_type: Literal["soft", "hard"] = Field(
        default="hard",
        description="Target of the distillation token: the teacher's decision (`hard`), or its softened probabilities "
        "(`soft`).",
    )
    spatial_type: Literal["soft", "hard"] = Field(
        default="hard", description="Target of the patch tokens at every position, as for `token_type`."
    )
    decay: Literal["linear", "quadratic", "cosine"] = Field(
        default="linear",
        description="Decay of the local prediction's share (α(t) in the paper) from 1 to 0 over the training.",
    )
    temperature: float = Field(
        default=1.0, gt=0, le=100, description="Temperature T that softens both distributions; used only with `soft`."
    )
    reduction: Literal["sample", "official"] = Field(
        default="sample",
        description="Scale of the `soft` terms. `sample`: mean over images and positions. `official`: the token's term "
        "is divided by images times classes, the patches' term is summed over positions.",
    )

"""Parameters of ``scalekd``: a strong ViT or Swin teaches by its last stage (Fan et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, MethodParams, Requirements
from core.spec.methods.composition import LABEL_FREE_TERMS, LogitTerm, Weight


class ScalekdParams(MethodParams):
    """Match the teacher's last features, directly and through the teacher's own frozen last stage."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="Attention projectors map the student's last two stages to the teacher's grids. The last one matches "
        "the teacher's last features, and so does the one before after the teacher's frozen last stage.",
        paper="ScaleKD: Strong Vision Transformers Could Be Excellent Teachers, arXiv:2411.06786",
        year=2024,
        when="A much stronger teacher, such as a large pretrained Swin or ViT, for any student. The teacher's last "
        "features and logits are cached, but its last stage runs in every step, forward and backward. The projectors "
        "are large: a 3 × 3 convolution at the student's width and attention at the teacher's.",
        needs=Requirements(teacher=("logits", "last features"), student=("logits", "levels", "last features")),
        caches=("last", "logits"),
        formula="(1 − α) · cross-entropy with the labels + α · logit term + Σ_i w_i · [D_i(P_i(s_4, S(P'_i(s_3))), t) "
        "+ D_i(S(P'_i(s_3)), t)]. s_3 and s_4 are the student's maps at the end of its last two stages, t is the "
        "teacher's last map, and S the teacher's frozen last stage. P'_i projects by attention to the input of S, P_i "
        "to t, with the output of S as queries. D_1 is the squared difference of unit vectors over the channels, "
        "summed over positions, times 49 / positions, mean over the batch; D_2 is the same after the mean of each "
        "channel over the positions of an image is subtracted. Projectors are dropped at export.",
        deviations=(
            (
                "The sum over positions is scaled by 49 / positions, so that the weights hold for any grid; with the "
                "paper's 7 × 7 positions the factor is 1. Projectors have 8 heads, or the largest number below that "
                "divides the teacher's width."
            ),
            (
                "The logit term `kd` is a KL divergence; the official code has the cross-entropy with soft labels, "
                "whose gradient is the same."
            ),
            (
                "A plain ViT has four stages of a quarter of its blocks. As a teacher it runs its last stage on patch "
                "tokens only, without class token, as in the official code, which uses its last two blocks."
            ),
            "Without `through_teacher`, P_i has learned queries.",
        ),
    )
    label_free: ClassVar[Mapping[str, tuple[Any, ...]]] = {"alpha": (1.0,), "logits": LABEL_FREE_TERMS}
    name: Literal["scalekd"] = Field(description="The method's name.")
    weights: tuple[Weight, Weight] = Field(
        default=(0.08, 0.06),
        description="Weights of the squared difference of unit vectors, directly and without each channel's mean. The "
        "sums run over the positions of the teacher's last map and are scaled to the 49 of the paper's teacher.",
    )
    softmax_scale: float = Field(
        default=5.0, gt=0, le=100, description="Factor of the attention logits in the projectors."
    )
    logits: LogitTerm = Field(
        default="kd",
        description="Logit method that is added as a term: `kd` with temperature 1, others with their own defaults; "
        "`none` adds none, and leaves the labels at full weight.",
    )
    alpha: float = Field(default=0.5, ge=0, le=1, description="Weight of the logit term; the labels have 1 − alpha.")
    through_teacher: bool = Field(
        default=True,
        description="Pass the student's stage before the last through the teacher's frozen last stage. The teacher is "
        "then a Swin, a plain ViT, a ConvNeXt, a ResNet or a RegNet. False: any teacher, and the last stage only.",
    )

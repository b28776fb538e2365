"""Parameters of ``dearkd``: a first stage with early layers of a CNN, a second with only labels (Chen et al. 2022)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, MethodParams, Requirements
from core.spec.methods.composition import LayerPair, Weight


class DearkdParams(MethodParams):
    """Transfer a CNN's inductive bias in a first stage, and train with labels in a second stage."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="Early blocks of the ViT student, whose attention may start local like a convolution, learn the early "
        "features of a CNN. The last part of the training has only labels. Works without real images if the teacher "
        "has batch norms.",
        paper="DearKD: Data-Efficient Early Knowledge Distillation for Vision Transformers, arXiv:2204.12997",
        year=2022,
        when="ViT student, CNN teacher, few images; or no images, with `data_free`.",
        needs=Requirements(
            student=("logits", "distillation token", "levels"),
            teacher=("logits", "levels"),
            student_families=("transformer",),
            teacher_families=("cnn",),
        ),
        caches=("levels", "logits"),
        formula="First stage: (1 − alpha) · CE(class head, labels) + alpha · D(distillation head, teacher) + weight · "
        "mean over pairs of ‖LN(aligner(student's map)) − LN(teacher's map)‖² per entry. D is as in `deit`, by "
        "`distillation_type`. Second stage: (CE(class head, labels) + CE(distillation head, labels)) / 2.",
        deviations=(
            "There is no official code; details that could not be confirmed are `weight` and `diversity`.",
            "Both maps are compared after a layer norm over their channels, on the coarser grid of the two.",
            "In the second stage both heads learn the labels, because the exported student averages them.",
            "`distillation_type` `soft` is an addition.",
        ),
    )
    name: Literal["dearkd"] = Field(description="The method's name.")
    first_stage: float = Field(
        default=0.83,
        gt=0,
        le=1,
        description="Fraction of the training with a teacher: about 250 of the paper's 300 epochs.",
    )
    alpha: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Weight of the distillation head in the first stage; the class head has 1 − alpha.",
    )
    distillation_type: Literal["hard", "soft"] = Field(
        default="hard",
        description="What the distillation head learns in the first stage. `hard`: the teacher's decision, as in the "
        "paper. `soft`: its softened probabilities, better where the teacher is often wrong on augmented images, as "
        "for `deit`.",
    )
    temperature: float = Field(
        default=3.0, gt=0, le=100, description="Temperature T that softens both distributions; used only with `soft`."
    )
    weight: Weight = Field(
        default=1.0, description="Weight of the early features; the paper's value could not be confirmed."
    )
    layers: tuple[LayerPair, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="Pairs [student block, teacher stage], counted from 0. Null: two pairs in the first third of the "
        "blocks and the first half of the stages.",
    )
    local_blocks: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="Number of first blocks with gated positional attention, which starts local and stays in the "
        "exported student. Null: a third of the depth; 0: only plain attention.",
    )
    data_free: bool = Field(
        default=False,
        description="Train on images made by inverting the teacher, instead of the dataset's training split. The "
        "teacher needs batch norms and its own weights.",
    )
    num_images: int = Field(
        default=2048, ge=2, le=1_000_000, description="Number of images to make; used only with `data_free`."
    )
    iterations: int = Field(
        default=200,
        ge=1,
        le=100_000,
        description="Optimization steps per image; thousands give better images. Used only with `data_free`.",
    )
    diversity: Weight = Field(
        default=0.0,
        description="Experimental: weight of a term that makes images of one class different from each other, rebuilt "
        "from the paper's description. Used only with `data_free`.",
    )

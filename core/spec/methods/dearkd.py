"""Parameters of ``dearkd``: early layers of a CNN, then labels alone (Chen et al. 2022)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, MethodParams, Requirements
from core.spec.methods.composition import LayerPair, Weight


class DearkdParams(MethodParams):
    """Take a CNN's inductive bias over in a first stage, and train by labels in a second."""

    about: ClassVar[MethodInfo] = MethodInfo(
        summary="Early blocks of the ViT student, whose attention may begin local as a convolution's, learn the "
        "early features of a CNN; the last part of the training has labels alone. Works without any real picture "
        "where the teacher has batch norms.",
        paper="DearKD: Data-Efficient Early Knowledge Distillation for Vision Transformers, arXiv:2204.12997",
        year=2022,
        when="ViT student, CNN teacher, few pictures; or none, with `data_free`.",
        needs=Requirements(
            student=("logits", "distillation token", "levels"),
            teacher=("logits", "levels"),
            student_families=("transformer",),
            teacher_families=("cnn",),
        ),
        caches=("levels", "logits"),
    )
    name: Literal["dearkd"] = Field(description="The method's name.")
    first_stage: float = Field(
        default=0.83,
        gt=0,
        le=1,
        description="Share of the training that has a teacher: about 250 of the paper's 300 epochs.",
    )
    alpha: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Weight of the distillation head in the first stage; the class head weighs 1 − alpha.",
    )
    weight: Weight = Field(default=1.0, description="Weight of the early features; the paper's could not be confirmed.")
    layers: tuple[LayerPair, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="Pairs of student block and teacher stage, counted from 0. Null: two pairs in the first third "
        "of the blocks and the first half of the stages.",
    )
    local_blocks: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="How many first blocks have gated positional attention, which begins local and stays in the "
        "exported student. Null: a third of the depth; 0: plain attention throughout.",
    )
    data_free: bool = Field(
        default=False,
        description="Train on pictures that are made by inverting the teacher, instead of the dataset's training "
        "split. The teacher needs batch norms and weights of its own.",
    )
    num_images: int = Field(
        default=2048, ge=2, le=1_000_000, description="How many pictures are made; used by `data_free` alone."
    )
    iterations: int = Field(
        default=200,
        ge=1,
        le=100_000,
        description="Steps that each picture takes; thousands give better ones. Used by `data_free` alone.",
    )
    diversity: Weight = Field(
        default=0.0,
        description="Experimental: weight of a term that keeps pictures of one class apart, rebuilt from the paper's "
        "description. Used by `data_free` alone.",
    )

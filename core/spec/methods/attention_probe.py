"""Parameters of ``attention_probe``: learn from unlabelled pictures that the teacher chooses (Wang et al. 2022)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import DatasetReference, MethodInfo, MethodParams, Requirements
from core.spec.methods.composition import LayerPair, Weight


class AttentionProbeParams(MethodParams):
    """Train on the pictures of an unlabelled pool that the teacher is surest of; the training split is not used."""

    about: ClassVar[MethodInfo] = MethodInfo(
        summary="The teacher chooses pictures from an unlabelled pool; on these the student matches its probabilities "
        "and where its class token looks, and never sees the dataset's own training pictures.",
        paper="Attention Probe: Vision Transformer Distillation in the Wild, ICASSP 2022",
        year=2022,
        when="A ViT teacher whose training data cannot be used, and many pictures of about the same kind without "
        "labels.",
        needs=Requirements(
            teacher=("logits", "levels", "attention"),
            student=("logits", "levels"),
            student_families=("transformer",),
            teacher_families=("transformer",),
        ),
        caches=("levels", "logits"),
        example={"pool": "ds_pool"},
    )
    name: Literal["attention_probe"] = Field(description="The method's name.")
    pool: DatasetReference = Field(
        description="`ds_…`, a dataset of pictures to choose from: its training split. Labels are never read."
    )
    num_select: int | None = Field(
        default=None, ge=2, le=100_000_000, description="How many pictures are chosen. Null: half of the pool."
    )
    balanced: bool = Field(
        default=False,
        description="Choose as many pictures of each class, as far as the teacher finds them. The paper does not, and "
        "gets more of the classes that the teacher is surest of.",
    )
    confidence_share: Weight = Field(
        default=0.9, description="How much the teacher's confidence counts when pictures are chosen."
    )
    attention_share: Weight = Field(
        default=0.05,
        description="How much it counts, for each of the probed blocks but the last, that the teacher's class token "
        "looks at few patches.",
    )
    layers: tuple[LayerPair, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="Pairs of student and teacher block whose tokens are compared, counted from 0. Null: three at "
        "equal relative depth, which are blocks 3, 7 and 11 of 12 as in the paper.",
    )
    temperature: float = Field(default=4.0, gt=0, le=100, description="Softens both distributions.")
    distillation_weight: Weight = Field(default=1.0, description="Weight of the divergence from the teacher.")
    noise_weight: Weight = Field(
        default=1.0,
        description="Weight of the cross-entropy with the teacher's decisions, seen through a trained matrix of its "
        "mistakes.",
    )
    probe_weight: Weight = Field(default=0.8, description="Weight of the difference between the tokens' relations.")
    normalize: bool = Field(
        default=True,
        description="Compare cosines of tokens. False is the official form, whose values grow with the width, so that "
        "networks of unlike widths can never agree.",
    )
    teacher_accuracy: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="How often the teacher is right, for the matrix of its mistakes. Null: measured on a tenth of the "
        "training split; too high where the teacher has learned from these very pictures.",
    )

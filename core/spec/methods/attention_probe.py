"""Parameters of ``attention_probe``: training on unlabeled images that the teacher selects (Wang et al. 2022)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import DatasetReference, MethodInfo, MethodParams, Requirements
from core.spec.methods.composition import LayerPair, Weight


class AttentionProbeParams(MethodParams):
    """Train on the images of an unlabeled pool that the teacher is most confident of, instead of the training split."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="The teacher selects images from an unlabeled pool. On these, the student matches its probabilities "
        "and the relations of its class token. The dataset's own training images are not used.",
        paper="Attention Probe: Vision Transformer Distillation in the Wild, ICASSP 2022",
        year=2022,
        when="A ViT teacher whose training data cannot be used, and many unlabeled images of a similar kind.",
        needs=Requirements(
            teacher=("logits", "levels", "attention"),
            student=("logits", "levels"),
            student_families=("transformer",),
            teacher_families=("transformer",),
            labels=False,
        ),
        example={"pool": "ds_pool"},
        formula="Selected are the images with the lowest confidence_share · (−log of the teacher's largest "
        "probability) + attention_share · Σ over compared blocks but the last of cos(attention of the class token in "
        "head 0, uniform attention). The loss is distillation_weight · T² · KL(teacher ‖ student) + noise_weight · "
        "CE(student's probabilities · Q, the teacher's decision) + probe_weight · the mean over blocks, images and "
        "patches of (student's − teacher's relation of the class token to the patch)². Row i of Q has "
        "teacher_accuracy on the diagonal and 1 − teacher_accuracy times a trained softmax elsewhere.",
        deviations=(
            (
                "Both parts of the score count, as in the paper. The flag of the official scripts is inverted: they "
                "select by confidence alone."
            ),
            "Relations are cosines of tokens unless `normalize` is false; the official values grow with the width.",
            (
                "teacher_accuracy is measured; the official code has constants for its three teachers. Labels of the "
                "dataset have no other use."
            ),
            (
                "The noise matrix has its own learning rate and no weight decay, as in the official code, but the "
                "job's optimizer and gradient clipping; the official code has a separate Adam, which `adamw` equals "
                "without decay."
            ),
            "The class weights of the official option `robust` are left out; `balanced` is an addition.",
            "Teacher outputs are not cached: the method trains on selected images, not on views of the training split.",
        ),
    )
    name: Literal["attention_probe"] = Field(description="The method's name.")
    pool: DatasetReference = Field(
        description="`ds_…`, a dataset whose training split is the pool of images to select from; its unique name or "
        "unique id prefix is accepted too. Labels are not read."
    )
    num_select: int | None = Field(
        default=None, ge=2, le=100_000_000, description="Number of images to select. Null: half of the pool."
    )
    balanced: bool = Field(
        default=False,
        description="Select the same number of images per predicted class, as far as available. The paper does not, "
        "and selects more images of classes with a higher confidence of the teacher.",
    )
    confidence_share: Weight = Field(
        default=0.9, description="Weight of the teacher's confidence in the score that selects images."
    )
    attention_share: Weight = Field(
        default=0.05,
        description="Weight of the concentration of the teacher's class token attention in the score that selects "
        "images, for each compared block except the last.",
    )
    layers: tuple[LayerPair, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="Pairs [student block, teacher block] whose tokens are compared, counted from 0. Null: three "
        "pairs at equal relative depth, blocks 3, 7 and 11 of 12 as in the paper.",
    )
    temperature: float = Field(default=4.0, gt=0, le=100, description="Temperature T that softens both distributions.")
    distillation_weight: Weight = Field(default=1.0, description="Weight of the divergence from the teacher.")
    noise_weight: Weight = Field(
        default=1.0,
        description="Weight of the cross-entropy with the teacher's decisions, after a trained noise matrix Q of its "
        "errors.",
    )
    noise_learning_rate: float = Field(
        default=1e-3,
        gt=0,
        le=10,
        description="Learning rate of the noise matrix Q, constant over the training and without weight decay, as in "
        "the official code.",
    )
    probe_weight: Weight = Field(
        default=0.8, description="Weight of the difference between the class tokens' relations to the patches."
    )
    normalize: bool = Field(
        default=True,
        description="Compare cosines of tokens. False is the form of the official code, whose values grow with the "
        "width, so that networks of different widths can never agree.",
    )
    teacher_accuracy: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Accuracy of the teacher (0 to 1), the diagonal of the noise matrix Q. Null: measured on a tenth "
        "of the training split, which is too high if the teacher was trained on these images.",
    )

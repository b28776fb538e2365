"""Parameters of ``proteus``: a small ViT takes over a foundation ViT's features (Zhang et al. 2024)."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from core.spec.methods.base import MethodInfo, MethodParams, Requirements
from core.spec.methods.composition import Weight


class ProteusParams(MethodParams):
    """Match class token, features and masked patches of a foundation ViT; the student has no classifier."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="The student matches class token and patch tokens of a foundation ViT, and predicts patches that it "
        "does not see; labels are not read. The exported model is a backbone without a classifier.",
        paper="Accessing Vision Foundation Models at ImageNet-level Costs, arXiv:2407.10366",
        year=2024,
        when="A ViT teacher such as DINOv2, one size larger than the student, with the same grid of patches. A step "
        "costs up to two passes of the student. For CLIP set feature_weight and patch_weight to 0, as the authors do. "
        "A few channels of DINOv2 have a large norm and dominate the errors; `normalization` balances them.",
        needs=Requirements(
            teacher=("class token", "last features"),
            student=("class token", "last features"),
            student_families=("transformer",),
            teacher_families=("transformer",),
            labels=False,
            headless=True,
            matched_grids=True,
        ),
        caches=("last",),
        formula="λ_token · MSE(h_token(c), c_T) + λ_feature · MSE([h_token(c); h_feature(p)], [c_T; p_T]) + λ_patch · "
        "MSE(h_patch(p_masked), p_T) at the masked patches. c and p are class token and patch tokens after the final "
        "norm, with index T those of the teacher for the whole image; each h is a layer norm and a linear layer, and "
        "is dropped at export. Masked patches are replaced by a learned token after the patch embedding. Each MSE is a "
        "mean over all entries.",
        deviations=(
            (
                "The authors mask the first half of each batch. Here each image is masked with the probability "
                "`masked_pictures` in each epoch, and has a constant weight in the last term, so that batches can be "
                "divided. With half of a batch masked, both give the same value."
            ),
            (
                "Random erasing is part of the augmentation `strong`, and changes the teacher's image too, as in the "
                "official code."
            ),
            (
                "The authors' students have LayerScale with an initial value of 1.0: set the student's argument "
                "`init_values` for the same network."
            ),
        ),
    )
    name: Literal["proteus"] = Field(description="The method's name.")
    token_weight: Weight = Field(default=1.0, description="Weight λ of the squared error of the class token.")
    feature_weight: Weight = Field(
        default=1.0, description="Weight λ of the squared error of the class token and all patch tokens together."
    )
    patch_weight: Weight = Field(
        default=1.0,
        description="Weight λ of the squared error at masked patches, which the teacher sees and the student does not.",
    )
    mask_share: float = Field(
        default=0.5, ge=0, le=0.9, description="Fraction of the patches of a masked image that the student misses."
    )
    masked_pictures: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Probability that an image is masked in an epoch. All masked images weigh the same, whatever "
        "their number in a batch.",
    )

    normalization: Literal["none", "channel", "phi_s"] = Field(
        default="none",
        description="Standardization of the teacher's tokens, separate for class token and patches: `none`, as in the "
        "paper; `channel`: each channel by its mean and deviation; `phi_s`: one scale and a rotation after which all "
        "channels have variance 1. Statistics are those of the first 100 batches, at most one epoch.",
    )

    @model_validator(mode="after")
    def _some_weight(self) -> Self:
        if not any((self.token_weight, self.feature_weight, self.patch_weight)):
            raise PydanticCustomError("weights", "every weight is 0: nothing would be learned; set one above 0")
        if self.patch_weight and not (self.mask_share and self.masked_pictures):
            raise PydanticCustomError(
                "weights", "mask_share and masked_pictures must be above 0 unless patch_weight is 0: no patch is masked"
            )
        return self

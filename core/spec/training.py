"""The training of a student or of a teacher: the ``training`` blocks of a job spec."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from core.spec.balance import BalanceSpec
from core.spec.document import StrictModel

Augmentation = Literal["none", "flip", "light", "strong"]
Precision = Literal["auto", "fp32", "bf16"]

OptimizerName = Literal["adamw", "sgd", "lion"]

OPTIMIZER_DEFAULTS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "sgd": {"learning_rate": 0.05, "weight_decay": 5e-4},
        "lion": {"learning_rate": 1e-4, "weight_decay": 0.5},
    }
)
"""Defaults of optimizers other than ``adamw``. Lion's step is a sign, so its rate is a tenth of AdamW's and its decay
ten times as large. SGD's decay is added to the gradient."""

DEFAULT_EPOCHS, DEFAULT_WARMUP_EPOCHS = 20, 1.0
MIN_LEARNING_RATE = 1e-5  # default rate at the end of a training

Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]


def default_min_learning_rate(learning_rate: float) -> float:
    """Return the default of ``min_learning_rate`` for a learning rate."""
    return min(MIN_LEARNING_RATE, learning_rate)


_EPOCHS = (
    "Passes over the training split. Null: 20; from random weights as many as make 1,000 steps, at least 20 and at "
    "most 200."
)
_MAX_EPOCHS = 10_000


class TrainingBase(StrictModel):
    """Settings shared by the training of students and of teachers."""

    epochs: int | None = Field(default=None, ge=1, le=_MAX_EPOCHS, description=_EPOCHS)
    batch_size: int = Field(default=128, ge=1, le=65_536, description="Images of one optimizer step.")
    gradient_accumulation: int = Field(
        default=1,
        ge=1,
        le=1_024,
        description="Number of parts of a batch that are computed one after another to save memory. Steps, learning "
        "rate and `batch_size` keep their meaning; batch norms see one part at a time.",
    )
    optimizer: OptimizerName = Field(
        default="adamw",
        description="`adamw`, `sgd` (Nesterov momentum 0.9) or `lion`. It sets the defaults of `learning_rate` and "
        "`weight_decay`: sgd 0.05 and 5e-4, lion 1e-4 and 0.5.",
    )
    learning_rate: float = Field(
        default=1e-3, gt=0, le=10, description="Peak rate. The default is that of adamw; see `optimizer`."
    )
    min_learning_rate: float = Field(
        default=MIN_LEARNING_RATE,
        ge=0,
        le=10,
        description="Rate at the end of the cosine schedule. Left out, it is at most `learning_rate`.",
    )
    weight_decay: float = Field(default=0.05, ge=0, le=10, description="Not applied to norms, biases and tokens.")
    warmup_epochs: float | None = Field(
        default=None,
        ge=0,
        le=10_000,
        description="Epochs of linear warmup from zero. Null: 1; where `epochs` is left out, a twentieth of its value.",
    )
    gradient_clip: float | None = Field(default=1.0, gt=0, description="Maximum gradient norm; null: no clipping.")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    drop_path: float = Field(default=0.0, ge=0, lt=1, description="Stochastic depth, if the model has it.")
    augmentation: Augmentation = Field(
        default="light",
        description="`none`, `flip`, `light` (crop, flip) or `strong` (resized crop, color jitter, erase).",
    )
    mixup: float = Field(
        default=0.0,
        ge=0,
        le=10,
        description="Alpha of mixup: each image and its label are mixed with another, in proportions from "
        "Beta(alpha, alpha). 0: off. DeiT uses 0.8.",
    )
    cutmix: float = Field(
        default=0.0,
        ge=0,
        le=10,
        description="Alpha of cutmix: a rectangle of another image is pasted, with an area from Beta(alpha, alpha). "
        "0: off. DeiT uses 1. If mixup is also on, each applies to half of the mixed images.",
    )
    mix_probability: float = Field(
        default=1.0, ge=0, le=1, description="Fraction of the images that are mixed if mixup or cutmix is on."
    )
    precision: Precision = Field(default="auto", description="`auto`: bf16 on CUDA, fp32 on a CPU.")
    seed: Seed = Field(default=0, description="Seed of every random draw of the training.")
    image_size: int | None = Field(
        default=None, ge=4, le=1024, description="Pixels a side. Null: the student's own size, or else the dataset's."
    )

    @property
    def num_epochs(self) -> int:
        """The number of epochs, which the resolver fills in."""
        assert self.epochs is not None, "a resolved spec has a number of epochs"
        return self.epochs

    @property
    def mixes_images(self) -> bool:
        """Whether mixup or cutmix is on."""
        return self.mix_probability > 0 and (self.mixup > 0 or self.cutmix > 0)

    @model_validator(mode="before")
    @classmethod
    def _fill_in_optimizer_defaults(cls, data: Any) -> Any:
        name = data.get("optimizer") if isinstance(data, Mapping) else None
        return {**OPTIMIZER_DEFAULTS[name], **data} if isinstance(name, str) and name in OPTIMIZER_DEFAULTS else data

    @field_validator("gradient_accumulation")
    @classmethod
    def _require_images_in_each_part(cls, parts: int, info: ValidationInfo) -> int:
        batch_size = info.data.get("batch_size", parts)  # absent if it is invalid
        if parts > batch_size:
            raise PydanticCustomError(
                "gradient_accumulation",
                "gradient_accumulation must not be above batch_size {images}, the images of one step",
                {"images": batch_size},
            )
        return parts

    @model_validator(mode="before")
    @classmethod
    def _follow_learning_rate(cls, data: Any) -> Any:
        """Lower the default of ``min_learning_rate`` to a lower ``learning_rate``."""
        if not isinstance(data, dict) or "min_learning_rate" in data:
            return data
        rate = data.get("learning_rate")
        if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 < rate < MIN_LEARNING_RATE:
            return data
        return {**data, "min_learning_rate": default_min_learning_rate(rate)}

    @field_validator("min_learning_rate")
    @classmethod
    def _require_ordered_rates(cls, rate: float, info: ValidationInfo) -> float:
        highest = info.data.get("learning_rate")
        if highest is not None and rate > highest:
            raise PydanticCustomError(
                "rates",
                "{rate} must not be above learning_rate, which is {highest}; lower it, or leave it out",
                {"rate": f"{rate:g}", "highest": f"{highest:g}"},
            )
        return rate


class TrainingSpec(TrainingBase):
    """Training of the student."""

    epochs: int | None = Field(
        default=None,
        ge=0,
        le=_MAX_EPOCHS,
        description=f"{_EPOCHS} 0: a student that was trained before is compressed, evaluated and exported as it is.",
    )
    views: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="Augmented views of each image, used in turn. Null: a new view in every epoch.",
    )
    ema: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Decay of an exponential moving average of the weights; the average is then exported.",
    )
    hold_out: float = Field(
        default=0.0,
        ge=0,
        le=0.5,
        description="Fraction of the training images (at most 10,000) that the student is not trained on. The report "
        "fits the temperature of its class probabilities on them. 0: all images are trained on.",
    )
    checkpoint_every_epochs: int = Field(
        default=1, ge=1, le=10_000, description="Maximum number of epochs between checkpoints."
    )
    keep_weights_every_epochs: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="Keep the student's weights every this many epochs. Null: only the last.",
    )
    balance: BalanceSpec = Field(
        default_factory=BalanceSpec,
        description="Balance between the gradients of labels and distillation, for methods with a label term.",
    )

    @field_validator("balance")
    @classmethod
    def _require_sgd_for_dot(cls, balance: BalanceSpec, info: ValidationInfo) -> BalanceSpec:
        optimizer = info.data.get("optimizer", "sgd")  # absent if it is invalid
        if balance.rule == "dot" and optimizer != "sgd":
            raise PydanticCustomError(
                "balance",
                "dot gives SGD two momenta, and the optimizer is {optimizer}; set optimizer to sgd, or rule to "
                "projected, min_norm or equal_norm",
                {"optimizer": optimizer},
            )
        return balance

    @property
    def distinct_views(self) -> int | None:
        """``views``, or 1 where images are neither augmented nor mixed: all views are then the same."""
        return self.views if self.augmentation != "none" or self.mixes_images else 1


class TeacherTrainingSpec(TrainingBase):
    """Training of a teacher before the student, on the same data."""

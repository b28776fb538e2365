"""The job spec: a typed, immutable document, from the request to the report."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import Field, JsonValue, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from core.spec.balance import BalanceSpec
from core.spec.document import StrictModel, not_available
from core.spec.exports import REQUIRED_FORMAT, ExportName
from core.spec.methods import MethodSpec

ARCHITECTURE_MISSING = "architecture_missing"  # the type of a validation error of the whole model
# Values of ``weights`` that are not a model. They win over a model with the same name.
WEIGHT_KEYWORDS = ("random", "pretrained", "train")

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

MAX_CPU_DEVICES = 8  # processes that share a training on the cores of one machine

DEFAULT_EPOCHS, DEFAULT_WARMUP_EPOCHS = 20, 1.0
MIN_LEARNING_RATE = 1e-5  # default rate at the end of a training

Name = Annotated[str, Field(min_length=1, max_length=200)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]


def default_min_learning_rate(learning_rate: float) -> float:
    """Return the default of ``min_learning_rate`` for a learning rate."""
    return min(MIN_LEARNING_RATE, learning_rate)


# A keyword, or an id, a name or an id prefix of a model or job; the API replaces names and prefixes by ids.
Weights = Annotated[str, Field(min_length=1, max_length=200)]


class ModelSpec(StrictModel):
    """A timm model: architecture, constructor arguments and source of its weights."""

    architecture: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        default=None,
        description="A timm name; `GET /v1/architectures` lists them. May be omitted if weights are those of "
        "a model or job: their architecture is filled in.",
    )
    arguments: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Keyword arguments for `timm.create_model`. `num_classes` and `in_chans` come from the dataset, "
        "omitted arguments from the weights if these are those of a model or job.",
    )
    weights: Weights

    @property
    def architecture_name(self) -> str:
        """The architecture, which only a spec from a client may omit; see `core.spec.references`."""
        assert self.architecture is not None, "the architecture is filled in before it is used"
        return self.architecture

    @model_validator(mode="after")
    def _require_architecture(self) -> Self:
        if self.architecture is None and self.weights in WEIGHT_KEYWORDS:
            raise PydanticCustomError(ARCHITECTURE_MISSING, "it is missing; give a timm name")
        return self

    @field_validator("arguments")
    @classmethod
    def _refuse_reserved_arguments(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        for name in ("num_classes", "in_chans"):
            if name in arguments:
                raise PydanticCustomError(
                    "argument_from_dataset", "{name} comes from the dataset; leave it out", {"name": name}
                )
        for name in ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"):
            if name in arguments:
                raise PydanticCustomError(
                    "argument_refused", "{name} is not accepted here; use weights", {"name": name}
                )
        return arguments


class StudentSpec(ModelSpec):
    """The model to train and export."""

    weights: Weights = Field(
        default="random",
        description="`random`, `pretrained`, or a model or job whose weights to start from: its id (`mdl_…`, `job_…`), "
        "unique name or unique id prefix.",
    )

    @field_validator("weights")
    @classmethod
    def _refuse_train(cls, weights: str) -> str:
        if weights == "train":
            raise PydanticCustomError("weights", "train is for teachers; a student starts from random or given weights")
        return weights


class TrainingBase(StrictModel):
    """Settings shared by the training of students and of teachers."""

    epochs: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="Passes over the training split. Null: 20; from random weights as many as make 1,000 steps, at "
        "least 20 and at most 200.",
    )
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
    """Training of a teacher with `weights: train`, before the student and on the same data."""


class TeacherSpec(ModelSpec):
    """A model that the student learns from."""

    weights: Weights = Field(
        default="pretrained",
        description="`pretrained`, `train`, `random`, or a model or job: its id (`mdl_…`, `job_…`), unique name or "
        "unique id prefix.",
    )
    training: TeacherTrainingSpec | None = Field(default=None, description="Only with `weights: train`.")

    @model_validator(mode="after")
    def _require_train_for_training(self) -> Self:
        if self.training is not None and self.weights != "train":
            raise PydanticCustomError("training", "training is read only with weights train; leave it out")
        return self


class ResourcesSpec(StrictModel):
    """Hardware of the job and its time limit."""

    accelerator: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="`auto`: that of the first worker to claim the job; later attempts use the same."
    )
    devices: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Devices of one machine that train the student together, each on a part of every batch. On a CPU: "
        "processes, at most 8.",
    )
    threads: int | None = Field(default=None, ge=1, le=1024, description="CPU threads. Null: the service's default.")
    max_seconds: float | None = Field(
        default=None,
        gt=0,
        le=10**9,
        description="Longest running time over all attempts, without waits and pauses. Then the job fails with "
        "`time_limit`; its last checkpoint is retained. Null: the service's limit. Only the service's workers enforce "
        "it; results do not depend on it.",
    )

    @model_validator(mode="after")
    def _limit_cpu_devices(self) -> Self:
        if self.accelerator == "cpu" and self.devices > MAX_CPU_DEVICES:
            raise PydanticCustomError(
                "devices",
                "a job on a CPU has at most {maximum} processes, not {count}; lower devices",
                {"maximum": MAX_CPU_DEVICES, "count": self.devices},
            )
        return self


class JobSpec(StrictModel):
    """A distillation job."""

    name: Name | None = None
    dataset: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        description="Id (`ds_…`), unique name or unique id prefix of a dataset."
    )
    teachers: tuple[TeacherSpec, ...] = Field(default=(), max_length=8)
    student: StudentSpec
    method: MethodSpec = Field(description="One object, discriminated by `name`; `GET /v1/methods` lists all methods.")
    training: TrainingSpec = Field(default_factory=TrainingSpec)
    compression: tuple[dict[str, JsonValue], ...] = Field(default=(), max_length=16)
    export: tuple[ExportName, ...] = Field(default=("safetensors", "onnx"), max_length=8)
    resources: ResourcesSpec = Field(default_factory=ResourcesSpec)
    priority: int = Field(
        default=0,
        ge=-100,
        le=100,
        description="Jobs of a project run in order of descending priority; projects share workers fairly.",
    )
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] = Field(
        default_factory=dict, max_length=16
    )

    @field_validator("compression")
    @classmethod
    def _refuse_compression(cls, steps: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        if steps:
            raise not_available("compression")
        return steps

    @field_validator("export")
    @classmethod
    def _add_safetensors(cls, formats: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys((REQUIRED_FORMAT, *formats)))

    @model_validator(mode="after")
    def _check_number_of_teachers(self) -> Self:
        needs = self.method.info.needs
        count = len(self.teachers)
        if count < needs.min_teachers:
            raise PydanticCustomError(
                "teachers",
                "{method} needs at least {minimum} teacher(s); add one to teachers",
                {"method": self.method.name, "minimum": needs.min_teachers},
            )
        if needs.max_teachers is not None and count > needs.max_teachers:
            raise PydanticCustomError(
                "teachers",
                "{method} takes at most {maximum} teacher(s), not {count}",
                {"method": self.method.name, "maximum": needs.max_teachers, "count": count},
            )
        return self

    def datasets(self) -> dict[str, str]:
        """Ids of all datasets that this spec reads, by pointer; the job's own is the first."""
        others = {f"/method/{field}": dataset for field, dataset in self.method.datasets().items()}
        return {"/dataset": self.dataset, **others}

    def references(self) -> tuple[str, ...]:
        """Stored models and jobs that this spec reads weights from."""
        weights = (self.student.weights, *(teacher.weights for teacher in self.teachers))
        return tuple(dict.fromkeys(each for each in weights if each not in WEIGHT_KEYWORDS))

"""The job spec: a typed, immutable document, from the request to the report."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator
from pydantic_core import PydanticCustomError

from core.spec.compression import MAX_STEPS, CompressionSpec, StepParams, output_names
from core.spec.document import StrictModel
from core.spec.export_options import ExportOptions
from core.spec.exports import REQUIRED_FORMAT, ExportEntry, export_entry, export_options, file_names
from core.spec.methods import MethodParams, MethodSpec
from core.spec.training import TeacherTrainingSpec, TrainingSpec

# Types of validation errors of a whole model.
ARCHITECTURE_MISSING = "architecture_missing"
DISTILLATION_MISSING = "distillation_missing"
WEIGHTS_NOT_DISTILLED = "weights_not_distilled"
# Values of ``weights`` that are not a model. They win over a model with the same name.
WEIGHT_KEYWORDS = ("random", "pretrained", "train", "distill")

MAX_CHAIN = 2  # distillations, one inside the other, that come before that of the job's student

COMPRESSION_HELD_OUT = 0.1  # of the training split, on which compression steps are judged
MAX_CPU_DEVICES = 8  # processes that share a training on the cores of one machine

Name = Annotated[str, Field(min_length=1, max_length=200)]


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
    distillation: DistillationSpec | None = Field(
        default=None,
        description="With `weights: distill`: the distillation, on the job's dataset, that gives this model its "
        "weights before it is used. It starts from random weights.",
    )

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

    @model_validator(mode="after")
    def _pair_weights_with_distillation(self) -> Self:
        if self.weights == "distill" and self.distillation is None:
            raise PydanticCustomError(
                DISTILLATION_MISSING,
                "weights distill needs it; write "
                '{{"teachers": [{{"architecture": "resnet18", "weights": "train"}}], "method": {{"name": "kd"}}}}',
            )
        if self.weights != "distill" and self.distillation is not None:
            raise PydanticCustomError(
                WEIGHTS_NOT_DISTILLED,
                "weights {weights} and a distillation contradict each other; set weights to distill, or leave "
                "distillation out",
                {"weights": self.weights},
            )
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
        description="`random`, `pretrained` (public weights of timm), `distill` (this job first distills it, as "
        "`distillation` says), or a model or job whose weights to start from: its id (`mdl_…`, `job_…`), unique name "
        "or unique id prefix; or the id of a checkpoint (`ckpt_…`) of a job, which then retains it.",
    )

    @field_validator("weights")
    @classmethod
    def _refuse_train(cls, weights: str) -> str:
        if weights == "train":
            raise PydanticCustomError("weights", "train is for teachers; a student starts from random or given weights")
        return weights


class TeacherSpec(ModelSpec):
    """A model that the student learns from."""

    weights: Weights = Field(
        default="pretrained",
        description="`pretrained` (public weights of timm), `train` (this job first trains it with the labels), "
        "`distill` (this job first distills it, as `distillation` says), `random`, or a model or job: its id "
        "(`mdl_…`, `job_…`), unique name or unique id prefix; or the id of a checkpoint (`ckpt_…`).",
    )
    training: TeacherTrainingSpec | None = Field(
        default=None,
        description="Training with the dataset's labels: of a teacher with `weights: train`, or of one with given or "
        "distilled weights, which is fine-tuned with a new classifier for the dataset's classes.",
    )

    @property
    def is_trained(self) -> bool:
        """Whether the job trains this teacher, from random or from given weights."""
        return self.weights == "train" or self.training is not None

    @property
    def is_fine_tuned(self) -> bool:
        """Whether the job trains this teacher from given weights."""
        return self.training is not None and self.weights != "train"

    @model_validator(mode="after")
    def _refuse_training_of_random_weights(self) -> Self:
        if self.training is not None and self.weights == "random":
            raise PydanticCustomError("training", "a teacher with weights random is not trained; set weights to train")
        return self


def _require_number_of_teachers(method: MethodParams, count: int) -> None:
    """Raise a validation error if ``method`` does not take this number of teachers."""
    needs = method.info.needs
    if count < needs.min_teachers:
        raise PydanticCustomError(
            "teachers",
            "{method} needs at least {minimum} teacher(s); add one to teachers",
            {"method": method.name, "minimum": needs.min_teachers},
        )
    if needs.max_teachers is not None and count > needs.max_teachers:
        raise PydanticCustomError(
            "teachers",
            "{method} takes at most {maximum} teacher(s), not {count}",
            {"method": method.name, "maximum": needs.max_teachers, "count": count},
        )


class DistillationSpec(StrictModel):
    """A distillation that gives a model its weights before the job uses it."""

    teachers: tuple[TeacherSpec, ...] = Field(default=(), max_length=8)
    method: MethodSpec = Field(description="One object, discriminated by `name`, as in the job.")
    training: TrainingSpec = Field(default_factory=TrainingSpec)

    @property
    def depth(self) -> int:
        """Number of distillations, this one included, that one of its teachers waits for at most."""
        return 1 + max((t.distillation.depth for t in self.teachers if t.distillation is not None), default=0)

    @model_validator(mode="after")
    def _check_teachers(self) -> Self:
        _require_number_of_teachers(self.method, len(self.teachers))
        if self.depth > MAX_CHAIN:
            raise PydanticCustomError(
                "chain_depth",
                "{depth} distillations are nested, at most {maximum} are possible; run the inner ones as a job of "
                "their own, and name it as weights",
                {"depth": self.depth, "maximum": MAX_CHAIN},
            )
        return self

    @field_validator("method")
    @classmethod
    def _refuse_labels_alone(cls, method: MethodParams) -> MethodParams:
        if method.name == "scratch":
            raise PydanticCustomError(
                "scratch", "scratch distills nothing; set the model's weights to train, or choose another method"
            )
        if not method.keeps_shape:
            raise PydanticCustomError(
                "method",
                "the shape of the model that {method} exports is known only after its training; run it as a job of its "
                "own, and name that job as weights",
                {"method": method.name},
            )
        return method


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
    unlabeled_dataset: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        default=None,
        description="Id, unique name or unique id prefix of a second dataset, whose training images the student also "
        "trains on, without labels. Teachers with `training` and the baseline train on the labeled dataset alone.",
    )
    teachers: tuple[TeacherSpec, ...] = Field(default=(), max_length=8)
    student: StudentSpec
    method: MethodSpec = Field(description="One object, discriminated by `name`; `GET /v1/methods` lists all methods.")
    training: TrainingSpec = Field(default_factory=TrainingSpec)
    compression: tuple[CompressionSpec, ...] = Field(
        default=(),
        max_length=MAX_STEPS,
        description="Steps that make the trained student smaller, in order; each is one object, discriminated by "
        "`name`. With any, a tenth of the training split is held out to judge them.",
    )
    baseline: bool = Field(
        default=False,
        description="Also train the student with the same budget by labels alone (method `scratch`), or find an equal "
        "training of an earlier job. The report then tells whether the teacher helped.",
    )
    export: tuple[ExportEntry, ...] = Field(
        default=("safetensors", "onnx"),
        max_length=16,
        description="Formats of the exported student: names, or objects with options such as "
        '`{"format": "onnx", "preprocessing": true}`. `safetensors` is always written.',
    )
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

    @field_validator("export")
    @classmethod
    def _complete_export(cls, entries: tuple[ExportEntry, ...]) -> tuple[ExportEntry, ...]:
        """Add the required format, drop repeated entries, and refuse two files of the same name."""
        options = dict.fromkeys(export_options(entry) for entry in (REQUIRED_FORMAT, *entries))
        labels: dict[str, str] = {}  # by file name
        for each in options:
            for name in file_names(each):
                if name in labels:
                    raise PydanticCustomError(
                        "export",
                        "{name} would be written for {first} and for {second}; leave one of them out",
                        {"name": name, "first": labels[name], "second": each.label},
                    )
                labels[name] = each.label
        return tuple(export_entry(each) for each in options)

    @model_validator(mode="after")
    def _check_file_names(self) -> Self:
        written = {name: options.label for options in self.export_options for name in file_names(options)}
        for name in output_names(self.compression):
            if name in written:
                raise PydanticCustomError(
                    "export_names",
                    "{name} would be written for {label} and by a step of compression; leave one of them out",
                    {"name": name, "label": written[name]},
                )
        return self

    @model_validator(mode="after")
    def _check_teachers(self) -> Self:
        _require_number_of_teachers(self.method, len(self.teachers))
        return self

    @field_validator("compression")
    @classmethod
    def _require_order(cls, steps: tuple[StepParams, ...]) -> tuple[StepParams, ...]:
        """Refuse a step that changes the network after one that has already written its file."""
        for index, step in enumerate(steps):
            written = [earlier.name for earlier in steps[:index] if earlier.info.writes_file]
            if written and not step.info.writes_file:
                raise PydanticCustomError(
                    "compression_order",
                    "step {index} is {name}, which changes the network, and an earlier {earlier} has already written "
                    "its file; put {name} before {earlier}",
                    {"index": index, "name": step.name, "earlier": written[0]},
                )
        return steps

    @model_validator(mode="after")
    def _require_classifier(self) -> Self:
        if self.compression and self.method.info.needs.headless:
            raise PydanticCustomError(
                "compression",
                "{method} trains a backbone without a classifier, and compression is judged by top-1 accuracy; leave "
                "compression out, or take another method",
                {"method": self.method.name},
            )
        return self

    @property
    def held_out_fraction(self) -> float:
        """Fraction of the training split that the student is not trained on."""
        compression = COMPRESSION_HELD_OUT if self.compression else 0.0
        return max(self.method.held_out_fraction, self.training.hold_out, compression)

    @property
    def export_options(self) -> tuple[ExportOptions, ...]:
        """The entries of ``export`` with all their options."""
        return tuple(export_options(entry) for entry in self.export)

    def models(self) -> dict[str, StudentSpec | TeacherSpec]:
        """Student and teachers by pointer, with the teachers of distillations; each model precedes its own teachers."""
        return {"/student": self.student, **_models_inside("/student", self.student), **_teachers("", self.teachers)}

    def datasets(self) -> dict[str, str]:
        """Ids of all datasets that this spec reads, by pointer; the job's own is the first."""
        return {"/dataset": self.dataset, **self.further_datasets()}

    def further_datasets(self) -> dict[str, str]:
        """:meth:`training_datasets`, and the datasets that the methods of distillations read."""
        found = self.training_datasets()
        for at, model in self.models().items():
            if model.distillation is not None:
                read = model.distillation.method.datasets()
                found |= {f"{at}/distillation/method/{field}": dataset for field, dataset in read.items()}
        return found

    def training_datasets(self) -> dict[str, str]:
        """Ids of the datasets that the student trains on besides the job's own, by pointer."""
        own = {} if self.unlabeled_dataset is None else {"/unlabeled_dataset": self.unlabeled_dataset}
        return own | {f"/method/{field}": dataset for field, dataset in self.method.datasets().items()}

    def references(self) -> tuple[str, ...]:
        """Stored models and jobs that this spec reads weights from."""
        weights = [model.weights for model in self.models().values()]
        return tuple(dict.fromkeys(each for each in weights if each not in WEIGHT_KEYWORDS))


def _models_inside(at: str, model: ModelSpec) -> dict[str, StudentSpec | TeacherSpec]:
    distillation = model.distillation
    return {} if distillation is None else _teachers(f"{at}/distillation", distillation.teachers)


def _teachers(at: str, teachers: tuple[TeacherSpec, ...]) -> dict[str, StudentSpec | TeacherSpec]:
    models: dict[str, StudentSpec | TeacherSpec] = {}
    for index, teacher in enumerate(teachers):
        pointer = f"{at}/teachers/{index}"
        models |= {pointer: teacher, **_models_inside(pointer, teacher)}
    return models


for _model in (StudentSpec, TeacherSpec):
    _model.model_rebuild()

"""Plans of a job's models: what will be built is decided here, once.

The resolver checks and reports plans; ``core.models.build`` builds them. Planning allocates no weights and draws no
random numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

from timm.models import get_pretrained_cfg

from core.errors import InvalidSpec, WeightsMismatch
from core.models import catalog
from core.models.arguments import model_arguments, square_size
from core.models.preprocessing import Preprocessing, normalized, plain_preprocessing
from core.models.pretrained_fit import unfit_argument
from core.models.student_variants import StudentVariant
from core.spec import JobSpec, StudentSpec, TeacherSpec
from core.spec.info import InputInfo, ModelInfo, Normalization
from core.spec.job import WEIGHT_KEYWORDS
from core.spec.parse import did_you_mean
from core.spec.references import DATASET_ARGUMENTS, inherited_arguments

MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 4, 1024  # pixels a side
_NO_MODELS: Mapping[str, ModelInfo] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class WeightSource:
    """Source of a model's first weights.

    ``name`` is the timm name with its tag for ``pretrained``, and the id (``mdl_…``, ``job_…``, ``ckpt_…``) for
    ``stored``.
    ``normalization`` holds the statistics of the images that the weights were trained with.
    """

    kind: Literal["random", "pretrained", "stored"] = "random"
    name: str = ""
    normalization: Normalization | None = None


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """One model: ``timm.create_model(architecture, **arguments)`` at ``image_size`` pixels a side.

    ``variant`` is the student variant that the method requires. ``base`` is then the plan of the requested student:
    given weights are loaded into it first, and adapted to the variant. ``classes`` are names in the order of the
    logits, None if unknown.
    """

    architecture: str
    arguments: dict[str, Any]
    image_size: int
    weights: WeightSource = field(default_factory=WeightSource)
    classes: tuple[str, ...] | None = None
    variant: StudentVariant | None = None
    base: ModelPlan | None = None

    @property
    def num_classes(self) -> int:
        """Width of the logits; 0 without a classifier."""
        return int(self.arguments["num_classes"])

    @property
    def channels(self) -> int:
        """Channels of the input images."""
        return int(self.arguments["in_chans"])

    @property
    def preprocessing(self) -> Preprocessing:
        """The model's preprocessing: statistics of its weights, or [-1, 1] for random weights.

        Raises:
            WeightsMismatch: The stored weights come without statistics.
        """
        if self.weights.kind == "random":
            return plain_preprocessing(image_size=self.image_size, channels=self.channels)
        statistics = self.weights.normalization
        if statistics is None:
            raise WeightsMismatch(f"{self.weights.name} has no normalization of its images")
        return normalized(statistics.mean, statistics.std, image_size=self.image_size, channels=self.channels)

    def with_variant(self, variant: StudentVariant | None) -> ModelPlan:
        """Return the plan of the student variant. Raises InvalidSpec if the student cannot take it."""
        if variant is None:
            return self
        architecture, arguments = variant.architecture_and_arguments(self.architecture, self.arguments)
        return replace(self, architecture=architecture, arguments=arguments, variant=variant, base=self)


def decode_size(student: int, teachers: Iterable[int], *, largest_image: int) -> int:
    """Return the size at which a job decodes its training images, from the image sizes of its networks.

    It is the largest size that any network needs, but a teacher asks for no more than ``largest_image``, the largest
    shorter side of the images: pixels enlarged before the augmentation cost time, and blur the student's images.
    All sizes are in pixels a side.
    """
    return max(student, min(max(teachers, default=0), largest_image))


def model_inputs(
    spec: JobSpec,
    dataset: InputInfo,
    teacher: TeacherSpec | None = None,
    *,
    models: Mapping[str, ModelInfo] = _NO_MODELS,
) -> InputInfo:
    """Return the dataset properties that shape the student, or ``teacher``.

    A method without a classifier ignores the classes; only teachers that are trained in the job use them. Where the
    dataset has no labels, the number of classes is that of the given weights. ``models`` has the stored models by id.
    """
    if teacher is not None and teacher.is_trained:
        return dataset
    if spec.method.info.needs.headless:
        return replace(dataset, num_classes=None)
    return (
        dataset if dataset.num_classes is not None else replace(dataset, num_classes=_classes_of_weights(spec, models))
    )


def _classes_of_weights(spec: JobSpec, models: Mapping[str, ModelInfo]) -> int | None:
    """Return the number of classes of the first teacher with given weights, else of the student's; None without."""
    for model in (*spec.teachers, spec.student):
        if model.weights == "pretrained":
            name = catalog.canonical_name(model.architecture_name)
            count = catalog.pretrained_info(name).num_classes if catalog.has_pretrained(name) else None
        else:
            count = models[model.weights].num_classes if model.weights in models else None
        if count:
            return count
    return None


def plan_student(
    spec: StudentSpec | TeacherSpec,
    dataset: InputInfo,
    *,
    image_size: int | None = None,
    models: Mapping[str, ModelInfo] = _NO_MODELS,
) -> ModelPlan:
    """Plan the requested student, without the method's variant.

    ``image_size`` is ``training.image_size``. If neither it nor ``img_size`` is set, the size is that of the stored
    model, of the architecture or of the dataset, in this order. ``models`` has the stored models by id.

    Raises:
        InvalidSpec: The architecture, its arguments, the image size or the weights are not valid.
    """
    name = catalog.canonical_name(spec.architecture_name)
    architecture = catalog.require(name)
    stored = _stored_model(spec, name, models)
    size = _one_size(square_size(spec.arguments.get("img_size"), pointer="/arguments/img_size"), image_size)
    if size is None and stored is not None:
        size = stored.image_size
    if size is None and catalog.takes_image_size(architecture):
        size = catalog.native_image_size(name)
    size = _in_range(size or max(dataset.image_size, MIN_IMAGE_SIZE))
    if stored is not None:
        spec = spec.model_copy(update={"arguments": inherited_arguments(spec, stored)})
    arguments = model_arguments(spec, dataset, size)
    _check_pretrained(spec, name, arguments)
    return ModelPlan(architecture, arguments, size, _weight_source(spec, name, stored))


def plan_teacher(
    spec: TeacherSpec,
    dataset: InputInfo,
    *,
    image_size: int | None = None,
    models: Mapping[str, ModelInfo] = _NO_MODELS,
) -> ModelPlan:
    """Plan a teacher.

    Pretrained and stored teachers keep their own classes, channels and normalization, and their own size unless the
    argument ``img_size`` gives another: timm resamples their position embedding. ``image_size`` is the student's; it
    is used by random and trained teachers and by weights without a size of their own. A fine-tuned teacher is planned
    like a student with given weights: with the dataset's classes and channels, at its own size.

    Raises:
        InvalidSpec: As for a student; also if a teacher is to be trained without labels.
    """
    if spec.is_trained and dataset.num_classes is None:
        raise InvalidSpec.for_field(
            "/weights", "the dataset has no labels to train a teacher with; give it weights, and leave training out"
        )
    if spec.training is not None and spec.weights != "train":
        return plan_student(spec, dataset, image_size=spec.training.image_size, models=models)
    name = catalog.canonical_name(spec.architecture_name)
    architecture = catalog.require(name)
    stored = _stored_model(spec, name, models)
    weights = _weight_source(spec, name, stored)
    size = square_size(spec.arguments.get("img_size"), pointer="/arguments/img_size")
    if stored is not None:
        arguments = dict(stored.arguments)
        if size is not None and size != (stored.image_size or size):
            if not catalog.resamples_positions(architecture):
                raise InvalidSpec.for_field(
                    "/arguments/img_size",
                    f"the weights {spec.weights} take images of {stored.image_size} pixels a side; leave img_size out",
                )
            arguments["img_size"] = _in_range(size)
        else:
            size = stored.image_size or size or image_size or dataset.image_size
        return ModelPlan(architecture, arguments, size, weights, stored.classes)
    if weights.kind == "pretrained":
        published = catalog.pretrained_info(name)
        size = size or published.image_size
        arguments = model_arguments(spec, published, size)
        _check_pretrained(spec, name, arguments)
        return ModelPlan(architecture, arguments, size, weights)
    size = _one_size(size, None if spec.training is None else spec.training.image_size)
    size = _in_range(size or image_size or dataset.image_size)
    return ModelPlan(architecture, model_arguments(spec, dataset, size), size)


def class_mismatch(plan: ModelPlan, num_classes: int | None, *, source: str = "dataset") -> str | None:
    """Return why a teacher with given weights cannot teach ``num_classes`` classes; None if it can.

    ``num_classes`` are those of ``source``, None where the student has no classifier.
    """
    if plan.weights.kind == "random" or num_classes is None or plan.num_classes == num_classes:
        return None
    return (
        f"the teacher {plan.architecture} has {plan.num_classes} classes and the {source} has {num_classes}; "
        "use a teacher made for these classes, give it a training, which fine-tunes it with a new classifier, or "
        "set weights to train"
    )


def _stored_model(spec: StudentSpec | TeacherSpec, name: str, models: Mapping[str, ModelInfo]) -> ModelInfo | None:
    """Return the stored model that a spec refers to, checked against the spec; None for other weights.

    ``name`` is timm's name of the architecture, with the pretrained tag if the spec has one.
    """
    if spec.weights in {"random", "train"}:
        return None
    if spec.weights == "pretrained":
        if not catalog.has_pretrained(name):
            raise InvalidSpec.for_field("/weights", catalog.no_weights_reason(name))
        return None
    if spec.weights not in models:
        hint = did_you_mean(spec.weights, WEIGHT_KEYWORDS)
        raise InvalidSpec.for_field(
            "/weights",
            f"there is no model {spec.weights[:80]!r} with weights to use.{hint} weights is random, pretrained, train "
            "(teachers only), distill or a model",
        )
    stored = models[spec.weights]
    _check_reference(spec, name, stored)
    return stored


def _check_reference(spec: StudentSpec | TeacherSpec, name: str, stored: ModelInfo) -> None:
    """Raise InvalidSpec if a spec contradicts the stored model that it refers to. Omitted arguments are inherited."""
    if catalog.require(name) != stored.architecture:
        raise InvalidSpec.for_field(
            "/architecture",
            f"the weights {spec.weights} are those of a {stored.architecture}; write that, or leave architecture out",
        )
    for argument, value in spec.arguments.items():
        own = stored.arguments.get(argument)
        if value is not None and argument not in DATASET_ARGUMENTS and _as_json(own) != _as_json(value):
            made = f"{argument} {own!r}" if argument in stored.arguments else f"{argument} left out"
            raise InvalidSpec.for_field(
                f"/arguments/{argument}", f"the weights {spec.weights} were made with {made}, not {value!r}"
            )


def _check_pretrained(spec: StudentSpec | TeacherSpec, name: str, arguments: Mapping[str, Any]) -> None:
    """Raise InvalidSpec if the spec has pretrained weights and an argument that these do not fit."""
    if spec.weights != "pretrained":
        return
    changed = {key: arguments[key] for key in spec.arguments if key in arguments and key not in DATASET_ARGUMENTS}
    if changed and (found := unfit_argument(name, arguments, changed)):
        argument, reason = found
        raise InvalidSpec.for_field(
            f"/arguments/{argument}",
            f"the pretrained weights of {name} do not fit: {reason}; leave {argument} out, or use other weights",
        )


def _weight_source(spec: StudentSpec | TeacherSpec, name: str, stored: ModelInfo | None) -> WeightSource:
    if stored is not None:
        return WeightSource("stored", spec.weights, stored.normalization)
    if spec.weights == "pretrained":
        cfg = get_pretrained_cfg(name)
        return WeightSource("pretrained", name, Normalization(mean=cfg.mean, std=cfg.std))
    return WeightSource()


def _one_size(argument: int | None, image_size: int | None) -> int | None:
    """Return the size that ``img_size`` or ``training.image_size`` requests. Raises InvalidSpec if they differ."""
    if argument is not None and image_size is not None and argument != image_size:
        raise InvalidSpec.for_field(
            "/arguments/img_size",
            f"img_size is {argument} and /training/image_size is {image_size}; give one of them",
        )
    return argument or image_size


def _in_range(size: int) -> int:
    if not MIN_IMAGE_SIZE <= size <= MAX_IMAGE_SIZE:
        raise InvalidSpec.for_field(
            "/arguments/img_size", f"{MIN_IMAGE_SIZE} to {MAX_IMAGE_SIZE} pixels a side are accepted"
        )
    return size


def _as_json(value: Any) -> Any:
    """Tuples as lists: JSON has no tuples."""
    return list(value) if isinstance(value, tuple) else value

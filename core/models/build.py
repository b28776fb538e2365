"""Student and teachers of a job: built by timm, weights loaded, each with its own preprocessing.

Weights that start at random are drawn from torch's global generator on the CPU: seed it first and
the same spec gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import timm
from timm.layers import DropPath
from timm.models import get_pretrained_cfg
from torch import nn

from core.errors import InvalidSpec, SpecCannotRun, WeightsMismatch, WeightsUnavailable
from core.models import catalog
from core.models.arguments import model_arguments, refused, square_size
from core.models.built import BuiltModel
from core.models.hub import pretrained_weights
from core.models.meta_device import build_on_meta
from core.models.preprocessing import Preprocessing, normalized, plain_preprocessing
from core.models.safetensors_header import read_model_info
from core.models.student_variants import StudentVariant
from core.models.weights import REFUSALS, load_folder, load_strictly
from core.spec import ModelSpec, StudentSpec, TeacherSpec
from core.spec.facts import InputInfo

__all__ = ["BuiltModel", "InputInfo", "accepts_drop_path", "build_student", "build_teacher", "model_arguments"]

Shaping = Callable[[str, Mapping[str, Any]], StudentVariant | None]
_FROM_DATASET = ("num_classes", "in_chans", "img_size")


def build_student(
    spec: StudentSpec,
    *,
    facts: InputInfo,
    image_size: int,
    drop_path: float = 0.0,
    models: Mapping[str, Path],
    variant_for: Shaping | None = None,
    hub: Path | None = None,
) -> BuiltModel:
    """Build the model that is to be trained, in training mode, on the CPU.

    ``drop_path`` is set where the architecture has stochastic depth. ``models`` maps ``mdl_…`` and
    ``job_…`` to folders, ``hub`` is a folder in the form of the hub's cache. ``shaping`` tells, from
    the asked model's name and full arguments, the form that the method gives it; switches of that form are
    left to the method.

    Raises:
        InvalidSpec: The arguments cannot be, or do not agree with the weights that are asked for.
        WeightsUnavailable, WeightsMismatch: Weights that cannot be had or do not fit.
    """
    if spec.weights == "random":
        name, arguments = catalog.require(spec.architecture), model_arguments(spec, facts, image_size)
        form = variant_for(name, arguments) if variant_for else None
        if form is not None:
            name, arguments = form.architecture_and_arguments(name, arguments)
        module = _create_dropping(name, arguments, drop_path)
        return BuiltModel(module, name, arguments, plain_preprocessing(image_size=image_size, channels=facts.channels))
    name, arguments, module, preprocessing = _student_from_weights(spec, facts, image_size, models, hub)
    form = variant_for(name, arguments) if variant_for else None
    final_name, final = (name, arguments) if form is None else form.architecture_and_arguments(name, arguments)
    changed = (final_name, final) != (name, arguments)
    if drop_path > 0 or changed:
        # Built again: stochastic depth belongs to the constructor, and so does the form.
        state = module.state_dict()
        module = _create_dropping(final_name, final, drop_path)
        load_strictly(module, form.adapt_weights(state, module) if form and changed else state, name=final_name)
    else:
        _drop_nothing(module)
    return BuiltModel(module, final_name, final, preprocessing)


def build_teacher(
    spec: TeacherSpec,
    *,
    facts: InputInfo,
    image_size: int,
    models: Mapping[str, Path],
    hub: Path | None = None,
) -> BuiltModel:
    """Build a teacher in evaluation mode, on the CPU.

    With ``train`` the weights are those that its training starts from (set ``module.train()``).
    ``image_size`` is used for ``random`` and ``train`` and for weights of no known size; others keep
    their own size, channels and normalisation, and their pictures are adapted to them.

    Raises:
        InvalidSpec, WeightsUnavailable, WeightsMismatch: As for a student.
        SpecCannotRun: The teacher's classes are not those of the dataset.
    """
    if spec.weights in {"random", "train"}:
        name, arguments = catalog.require(spec.architecture), model_arguments(spec, facts, image_size)
        preprocessing = plain_preprocessing(image_size=image_size, channels=facts.channels)
        return BuiltModel(_create(name, arguments).eval(), name, arguments, preprocessing)
    if spec.weights == "pretrained":
        built = _pretrained_teacher(spec, hub)
    else:
        folder = _stored(spec.weights, models)
        check_reference(spec, read_model_info(folder).architecture, read_model_info(folder).arguments)
        built = load_folder(folder, image_size=image_size)
    if facts.num_classes is not None and built.num_classes != facts.num_classes:
        raise SpecCannotRun(class_mismatch(spec, built.num_classes, facts.num_classes))
    return built


def check_reference(spec: StudentSpec | TeacherSpec, architecture: str, arguments: Mapping[str, Any]) -> None:
    """Refuse a spec that says something else of a stored model than the model itself does.

    Arguments that are left out are the stored model's. Raises InvalidSpec.
    """
    if catalog.require(spec.architecture) != architecture:
        raise refused("/architecture", f"the weights {spec.weights} are those of a {architecture}; write that")
    for name, value in spec.arguments.items():
        if value is not None and name not in _FROM_DATASET and _plain(arguments.get(name)) != _plain(value):
            made = f"{name} {arguments[name]!r}" if name in arguments else f"{name} left out"
            raise refused(f"/arguments/{name}", f"the weights {spec.weights} were made with {made}, not {value!r}")


def class_mismatch(spec: ModelSpec, teacher_classes: int, dataset_classes: int) -> str:
    """Why a teacher cannot teach this dataset."""
    return (
        f"the teacher {spec.architecture} tells {teacher_classes} classes apart and the dataset has {dataset_classes}; "
        "use a teacher made for these classes, or weights train"
    )


def accepts_drop_path(architecture: str, arguments: Mapping[str, Any]) -> bool:
    """Whether the architecture has stochastic depth."""
    try:
        build_on_meta(architecture, {**arguments, "drop_path_rate": 0.1})
    except TypeError:
        return False
    return True


def _student_from_weights(
    spec: StudentSpec, facts: InputInfo, image_size: int, models: Mapping[str, Path], hub: Path | None
) -> tuple[str, dict[str, Any], nn.Module, Preprocessing]:
    """A student that starts from given weights: timm adapts head, first convolution and positions to the dataset."""
    name = catalog.require(spec.architecture)
    if spec.weights == "pretrained":
        arguments = model_arguments(spec, facts, image_size)
        file = pretrained_weights(spec.architecture, hub=hub)
        module = _create(spec.architecture, arguments, pretrained=True, pretrained_cfg_overlay={"file": str(file)})
        cfg = get_pretrained_cfg(spec.architecture)
        mean, std = cfg.mean, cfg.std
    else:
        folder = _stored(spec.weights, models)
        stored = read_model_info(folder)
        check_reference(spec, stored.architecture, stored.arguments)
        inherited = {k: v for k, v in stored.arguments.items() if k not in _FROM_DATASET}
        completed = spec.model_copy(update={"arguments": {**inherited, **spec.arguments}})
        arguments = model_arguments(completed, facts, image_size)
        module = _create(f"local-dir:{folder}", arguments, pretrained=True)
        if stored.normalization is None:
            raise WeightsMismatch(f"{spec.weights} does not say how its pictures are normalised")
        mean, std = stored.normalization.mean, stored.normalization.std
    preprocessing = normalized(mean, std, image_size=image_size, channels=facts.channels)
    return name, arguments, module, preprocessing


def _pretrained_teacher(spec: TeacherSpec, hub: Path | None) -> BuiltModel:
    """A teacher as it was published: its own classes, channels, size and normalisation."""
    name = catalog.require(spec.architecture)
    file = pretrained_weights(spec.architecture, hub=hub)
    cfg = get_pretrained_cfg(spec.architecture)
    facts = catalog.published(spec.architecture)
    given = spec.arguments.get("img_size")
    size = facts.image_size if given is None else square_size(given, pointer="/arguments/img_size")
    assert size is not None
    arguments = model_arguments(spec, facts, size)
    module = _create(spec.architecture, arguments, pretrained=True, pretrained_cfg_overlay={"file": str(file)})
    preprocessing = normalized(cfg.mean, cfg.std, image_size=size, channels=facts.channels)
    return BuiltModel(module.eval(), name, arguments, preprocessing)


def _create(name: str, arguments: Mapping[str, Any], *, pretrained: bool = False, **options: Any) -> nn.Module:
    try:
        module: nn.Module = timm.create_model(name, pretrained=pretrained, **options, **arguments)
    except REFUSALS as error:
        words = str(error) or type(error).__name__
        if pretrained:
            raise WeightsMismatch(f"The weights do not fit {name} with these arguments: {words}") from error
        raise InvalidSpec(f"timm refuses these arguments for {name}: {words}") from error
    return module.train()


def _create_dropping(name: str, arguments: Mapping[str, Any], drop_path: float) -> nn.Module:
    """The model with this much stochastic depth, where it has any; some of timm's have it unless told otherwise."""
    if drop_path > 0 and accepts_drop_path(name, arguments):
        return _create(name, {**arguments, "drop_path_rate": drop_path})
    module = _create(name, arguments)
    _drop_nothing(module)
    return module


def _drop_nothing(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, DropPath):
            part.drop_prob = 0.0


def _stored(reference: str, models: Mapping[str, Path]) -> Path:
    try:
        return models[reference]
    except KeyError:
        raise WeightsUnavailable(f"The weights {reference} are not at hand.") from None


def _plain(value: Any) -> Any:
    """Tuples and lists alike, as JSON knows no tuples."""
    return list(value) if isinstance(value, tuple) else value

"""Build a job's student and teachers from their plans, with timm.

Random weights are drawn from torch's global generator on the CPU: seed it first, and the same plan gives the same
bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import timm
from timm.layers import DropPath
from torch import nn

from core.errors import InvalidSpec, SpecCannotRun, WeightsMismatch, WeightsUnavailable
from core.models.built import BuiltModel
from core.models.hub import pretrained_weights
from core.models.meta_device import build_on_meta
from core.models.plan import ModelPlan, class_mismatch
from core.models.safetensors_header import read_model_info
from core.models.weights import BUILD_ERRORS, load_folder, load_strictly
from core.spec import JobSpec, StudentSpec, TeacherSpec
from core.spec.info import ModelInfo

_NO_FOLDERS: Mapping[str, Path] = MappingProxyType({})


def build_student(
    plan: ModelPlan,
    *,
    drop_path: float = 0.0,
    folders: Mapping[str, Path] = _NO_FOLDERS,
    hub: Path | None = None,
) -> BuiltModel:
    """Build the model that is trained, in training mode, on the CPU.

    ``drop_path`` is set if the architecture has stochastic depth. ``folders`` has the folder of each ``mdl_…`` and
    ``job_…``. ``hub`` is a folder in the layout of the Hugging Face cache. With given weights, timm adapts the head,
    the first convolution and the position embedding to the dataset.

    Raises:
        InvalidSpec: timm rejects the arguments.
        WeightsUnavailable, WeightsMismatch: The weights are missing or do not fit.
    """
    if plan.weights.kind == "random":
        module = _create_with_drop_path(plan.architecture, plan.arguments, drop_path)
    else:
        module = _student_with_weights(plan, drop_path, folders, hub)
    return BuiltModel(module, plan.architecture, plan.arguments, plan.preprocessing)


def build_teacher(
    plan: ModelPlan,
    *,
    num_classes: int | None = None,
    folders: Mapping[str, Path] = _NO_FOLDERS,
    hub: Path | None = None,
) -> BuiltModel:
    """Build a teacher in evaluation mode, on the CPU.

    ``num_classes`` is the number of classes to teach, None without a classifier.

    Raises:
        InvalidSpec, WeightsUnavailable, WeightsMismatch: As for a student.
        SpecCannotRun: The teacher has another number of classes.
    """
    mismatch = class_mismatch(plan, num_classes)
    if mismatch is not None:
        raise SpecCannotRun(mismatch)
    if plan.weights.kind == "stored":
        folder = _folder(plan.weights.name, folders)
        if plan.arguments == read_model_info(folder).arguments:
            return load_folder(folder, image_size=plan.image_size)
    if plan.weights.kind != "random":
        module = _create_with_weights(plan, folders, hub)
    else:
        module = _create(plan.architecture, plan.arguments)
    return BuiltModel(module.eval(), plan.architecture, plan.arguments, plan.preprocessing, plan.classes)


def stored_models(spec: StudentSpec | TeacherSpec, folders: Mapping[str, Path]) -> dict[str, ModelInfo]:
    """Return the stored model that a spec's weights refer to, by id; empty for other weights.

    Raises:
        WeightsUnavailable: ``folders`` lacks the model.
        WeightsMismatch: The folder does not hold a stored model.
    """
    if spec.weights in {"random", "train", "pretrained"}:
        return {}
    return {spec.weights: read_model_info(_folder(spec.weights, folders))}


def all_stored_models(spec: JobSpec, folders: Mapping[str, Path]) -> dict[str, ModelInfo]:
    """Return the stored models that student and teachers refer to, by id. Raises as :func:`stored_models` does."""
    models = stored_models(spec.student, folders)
    for teacher in spec.teachers:
        models |= stored_models(teacher, folders)
    return models


def accepts_drop_path(architecture: str, arguments: Mapping[str, Any]) -> bool:
    """Return whether the architecture has stochastic depth."""
    try:
        build_on_meta(architecture, {**arguments, "drop_path_rate": 0.1})
    except TypeError:
        return False
    return True


def _student_with_weights(
    plan: ModelPlan, drop_path: float, folders: Mapping[str, Path], hub: Path | None
) -> nn.Module:
    base = plan.base or plan
    module = _create_with_weights(base, folders, hub)
    converted = (plan.architecture, plan.arguments) != (base.architecture, base.arguments)
    if drop_path > 0 or converted:
        # Stochastic depth and the variant are constructor arguments, so the model is built a second time.
        state = module.state_dict()
        module = _create_with_drop_path(plan.architecture, plan.arguments, drop_path)
        if converted and plan.variant is not None:
            state = plan.variant.adapt_weights(state, module)
        load_strictly(module, state, name=plan.architecture)
    else:
        _disable_drop_path(module)
    return module


def _create_with_weights(plan: ModelPlan, folders: Mapping[str, Path], hub: Path | None) -> nn.Module:
    if plan.weights.kind == "stored":
        return _create(f"local-dir:{_folder(plan.weights.name, folders)}", plan.arguments, pretrained=True)
    path = pretrained_weights(plan.weights.name, hub=hub)
    overlay = {"file": str(path), "custom_load": False}
    return _create(plan.weights.name, plan.arguments, pretrained=True, pretrained_cfg_overlay=overlay)


def _create(name: str, arguments: Mapping[str, Any], *, pretrained: bool = False, **options: Any) -> nn.Module:
    try:
        module: nn.Module = timm.create_model(name, pretrained=pretrained, **options, **arguments)
    except BUILD_ERRORS as error:
        reason = str(error) or type(error).__name__
        if pretrained:
            extra = {} if name.startswith("local-dir:") else {"architecture": name}
            raise WeightsMismatch(
                f"The weights do not fit {name} with these arguments: {reason}", extra=extra
            ) from error
        raise InvalidSpec(f"timm refuses these arguments for {name}: {reason}") from error
    return module.train()


def _create_with_drop_path(name: str, arguments: Mapping[str, Any], drop_path: float) -> nn.Module:
    """Create a model with this drop path rate; a rate of 0 also overrides timm's own default."""
    if drop_path > 0 and accepts_drop_path(name, arguments):
        return _create(name, {**arguments, "drop_path_rate": drop_path})
    module = _create(name, arguments)
    _disable_drop_path(module)
    return module


def _disable_drop_path(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, DropPath):
            part.drop_prob = 0.0


def _folder(reference: str, folders: Mapping[str, Path]) -> Path:
    try:
        return folders[reference]
    except KeyError:
        raise WeightsUnavailable(f"The weights {reference} are not available to this job.") from None

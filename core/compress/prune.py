"""The step ``prune``: remove the least important parts of the network, and train the rest with distillation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.compress.base import CompressionStep, StepInputs, StepOutput, StepPlan, StepProblems
from core.compress.cnn_pruning import loss_gradients, prune_cnn, smallest_channels
from core.compress.pruning_target import PruningTarget, measured
from core.compress.vit_importance import magnitude_importance, taylor_importance
from core.compress.vit_pruning import (
    PrunedModel,
    TargetUnreachable,
    check_prunable,
    prune_vit,
    smallest_measure,
)
from core.data.pixels import Pixels
from core.data.stored import UNLABELED
from core.errors import ExportFailed, FieldError, InvalidSpec
from core.models import catalog
from core.models.built import BuiltModel
from core.models.pruned import VitSize
from core.models.pruning_budget import min_flops_fraction
from core.seeds import derive_seed
from core.spec.compression.prune import PruneParams
from potstill_models import PotstillVit, VitOptions

_BATCH_SIZE = 32


class Prune(CompressionStep[PruneParams]):
    """Structured pruning to a target."""

    def check(self, plan: StepPlan, problems: StepProblems) -> None:
        """Refuse networks that cannot be pruned, targets that no pruning reaches, and earlier steps that it undoes."""
        params, student = self.params, plan.student
        if plan.follows("share", "merge"):
            detail = "pruning after share or merge would undo them; put prune first"
            problems.errors.append(FieldError(plan.pointer(), detail))
            return
        try:
            smallest = self._smallest(student)
        except InvalidSpec as error:
            problems.errors.append(FieldError(plan.pointer(), error.errors[0].detail))
        except ExportFailed as error:
            problems.errors.append(FieldError(plan.pointer(), f"{error.detail}; leave out prune"))
        else:
            if smallest is None:
                return
            measure = params.target.measure
            full = _measured(measure, student)
            if smallest > params.target.value * full:
                detail = f"the smallest network that pruning can reach has {smallest / full:.3f} of the {measure}; "
                is_reachable = round(smallest / full, 3) < 1
                detail += f"set {measure} above that" if is_reachable else "prune other parts, or leave out prune"
                problems.errors.append(FieldError(plan.pointer(f"target/{measure}"), detail))

    def _smallest(self, student: BuiltModel) -> float | None:
        """Return the target's measure of the smallest network; None for a latency, which only the worker measures."""
        params = self.params
        target = PruningTarget(params.target.measure, 0.0)
        if params.criterion == "uvc" and not _is_cnn(student):
            flexible = check_searchable(student, params)
            size = VitSize.from_module(flexible.module)  # type: ignore[arg-type]
            return min_flops_fraction(size, params.uvc.prune) * _measured("flops", student)
        if _is_cnn(student):
            if params.criterion == "uvc":
                raise InvalidSpec.for_field("", "uvc prunes ViTs, and this student is a CNN; set criterion to taylor")
            if params.parts != type(params).model_fields["parts"].default:
                raise InvalidSpec.for_field("", "parts are those of a ViT, and this student is a CNN; leave out parts")
            return None if target.measure == "latency_ms" else smallest_channels(student, target)
        flexible = check_prunable(student, params.parts)
        return None if target.measure == "latency_ms" else smallest_measure(flexible, target, params.parts)

    def run(self, inputs: StepInputs) -> StepOutput:
        """Prune and fine-tune."""
        if self.params.criterion == "uvc":
            network = inputs.fine_tune(check_searchable(inputs.student, self.params), self.params)
            return StepOutput(network=network, details=self._details(inputs, network))
        pruned = inputs.once(lambda: self._prune(inputs))
        assert pruned.network is not None
        details = {**self._details(inputs, pruned.network), **pruned.details}
        message = f"Step {inputs.index}: pruned to {100 * details['flops_fraction']:.0f} % of the FLOPs."
        inputs.report("compression.pruned", message, details)
        return StepOutput(network=inputs.fine_tune(pruned.network, self.params), details=details)

    def _details(self, inputs: StepInputs, network: BuiltModel) -> dict[str, Any]:
        fractions = {
            f"{name}_fraction": round(_measured(name, network) / _measured(name, inputs.student), 4)
            for name in ("flops", "parameters")
        }
        return {"criterion": self.params.criterion, "architecture": network.architecture, **fractions}

    def _prune(self, inputs: StepInputs) -> StepOutput:
        target = PruningTarget.relative_to(inputs.student, self.params.target.measure, self.params.target.value)
        try:
            pruned = self._pruned(inputs, target)
        except TargetUnreachable as error:
            raise ExportFailed(
                f"the target is {target.limit:g} {target.measure}, and the smallest network has {error.smallest:g}"
            ) from error
        top1 = inputs.top1(pruned.model)
        return StepOutput(network=pruned.model, details={"shape": pruned.shape, "top1_before_fine_tuning": top1})

    def _pruned(self, inputs: StepInputs, target: PruningTarget) -> PrunedModel:
        student, params = inputs.student, self.params
        batches = _batches(student, inputs.training, params.importance_images, inputs.seed)
        if _is_cnn(student):
            taylor = params.criterion == "taylor"
            return prune_cnn(student, loss_gradients(student, batches, poll=inputs.poll) if taylor else {}, target)
        flexible = check_prunable(student, params.parts)
        assert isinstance(flexible.module, PotstillVit)
        if params.criterion == "taylor":
            importance = taylor_importance(flexible, batches, poll=inputs.poll)
        else:
            importance = magnitude_importance(flexible.module)
        return prune_vit(student, importance, target, params.parts)


def _batches(student: BuiltModel, pixels: Pixels, count: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Draw training images by the seed; without labels, the student's own predictions are the classes."""
    draws = np.random.Philox(key=derive_seed(seed, "importance")).random_raw(len(pixels))
    order = np.argsort(np.asarray(draws, dtype=np.uint64), kind="stable")[:count]
    for indices_B in torch.split(torch.from_numpy(np.sort(order)), _BATCH_SIZE):
        images_BCHW = pixels.batch(indices_B).float() / 255
        labels_B = pixels.labels[indices_B]
        if (labels_B == UNLABELED).any():
            with torch.no_grad():
                labels_B = student(images_BCHW).argmax(dim=1)
        yield images_BCHW, labels_B


def check_searchable(student: BuiltModel, params: PruneParams) -> BuiltModel:
    """Return the ``potstill_vit`` that the criterion ``uvc`` searches. Raises ``InvalidSpec`` for other networks."""
    flexible = check_prunable(student, params.parts)
    assert isinstance(flexible.module, PotstillVit)
    if flexible.module.options != VitOptions():
        raise InvalidSpec.for_field(
            "", "uvc prunes plain ViTs, and this student has further parts; set criterion to taylor"
        )
    return flexible


def _is_cnn(student: BuiltModel) -> bool:
    return catalog.family(student.architecture) == "cnn"


def _measured(measure: Any, built: BuiltModel) -> float:
    return measured(measure, built.architecture, built.arguments, built.preprocessing)

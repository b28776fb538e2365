"""The step ``share``: consecutive blocks store their weights once, and the network is trained with distillation."""

from __future__ import annotations

from core.compress.base import CompressionStep, StepInputs, StepOutput, StepPlan, StepProblems
from core.compress.weight_sharing import share
from core.errors import FieldError, InvalidSpec
from core.models.meta_device import count_parameters
from core.spec.compression.prune import PruneParams
from core.spec.compression.share import ShareParams


class Share(CompressionStep[ShareParams]):
    """Weight multiplexing of MiniViT (Zhang et al. 2022, arXiv:2204.07154)."""

    def check(self, plan: StepPlan, problems: StepProblems) -> None:
        """Refuse students whose blocks cannot share their weights, and earlier steps that prevent it."""
        if plan.follows("share", "merge"):
            detail = "its blocks share their weights or merge tokens by then; share once, and before merge"
            problems.errors.append(FieldError(plan.pointer(), detail))
            return
        if any(isinstance(step, PruneParams) and {"heads", "hidden"} & set(step.parts) for step in plan.earlier):
            detail = (
                "prune leaves blocks of different sizes, which cannot share their weights; set parts of prune to width "
                "or blocks, or leave out share"
            )
            problems.errors.append(FieldError(plan.pointer(), detail))
            return
        try:
            share(plan.student, repeats=self.params.repeats, head_transforms=self.params.head_transforms)
        except InvalidSpec as error:
            (first, *_) = error.errors
            name = "repeats" if first.pointer == "/repeats" else ""
            problems.errors.append(FieldError(plan.pointer(name), first.detail))

    def run(self, inputs: StepInputs) -> StepOutput:
        """Share the weights and fine-tune."""
        before = count_parameters(inputs.student.module)
        network = share(inputs.student, repeats=self.params.repeats, head_transforms=self.params.head_transforms)
        tuned = inputs.fine_tune(network, self.params)
        details = {
            "repeats": self.params.repeats,
            "parameters_fraction": round(count_parameters(network.module) / before, 4),
        }
        return StepOutput(network=tuned, details=details)

"""Checks of the compression steps of a spec, and of the images on which they are judged."""

from __future__ import annotations

import math

from core.compress import StepCost, StepPlan, StepProblems, build_step
from core.data.holdout import num_held_out
from core.job_warnings import JobWarning
from core.models.built import BuiltModel
from core.spec import JobSpec
from core.spec.job import WEIGHT_KEYWORDS


def check_steps(spec: JobSpec, student: BuiltModel, *, num_train: int) -> tuple[StepProblems, list[StepCost]]:
    """Return what is known to be wrong with the steps of a resolved spec, and the cost of each.

    ``student`` is on the meta device. ``num_train`` is the size of the training split.
    """
    problems, costs = StepProblems(), list[StepCost]()
    held_out = num_held_out(num_train, spec.held_out_fraction)
    if held_out < 1:  # no steps, or too few images for any training, which is an error of the dataset
        return problems, costs
    for index, params in enumerate(spec.compression):
        plan = StepPlan(spec=spec, index=index, student=student, num_images=num_train - held_out, num_held_out=held_out)
        step = build_step(params)
        step.check(plan, problems)
        costs.append(step.cost(plan))
        _check_gate(plan, problems)
    if spec.compression and spec.student.weights not in WEIGHT_KEYWORDS:
        problems.warnings.append(
            JobWarning(
                code="held_out_images_seen",
                field="/student/weights",
                message="the student's weights were probably trained on the images that check each compression step, "
                "so the loss of accuracy measured there may be smaller than on new images",
                fix="when the job ends, look at the change of top-1 on the test images, which is listed for each step; "
                "to check with unseen images, set compression in the job that trains the student",
            )
        )
    return problems, costs


def _check_gate(plan: StepPlan, problems: StepProblems) -> None:
    """Warn where one image more or less decides about a step."""
    limit = plan.spec.compression[plan.index].max_top1_drop
    if 0 < limit < 1 / plan.num_held_out:
        problems.warnings.append(
            JobWarning(
                code="held_out_images_few",
                field=plan.pointer("max_top1_drop"),
                message=f"{plan.num_held_out} images are held out, so one image is more than max_top1_drop {limit:g}",
                fix=f"raise max_top1_drop to {math.ceil(100 / plan.num_held_out) / 100:g}, or use a larger dataset",
            )
        )

"""The step ``merge``: token merging at inference, with a ratio that the gate accepts."""

from __future__ import annotations

from typing import Any

from core.compress.base import CompressionStep, StepCost, StepInputs, StepOutput, StepPlan, StepProblems
from core.compress.folding import fold_layer_scale
from core.compress.token_merging import check_mergeable, merge, merged_per_block
from core.errors import FieldError, InvalidSpec
from core.evaluate.measure import model_flops
from core.models.built import BuiltModel
from core.spec.compression.merge import MergeParams

RATIOS = (0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
"""Candidates of ``auto``, of which the first that the gate accepts is taken."""


class Merge(CompressionStep[MergeParams]):
    """Merge similar patch tokens; layer scales become part of the weights."""

    def check(self, plan: StepPlan, problems: StepProblems) -> None:
        """Refuse students without plain ViT blocks, earlier steps that change them, and ratios that merge no token."""
        if plan.follows("share", "merge"):
            detail = "blocks that share weights or merge tokens already cannot merge; leave out share or one merge"
            problems.errors.append(FieldError(plan.pointer(), detail))
            return
        try:
            flexible = check_mergeable(plan.student)
        except InvalidSpec as error:
            problems.errors.append(FieldError(plan.pointer(), error.errors[0].detail))
            return
        ratio = self.params.ratio
        if ratio == "auto":
            return
        module: Any = flexible.module
        patches, depth = module.patch_embed.num_patches, len(module.blocks)
        total = sum(merged_per_block(patches, depth, ratio))
        if total == 0:
            smallest = 1 / patches
            detail = f"{ratio:g} of {patches} patches is no token; set ratio to at least {smallest:.2g}"
            problems.errors.append(FieldError(plan.pointer("ratio"), detail))

    def cost(self, plan: StepPlan) -> StepCost:
        """The evaluations of the candidates of ``auto``."""
        candidates = len(RATIOS) if self.params.ratio == "auto" else 0
        return StepCost(forward_images=candidates * plan.num_held_out)

    def run(self, inputs: StepInputs) -> StepOutput:
        """Merge tokens at the given ratio, or at the largest one that the gate accepts."""
        ratio = self.params.ratio
        if ratio != "auto":
            return _output(inputs.student, ratio, {})
        tried: dict[str, float] = {}
        for candidate in RATIOS:
            inputs.poll()
            network = merge(inputs.student, candidate)
            if not any(network.arguments["merged_tokens"]):
                continue
            tried[f"{candidate:g}"] = top1 = inputs.top1(network)
            if inputs.accepts(top1, self.params):
                break
        # The last candidate is returned although the gate rejects it: the report then has its numbers.
        return _output(inputs.student, candidate, {"tried": tried})


def _output(student: BuiltModel, ratio: float, details: dict[str, Any]) -> StepOutput:
    network = fold_layer_scale(merge(student, ratio))
    return StepOutput(
        network=network,
        details={
            "ratio": ratio,
            "merged_tokens": list(network.arguments["merged_tokens"]),
            "flops_fraction": round(model_flops(network) / model_flops(student), 4),
            **details,
        },
    )

"""UVC: a trained ViT is pruned under one budget of FLOPs, with its original weights as teacher.

Paper: Unified Visual Transformer Compression, Yu et al. 2022, arXiv:2203.08243: (1 − alpha) · labels + alpha ·
divergence from the original student. In the first part of the training :mod:`core.methods.uvc_search` decides what to
prune. A block's output is x + share · (block(x) − x), where the share is a Gumbel-softmax sample of the block's two
gates. Then the pruned parts are masked, and the rest trains on. The exported model is smaller: blocks, rows and columns
are removed, and its logits equal those of the masked student. The official code only masks.

Deviations: one training instead of two, with one learning-rate schedule; during the warm-up of the search blocks run
unchanged, while the official code halves the output of each, which destroys the pretrained weights; masked blocks are
still computed until the export. Patch gating is left out: in the official code it does not count towards the budget.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from core.data.pixels import Pixels
from core.errors import InvalidSpec
from core.losses import token_divergence
from core.methods.base import Batch, Method, MethodContext, StepContext, StepInfo, invalid_architecture, invalid_param
from core.methods.uvc_search import PruningSearch
from core.models.built import BuiltModel
from core.models.pruned import VitSize, prune
from core.models.pruning_budget import min_flops_fraction
from core.models.structure import ModelStructure
from core.models.student_variants import StudentVariant
from core.models.taps import Outputs
from core.spec.methods.uvc import UvcParams
from potstill_models import PotstillVit, VitOptions

_GUMBEL_TEMPERATURE = 0.5
_HALF_DTYPES = {torch.bfloat16, torch.float16}


class Uvc(Method):
    """Terms ``label`` and ``distillation``."""

    def __init__(self, params: UvcParams, context: MethodContext) -> None:
        super().__init__(context)
        if not context.student_has_weights:
            raise InvalidSpec.for_field("/student/weights", "uvc prunes a trained student; give it weights")
        self.params = params
        self.per_sample = False  # the gates' gradient is not a parameter's, and is not reduced across devices
        module = context.student.module
        if not isinstance(module, PotstillVit) or module.options != VitOptions():
            raise invalid_architecture("student", "uvc prunes plain ViTs, and this student is already a variant of one")
        size = VitSize.from_module(module)
        min_budget = min_flops_fraction(size, params.prune)
        if params.budget <= min_budget:
            raise invalid_param(
                "budget",
                f"a share of {min_budget:.3f} remains if everything in prune is removed; give a larger budget",
            )
        self.search = PruningSearch(size, budget=params.budget, parts=params.prune)
        frozen = copy.deepcopy(module).eval().requires_grad_(False)
        # A tuple, not a submodule: it is copied again on each attempt, so it is not saved in checkpoints.
        self._original = (replace(context.student, module=frozen),)
        self._gates: Tensor | None = None  # of the current step, during the search
        self._hooks: list[RemovableHandle] = []

    @classmethod
    def student_variant(
        cls, params: UvcParams, student: ModelStructure, teachers: Sequence[ModelStructure]
    ) -> StudentVariant:
        """The flexible ViT with default options; the exported model has fewer and narrower blocks."""
        return StudentVariant("flexible")

    def prepare_student(self, student: nn.Module) -> None:
        """Register hooks that multiply the activations of the student's blocks with masks and gates."""
        for hook in self._hooks:
            hook.remove()
        blocks: Any = student.blocks
        self._hooks = [hook for index, block in enumerate(blocks) for hook in self._register_hooks(index, block)]

    def terms(self, batch: Batch, step: StepContext) -> dict[str, Tensor]:
        """Both terms, weighted; the original student runs in the precision of the training."""
        is_searching = self._warmup_steps(step.info) <= step.info.step < self._search_steps(step.info)
        self._gates = self.search.gates.clone().requires_grad_() if is_searching else None
        student = step.student(batch.images)
        divergence = token_divergence(
            student.logits,
            self._original_logits(batch.images, student.logits.dtype),
            distillation_type=self.params.distillation_type,
            temperature=self.params.temperature,
            reduction=self.params.reduction,
        )
        alpha = self.params.alpha
        return {**self.label_term(1 - alpha, student.logits, batch), "distillation": alpha * divergence}

    @torch.no_grad()
    def after_step(self, student: nn.Module, info: StepInfo) -> None:
        """Run a step of the search; finalize the search after its last step."""
        search_steps, warmup_steps = self._search_steps(info), self._warmup_steps(info)
        blocks: Any = student.blocks
        if warmup_steps <= info.step < search_steps:
            gradient = None if self._gates is None else self._gates.grad
            self.search.update(blocks, gradient, num_steps=search_steps - warmup_steps)
        self._gates = None
        if info.step + 1 == search_steps:
            self.search.finalize(blocks)

    @torch.no_grad()
    def finalize(self, student: BuiltModel, held_out: Pixels | None) -> BuiltModel:
        """Return the pruned model. If the training was stopped during the search, finalize the search first."""
        if not self.search.is_finalized:
            self.search.finalize(student.module.blocks)  # type: ignore[arg-type]
        return prune(student, self.search.retained_blocks())

    def _search_steps(self, info: StepInfo) -> int:
        return max(1, round(self.params.search_share * info.total_steps))

    def _warmup_steps(self, info: StepInfo) -> int:
        return int(self.params.warmup_share * self._search_steps(info))

    def _original_logits(self, images_BCHW: Tensor, dtype: torch.dtype) -> Tensor:
        (original,) = self._original
        is_half = dtype in _HALF_DTYPES
        autocast = torch.autocast(images_BCHW.device.type, dtype=dtype if is_half else None, enabled=is_half)
        with torch.no_grad(), autocast:
            return Outputs.from_model_output(original(images_BCHW)).logits.float()

    def _register_hooks(self, index: int, block: Any) -> tuple[RemovableHandle, ...]:
        def mask_values(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
            return (inputs[0] * self.search.value_mask[index].to(inputs[0].dtype),)

        def mask_hidden(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
            return (inputs[0] * self.search.hidden_mask[index].to(inputs[0].dtype),)

        def apply_gate(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            share = self.search.keep[index]
            if module.training and self._gates is not None:
                share = F.gumbel_softmax(self._gates[index], tau=_GUMBEL_TEMPERATURE, dim=0)[1]
            share = share.to(output.dtype)
            return share * output + (1 - share) * inputs[0]

        return (
            block.attn.proj.register_forward_pre_hook(mask_values),
            block.mlp.fc2.register_forward_pre_hook(mask_hidden),
            block.register_forward_hook(apply_gate),
        )

    def _apply(self, fn: Any, recurse: bool = True) -> Uvc:  # noqa: FBT001, FBT002 - torch's signature
        """Apply ``fn`` to the original student too, so that it moves to the same device."""
        for original in self._original:
            original.module._apply(fn)  # type: ignore[no-untyped-call]  # noqa: SLF001 - as torch does for submodules
        applied: Uvc = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return applied

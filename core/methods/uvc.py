"""A trained ViT made smaller under one budget of operations, taught by its own old self.

Unified Visual Transformer Compression (Yu et al. 2022, arXiv:2203.08243): (1 − alpha) · labels + alpha · divergence
from the student as it was given. In the first part of the training :mod:`core.methods.pruning` searches for what
can go; a block's output is x + share · (block(x) − x), where the share is a Gumbel-softmax draw of the block's two
gates. Then what is to go is masked, and the rest learns on. The exported model really is smaller: blocks are left
out, rows and columns cut, so that its logits are those of the masked student. The official code masks alone,
and counts on it.

Deviations: one training instead of two, with one learning-rate schedule; while the search warms up blocks run
whole, where the official code halves each, which undoes the given weights; masked blocks are still computed until
the export. Patch gating is left out: the budget does not see it in the official code.
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
from core.models.pruning_budget import least_share
from core.models.structure import ModelStructure
from core.models.student_variants import StudentVariant
from core.models.taps import Outputs
from core.spec.methods.uvc import UvcParams
from potstill_models import Form as VitForm
from potstill_models import PotstillVit

_SOFTNESS = 0.5  # of the draw of the gates


class Uvc(Method):
    """Terms ``label`` and ``distillation``."""

    def __init__(self, params: UvcParams, context: MethodContext) -> None:
        super().__init__(context)
        if not context.student_has_weights:
            raise InvalidSpec.for_field(
                "/student/weights", "uvc prunes a student that has learned already; give it weights"
            )
        self.params = params
        self.per_sample = False  # the gates learn from a gradient that is not a parameter's
        module = context.student.module
        if not isinstance(module, PotstillVit) or module.form != VitForm():
            raise invalid_architecture(
                "student", "uvc prunes plain ViTs, and this student is one of another form already"
            )
        size = VitSize.of(module)
        least = least_share(size, params.prune)
        if params.budget <= least:
            raise invalid_param(
                "budget", f"a share of {least:.3f} remains when all is pruned that may be; give more than that"
            )
        self.search = PruningSearch(size, budget=params.budget, parts=params.prune)
        frozen = copy.deepcopy(module).eval().requires_grad_(False)
        # Not a submodule: it is made again on each attempt, so it belongs neither in checkpoints nor in the optimizer.
        self._given = (replace(context.student, module=frozen),)
        self._gates: Tensor | None = None  # of the step at hand, where they are searched for
        self._hooks: list[RemovableHandle] = []

    @classmethod
    def student_variant(
        cls, params: UvcParams, student: ModelStructure, teachers: Sequence[ModelStructure]
    ) -> StudentVariant:
        """The flexible ViT without any form: what is exported is one with fewer blocks and narrower ones."""
        return StudentVariant("flexible")

    def prepare_student(self, student: nn.Module) -> None:
        """Multiply what goes through the student's blocks with masks and gates."""
        for hook in self._hooks:
            hook.remove()
        blocks: Any = student.blocks
        self._hooks = [hook for index, block in enumerate(blocks) for hook in self._watch(index, block)]

    def terms(self, batch: Batch, step: StepContext) -> dict[str, Tensor]:
        """Both terms; the given student answers in the precision of the training."""
        searching = self._warmup_steps(step.info) <= step.info.step < self._search_steps(step.info)
        self._gates = self.search.gates.clone().requires_grad_() if searching else None
        student = step.student(batch.images)
        guide = self._guide(batch.images, student.logits.dtype)
        divergence = token_divergence(
            student.logits,
            guide,
            distillation_type=self.params.distillation_type,
            temperature=self.params.temperature,
            reduction=self.params.reduction,
        )
        alpha = self.params.alpha
        return {"label": (1 - alpha) * self.label_loss(student.logits, batch), "distillation": alpha * divergence}

    @torch.no_grad()
    def after_step(self, student: nn.Module, info: StepInfo) -> None:
        """A step of the search, or its end."""
        steps, warmup = self._search_steps(info), self._warmup_steps(info)
        blocks: Any = student.blocks
        if warmup <= info.step < steps:
            gradient = None if self._gates is None else self._gates.grad
            self.search.update(blocks, gradient, steps=steps - warmup)
        self._gates = None
        if info.step + 1 == steps:
            self.search.finalize(blocks)

    @torch.no_grad()
    def finalize(self, student: BuiltModel, held_out: Pixels | None) -> BuiltModel:
        """The smaller model. A training that was stopped while it searched is settled as it is."""
        if not self.search.is_finalized:
            self.search.finalize(student.module.blocks)  # type: ignore[arg-type]
        return prune(student, self.search.kept())

    def _search_steps(self, info: StepInfo) -> int:
        return max(1, round(self.params.search_share * info.total_steps))

    def _warmup_steps(self, info: StepInfo) -> int:
        return int(self.params.warmup_share * self._search_steps(info))

    def _guide(self, images_BCHW: Tensor, dtype: torch.dtype) -> Tensor:
        (given,) = self._given
        half = dtype in {torch.bfloat16, torch.float16}
        with torch.no_grad(), torch.autocast(images_BCHW.device.type, dtype=dtype if half else None, enabled=half):
            return Outputs.of(given(images_BCHW)).logits.float()

    def _watch(self, index: int, block: Any) -> tuple[RemovableHandle, ...]:
        def values(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
            return (inputs[0] * self.search.value_mask[index].to(inputs[0].dtype),)

        def hidden(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
            return (inputs[0] * self.search.hidden_mask[index].to(inputs[0].dtype),)

        def gate(whole: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            share = self.search.keep[index]
            if whole.training and self._gates is not None:
                share = F.gumbel_softmax(self._gates[index], tau=_SOFTNESS, dim=0)[1]
            share = share.to(output.dtype)
            return share * output + (1 - share) * inputs[0]

        return (
            block.attn.proj.register_forward_pre_hook(values),
            block.mlp.fc2.register_forward_pre_hook(hidden),
            block.register_forward_hook(gate),
        )

    def _apply(self, fn: Any, recurse: bool = True) -> Uvc:  # noqa: FBT001, FBT002 - torch's signature
        """Move the given student along to another device."""
        for given in self._given:
            given.module._apply(fn)  # type: ignore[no-untyped-call]  # noqa: SLF001 - as torch does for submodules
        moved: Uvc = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return moved

"""TinyMIM: pre-training of a small ViT by the relations between the tokens of one block, without labels.

Paper: Ren et al. 2023, arXiv:2301.01296. softmax(q kᵀ / √d) and softmax(v vᵀ / √d) of the student's last block match
those of a block of the teacher, KL divergence averaged over images, heads and rows. Nothing is masked. The student's
block has the teacher's number of heads; the other blocks keep theirs. It is a first stage: a second training with
labels starts from the exported student. Nothing is dropped at export, and the block keeps its heads in the second
stage (the official code gives it the usual number, so that its weights lose their meaning).

Deviations: prefix tokens other than the class token are left out; student and teacher see the same augmentations, with
color jitter where ``training.augmentation`` has it (the paper's for the student only); stochastic depth includes the
last block. Parts of the block after queries, keys and values, and the final norm, get no gradient, as in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from core.losses import relation_transfer
from core.methods.base import Batch, Method, MethodContext, StepInfo, invalid_architecture, invalid_param
from core.methods.compatibility import grid_hint
from core.models.structure import AttentionShape, ModelStructure
from core.models.student_variants import StudentVariant
from core.models.taps import Attention, FeatureRequest, Outputs
from core.spec.methods.tinymim import TinymimParams


class Tinymim(Method):
    """Terms ``query_key`` and ``value_value``."""

    def __init__(self, params: TinymimParams, context: MethodContext) -> None:
        super().__init__(context)
        student, teacher = context.student_structure, context.teacher_structures[0]
        self.student_block, self.teacher_block = block_pair(params, student, teacher)
        self.heads = num_heads(params, student, teacher)
        grids = student.levels[0].grid, teacher.levels[0].grid
        if grids[0] != grids[1]:
            raise invalid_architecture(
                "student",
                f"tinymim compares token by token: the student's patches are on a grid of {grids[0][0]} × "
                f"{grids[0][1]}, the teacher's on {grids[1][0]} × {grids[1][1]}; {grid_hint(context, grids[1])}",
            )
        prefixes = [_num_prefix(structure) for structure in (student, teacher)]
        self.with_class_token = all(prefixes) and student.has_class_token and teacher.has_class_token
        self.student_prefix, self.teacher_prefix = prefixes
        self.student_taps = FeatureRequest(attentions=(self.student_block,))
        self.teacher_taps = FeatureRequest(attentions=(self.teacher_block,))

    @classmethod
    def student_variant(
        cls, params: TinymimParams, student: ModelStructure, teachers: Sequence[ModelStructure]
    ) -> StudentVariant | None:
        """A ViT whose compared block has the teacher's number of heads; None if it already has."""
        block, _ = block_pair(params, student, teachers[0])
        heads = [attention.heads for attention in student.attentions]
        wanted = num_heads(params, student, teachers[0])
        if heads[block] == wanted:
            return None
        heads[block] = wanted
        return StudentVariant("flexible", {"heads_per_block": heads})

    @property
    def reads_teacher_logits(self) -> bool:
        """Never: the teacher's classes are irrelevant."""
        return False

    def loss(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs], info: StepInfo) -> dict[str, Tensor]:
        """Both terms; labels are not used."""
        query_key, value_value = relation_transfer(
            self._compared(student.attentions[self.student_block], self.student_prefix),
            self._compared(teachers[0].attentions[self.teacher_block], self.teacher_prefix),
            heads=self.heads,
        )
        return {"query_key": query_key, "value_value": value_value}

    def _compared(self, attention: Attention, num_prefix: int) -> list[Tensor]:
        """Query, key and value (B, N, D) of the patches, and of the class token if both networks have one."""
        if not self.with_class_token:
            return [tokens[:, num_prefix:] for tokens in attention.qkv]
        return [torch.cat((tokens[:, :1], tokens[:, num_prefix:]), dim=1) for tokens in attention.qkv]


def block_pair(params: TinymimParams, student: ModelStructure, teacher: ModelStructure) -> tuple[int, int]:
    """Return the indices of the student's and the teacher's block. Raises ``InvalidSpec`` if there is no such pair."""
    num_student, num_teacher = len(_blocks(student, "student")), len(_blocks(teacher, "teachers/0"))
    default = num_teacher - 1 if num_student == num_teacher else -(-3 * num_teacher // 4) - 1
    pair = []
    for parameter, given, default_block, depth, network in (
        ("student_level", params.student_level, num_student - 1, num_student, f"the student {student.architecture}"),
        ("teacher_level", params.teacher_level, default, num_teacher, f"the teacher {teacher.architecture}"),
    ):
        block = default_block if given is None else given
        if block >= depth:
            raise invalid_param(parameter, f"{network} has blocks 0 to {depth - 1}; block {block} does not exist")
        pair.append(block)
    return pair[0], pair[1]


def num_heads(params: TinymimParams, student: ModelStructure, teacher: ModelStructure) -> int:
    """Return the number of heads of the relations. Raises ``InvalidSpec`` unless it divides both widths."""
    student_block, teacher_block = block_pair(params, student, teacher)
    heads = params.heads or teacher.attentions[teacher_block].heads
    widths = student.attentions[student_block].width, teacher.attentions[teacher_block].width
    if any(width % heads for width in widths):
        dividing = [str(n) for n in range(1, 65) if not any(width % n for width in widths)]
        raise invalid_param(
            "heads",
            f"{heads} heads do not divide the widths {widths[0]} of the student and {widths[1]} of the teacher; set "
            f"heads to one of {', '.join(dividing)}, or change the student's embed_dim",
        )
    return heads


def _blocks(structure: ModelStructure, model_field: str) -> tuple[AttentionShape, ...]:
    """Return the attentions of a ViT's blocks. Raises ``InvalidSpec`` if they cannot be read."""
    blocks = structure.attentions[: len(structure.levels)]
    patches = structure.levels[0].tokens if structure.levels else 0
    if not structure.is_vit or len(blocks) < len(structure.levels) or any(b.tokens < patches for b in blocks):
        raise invalid_architecture(
            model_field,
            f"tinymim reads queries, keys and values of the blocks of a plain ViT, and {structure.architecture} does "
            "not expose them; use a vit_*, deit_* or beit_*, or method feature",
        )
    return blocks


def _num_prefix(structure: ModelStructure) -> int:
    """Number of tokens before the patches in each block, which is 0 where a class token is added later (CaiT)."""
    return structure.attentions[0].tokens - structure.levels[0].tokens

"""Parameters of ``tinymim``: pre-training by the token relations of a ViT's block (Ren et al. 2023)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, MethodParams, Requirements

Level = Annotated[int, Field(ge=0, le=1000)]


class TinymimParams(MethodParams):
    """Match the relations between the tokens of one block of the teacher, without labels: the first of two stages."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="The student's last block takes over the relations between the tokens of one block of the teacher; "
        "labels are not read. The exported model is a backbone without a classifier, for a second training.",
        paper="TinyMIM: An Empirical Study of Distilling MIM Pre-trained Models, arXiv:2301.01296",
        year=2023,
        when="Pre-training of a small ViT with a masked-image-modeling teacher, such as MAE or BEiT, in two stages: "
        "this job without labels, then a job of `scratch` or `kd` with labels, whose `student.weights` is the id of "
        "this job and which leaves out `student.architecture`. The student keeps the number of heads of its block. "
        "Judge it after the second stage. Weights of MAE are licensed CC BY-NC 4.0: not for commercial use.",
        needs=Requirements(
            teacher=("attentions",),
            student=("attentions",),
            student_families=("transformer",),
            teacher_families=("transformer",),
            labels=False,
            headless=True,
            matched_grids=True,
        ),
        caches=("attentions",),
        formula="KL(R_T(q, k) ‖ R(q, k)) + KL(R_T(v, v) ‖ R(v, v)), mean over images, heads and rows. R(a, b) = "
        "softmax(a bᵀ / √d) is a relation between all tokens, class token included, of one block of the student, with "
        "index T of the teacher; q, k and v are split into the same number of heads in both networks, and d is the "
        "width of a head, of each network its own.",
        deviations=(
            (
                "The official code fine-tunes the student with the usual number of heads in its last block, so that "
                "the weights of queries, keys and values lose their meaning. Here the exported student keeps the "
                "number."
            ),
            (
                "Prefix tokens other than the class token (registers, distillation token) are left out, and so is the "
                "class token if one network has none."
            ),
            (
                "Color jitter, where the augmentation has it, changes the teacher's image too; the authors change only "
                "the student's. Stochastic depth includes the last block."
            ),
            (
                "As in the paper, nothing after queries, keys and values of the block is trained: its output "
                "projection, its MLP and the final norm keep their first weights until the second stage."
            ),
        ),
    )
    name: Literal["tinymim"] = Field(description="The method's name.")
    teacher_level: Level | None = Field(
        default=None,
        description="Block of the teacher, counted from 0. Null: the last if both networks have the same number of "
        "blocks, else the one at three quarters of the teacher's depth.",
    )
    student_level: Level | None = Field(
        default=None, description="Block of the student, counted from 0. Null: the last."
    )
    heads: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="Number of heads of the student's block and of the relations; must divide both widths. The other "
        "blocks keep theirs. Null: the number of the teacher's block.",
    )

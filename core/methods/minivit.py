"""MiniViT: blocks that share weights across runs learn the relations between a teacher's tokens.

Paper: Zhang et al. 2022, arXiv:2204.07154. The student is a ``potstill_vit`` or a ``potstill_swin`` whose stored blocks
run several times (eq. 4 to 7), each run with the transforms of the authors' Mini-DeiT or Mini-Swin. The losses follow
Mini-Swin: soft labels by cross-entropy without T²; cross-entropy of softmax relations among queries, keys and values
(eq. 9), mean over nine pairs and the layers; squared difference of the hidden states' cosines (eq. 10) times 49.
:func:`pair_by_shape` reproduces the authors' lists of layers. Nothing is dropped at export: the transforms belong to
the student. Formula and deviations: :class:`core.spec.methods.minivit.MinivitParams`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from core.losses import cross_entropy_kd, hidden_relation, qkv_relation
from core.methods.base import Batch, Method, MethodContext, StepInfo, invalid_architecture, invalid_param
from core.methods.compatibility import Pairs, evenly_spaced, grid_hint
from core.models import catalog
from core.models.structure import ModelStructure
from core.models.student_variants import StudentVariant
from core.models.taps import FeatureRequest, Outputs
from core.spec.methods.minivit import MinivitParams

Shape = tuple[int, ...]  # equal for two comparable layers: (windows, patches per window), or a grid

_HIDDEN_FACTOR = 49  # tokens of a Swin's window; the authors' code applies it to every stage
_MAX_PAIRS = 6  # per shape
_LOGITS_ONLY_HINT = "or set relation_weight and hidden_weight to 0, to learn only from the teacher's logits"


class Minivit(Method):
    """Terms ``label``, ``distillation``, ``relation`` and ``hidden``; a term of weight 0 is left out."""

    def __init__(self, params: MinivitParams, context: MethodContext) -> None:
        super().__init__(context)
        self.params = params
        student, teacher = context.student_structure, context.teacher_structures[0]
        self.num_prefix_tokens = num_prefix_tokens(student), num_prefix_tokens(teacher)
        self.relations = _relations(params, context) if params.relation_weight > 0 else ()
        self.hidden = _hidden(params, context) if params.hidden_weight > 0 else ()
        for s, t in self.relations:
            for width in (student.attentions[s].width, teacher.attentions[t].width):
                if width % params.relation_heads:
                    heads = params.relation_heads
                    raise invalid_param(
                        "relation_heads", f"{heads} heads do not divide a width of {width}; 1 always does"
                    )
        self.student_taps = FeatureRequest(
            levels=tuple(s for s, _ in self.hidden), attentions=tuple(s for s, _ in self.relations)
        )
        self.teacher_taps = FeatureRequest(
            levels=tuple(t for _, t in self.hidden), attentions=tuple(t for _, t in self.relations)
        )

    @classmethod
    def student_variant(
        cls, params: MinivitParams, student: ModelStructure, teachers: Sequence[ModelStructure]
    ) -> StudentVariant | None:
        """A ViT or Swin with shared blocks; None if nothing is shared and no transforms are added."""
        has_transforms = params.head_transforms or params.relative_position or params.local_convolution
        if params.repeats == 1 and not has_transforms:
            return None
        arguments: dict[str, Any] = {
            "repeats": params.repeats,
            "head_transforms": params.head_transforms,
            "transform_start": params.transform_start,
        }
        if catalog.is_swin(student.architecture):
            return _swin_variant(params, arguments)
        if not student.is_vit:
            raise invalid_architecture(
                "student",
                "only a plain ViT or a Swin of the first version can share its blocks, and "
                f"{student.architecture} is none; choose a vit_*, deit_* or swin_*, or set repeats to 1 and "
                "head_transforms to false to use only the losses",
            )
        if params.local_convolution:
            raise invalid_param(
                "local_convolution", "a ViT's blocks have no local convolution, as in Mini-DeiT; leave it out"
            )
        depth = len(student.levels)
        if depth % params.repeats:
            divisors = [str(repeats) for repeats in range(1, depth + 1) if depth % repeats == 0]
            raise invalid_param(
                "repeats",
                f"{depth} blocks cannot be split into runs of {params.repeats}; set repeats to one of "
                f"{', '.join(divisors)}, or change the student's depth",
            )
        return StudentVariant("flexible", arguments | {"relative_position": params.relative_position})

    @property
    def reads_teacher_logits(self) -> bool:
        """Whether there is a term ``distillation``."""
        return self.params.logits_weight > 0

    @property
    def balanceable(self) -> bool:
        """Whether there is a label term."""
        return self.params.label_weight > 0

    def loss(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs], info: StepInfo) -> dict[str, Tensor]:
        """All terms, weighted."""
        params, (teacher,) = self.params, teachers
        terms = self.label_term(params.label_weight, student.logits, batch)
        if params.logits_weight > 0:
            cross_entropy = cross_entropy_kd(student.logits, teacher.logits, temperature=params.temperature)
            terms["distillation"] = params.logits_weight * cross_entropy / params.temperature**2
        if self.relations:
            terms["relation"] = params.relation_weight * self._relation(student, teacher)
        if self.hidden:
            errors = [hidden_relation(student.levels[s].tokens, teacher.levels[t].tokens) for s, t in self.hidden]
            terms["hidden"] = params.hidden_weight * _HIDDEN_FACTOR * torch.stack(errors).mean()
        return terms

    def _relation(self, student: Outputs, teacher: Outputs) -> Tensor:
        """Relation term, mean over the pairs of blocks."""
        student_prefix, teacher_prefix = self.num_prefix_tokens
        errors = []
        for s, t in self.relations:
            student_qkv = [tokens[:, student_prefix:] for tokens in student.attentions[s].qkv]
            teacher_qkv = [tokens[:, teacher_prefix:] for tokens in teacher.attentions[t].qkv]
            errors.append(qkv_relation(student_qkv, teacher_qkv, relation_heads=self.params.relation_heads))
        return torch.stack(errors).mean()


def _swin_variant(params: MinivitParams, arguments: dict[str, Any]) -> StudentVariant:
    """A Swin with shared blocks. Its builder checks that ``repeats`` divides the stages' depths."""
    if params.relative_position:
        raise invalid_param(
            "relative_position", "a Swin has a table of relative positions, which its runs share; leave it out"
        )
    local_convolution = params.repeats > 1 if params.local_convolution is None else params.local_convolution
    return StudentVariant("flexible_swin", arguments | {"local_convolution": local_convolution})


def num_prefix_tokens(structure: ModelStructure) -> int:
    """Number of tokens before the patches in each attention.

    Derived from the number of tokens, because a CaiT adds its class token only after these attentions.
    """
    if not (structure.is_vit and structure.attentions):
        return 0
    if catalog.is_swin(structure.architecture) or structure.attentions[0].windows > 1:
        return 0  # a Swin of one stage also has a single grid, but its windows are smaller
    return structure.attentions[0].tokens - structure.levels[0].tokens


def pair_by_shape(student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape]) -> Pairs:
    """Pair layers of equal shape, evenly spaced in depth: per shape, half as many as the network with fewer has.

    12 and 24 blocks of one shape give 1, 3, … 11 with 3, 7, … 23; Swin's 2, 2, 6, 2 and 2, 2, 18, 2 give 1, 3, 5, 7,
    9, 11 with 1, 3, 9, 15, 21, 23.
    """
    pairs: list[tuple[int, int]] = []
    for shape in dict.fromkeys(student_shapes):
        student_indices = [index for index, other in enumerate(student_shapes) if other == shape]
        teacher_indices = [index for index, other in enumerate(teacher_shapes) if other == shape]
        num_student, num_teacher = len(student_indices), len(teacher_indices)
        count = min(_MAX_PAIRS, -(-min(num_student, num_teacher) // 2))
        selected = zip(evenly_spaced(num_student, count), evenly_spaced(num_teacher, count), strict=True)
        pairs += [(student_indices[s], teacher_indices[t]) for s, t in selected]
    return tuple(sorted(pairs))


def _relations(params: MinivitParams, context: MethodContext) -> Pairs:
    """Pairs of attentions for the relation term. Raises ``InvalidSpec`` if none can be compared."""
    student, teacher = context.student_structure, context.teacher_structures[0]
    for structure, model_field in ((student, "student"), (teacher, "teachers/0")):
        if not structure.attentions:
            raise invalid_architecture(
                model_field,
                f"minivit compares queries, keys and values, and {structure.architecture} exposes none; choose a "
                f"vit_*, deit_* or swin_*, {_LOGITS_ONLY_HINT}",
            )
    student_shapes, teacher_shapes = _attention_shapes(student), _attention_shapes(teacher)
    if params.layers is not None:
        _check_pairs(params.layers, student_shapes, teacher_shapes)
        return params.layers
    pairs = pair_by_shape(student_shapes, teacher_shapes)
    if not pairs:
        is_global = teacher.levels and (1, teacher.levels[-1].tokens) in teacher_shapes
        fix = grid_hint(context, teacher.levels[-1].grid) if is_global else "choose a ViT as teacher"
        raise invalid_architecture(
            "student",
            "relations compare token by token: an attention of the student sees "
            f"{_describe_attentions(student_shapes)}, of the teacher {_describe_attentions(teacher_shapes)}; {fix}, or "
            "set relation_weight to 0",
        )
    return pairs


def _hidden(params: MinivitParams, context: MethodContext) -> Pairs:
    """Pairs of levels for the hidden term. Raises ``InvalidSpec`` if none can be compared."""
    student, teacher = context.student_structure, context.teacher_structures[0]
    student_grids, teacher_grids = [level.grid for level in student.levels], [level.grid for level in teacher.levels]
    any_swin = any(catalog.is_swin(structure.architecture) for structure in (student, teacher))
    # ``layers`` are block indices, and the levels of a Swin are stages.
    if params.layers is not None and student.is_vit and teacher.is_vit and not any_swin:
        _check_pairs(params.layers, student_grids, teacher_grids)
        return params.layers
    pairs = pair_by_shape(student_grids, teacher_grids)
    if not pairs:
        fix = grid_hint(context, teacher_grids[-1]) if teacher_grids else "choose a ViT or a Swin"
        raise invalid_architecture(
            "student",
            "hidden states are compared patch by patch: the student's are on grids "
            f"{_describe_grids(student_grids)} and the teacher's on {_describe_grids(teacher_grids)}; {fix}, "
            f"{_LOGITS_ONLY_HINT}",
        )
    return pairs


def _attention_shapes(structure: ModelStructure) -> list[Shape]:
    num_prefix = num_prefix_tokens(structure)
    return [(attention.windows, attention.tokens - num_prefix) for attention in structure.attentions]


def _check_pairs(pairs: Pairs, student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape]) -> None:
    """Raise ``InvalidSpec`` for requested pairs that do not exist or differ in shape."""
    for s, t in pairs:
        for index, shapes, network in ((s, student_shapes, "student"), (t, teacher_shapes, "teacher")):
            if index >= len(shapes):
                raise invalid_param(
                    "layers", f"the {network} has blocks 0 to {len(shapes) - 1}; block {index} does not exist"
                )
        if student_shapes[s] != teacher_shapes[t]:
            student_sees, teacher_sees = (
                _describe_attentions([shape]) for shape in (student_shapes[s], teacher_shapes[t])
            )
            raise invalid_param(
                "layers",
                f"the student's block {s} sees {student_sees} and the teacher's block {t} {teacher_sees}; choose "
                "blocks that see the same number, or leave layers out",
            )


def _describe_attentions(shapes: Sequence[Shape]) -> str:
    return " or ".join(
        f"{patches} patches in each of {windows} windows" if windows > 1 else f"{patches} patches"
        for windows, patches in dict.fromkeys(shapes)
    )


def _describe_grids(grids: Sequence[Shape]) -> str:
    return ", ".join(f"{rows} × {columns}" for rows, columns in dict.fromkeys(grids)) or "that it does not expose"

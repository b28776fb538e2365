"""Weight multiplexing: runs of shared blocks learn how a teacher's tokens relate to each other.

Zhang et al. 2022, arXiv:2204.07154. The student is a ``potstill_vit`` or a ``potstill_swin`` whose stored blocks run
several times (eq. 4 to 7), with what the authors' Mini-DeiT and Mini-Swin give each run. Its losses follow Mini-Swin:
soft labels by cross-entropy without T², the cross-entropy of softmax relations among queries, keys and values (eq. 9),
mean over nine pairs and the layers, and the squared difference of the hidden states' cosines (eq. 10) times 49. Their
lists of layers are what :func:`alike` gives. Deviations: prefix tokens are cut by each network's own count; hidden
states of a Swin are those of its stages; Mini-DeiT's own loss, which divides by the number of classes, is left to
method ``deit``. Relations need the same windows of the same tokens on both sides, so a ViT can learn the hidden
relations of a Swin's stage on its grid, and q, k and v only where the window is the whole map. Nothing is dropped at
export: the transforms belong to the student.
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

Shape = tuple[int, ...]  # what has to be alike of two places: windows and patches in each, or a grid

_HIDDEN_FACTOR = 49  # tokens of a Swin's window; the authors' code has it for every stage
_MOST_PAIRS = 6  # of one shape
_WITHOUT = "or set relation_weight and hidden_weight to 0, to learn from the teacher's logits alone"


class Minivit(Method):
    """Terms ``label``, ``distillation``, ``relation`` and ``hidden``, as far as they have a weight."""

    def __init__(self, params: MinivitParams, setting: MethodContext) -> None:
        super().__init__(setting)
        self.params = params
        mine, theirs = setting.student_structure, setting.teacher_structures[0]
        self.prefixes = num_prefixes(mine), num_prefixes(theirs)
        self.relations = _relations(params, setting) if params.relation_weight > 0 else ()
        self.hidden = _hidden(params, setting) if params.hidden_weight > 0 else ()
        for s, t in self.relations:
            for width in (mine.attentions[s].width, theirs.attentions[t].width):
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
        """Blocks that are stored once for several runs; none where nothing is shared and nothing added."""
        added = params.head_transforms or params.relative_position or params.local_convolution
        if params.repeats == 1 and not added:
            return None
        asked = {"repeats": params.repeats, "head_transforms": params.head_transforms}
        if catalog.is_swin(student.architecture):
            return _swin_form(params, asked)
        if not student.is_vit:
            raise invalid_architecture(
                "student",
                "only a plain ViT or a Swin of the first version can share its blocks here, and "
                f"{student.architecture} is none; choose a vit_*, deit_* or swin_*, or set repeats to 1 and "
                "head_transforms to false for the losses alone",
            )
        if params.local_convolution:
            raise invalid_param(
                "local_convolution", "the blocks of a ViT have none, as in the authors' Mini-DeiT; leave it out"
            )
        depth = len(student.levels)
        if depth % params.repeats:
            fits = [str(times) for times in range(1, depth + 1) if depth % times == 0]
            raise invalid_param(
                "repeats",
                f"{depth} blocks cannot be runs of {params.repeats} each; set repeats to one of {', '.join(fits)}, or "
                "change the student's depth",
            )
        return StudentVariant("flexible", asked | {"relative_position": params.relative_position})

    @property
    def reads_teacher_logits(self) -> bool:
        """Only in ``distillation``."""
        return self.params.logits_weight > 0

    def loss(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs], moment: StepInfo) -> dict[str, Tensor]:
        """All terms, weighted."""
        asked, (teacher,) = self.params, teachers
        terms: dict[str, Tensor] = {}
        if asked.label_weight > 0:
            terms["label"] = asked.label_weight * self.label_loss(student.logits, batch)
        if asked.logits_weight > 0:
            soft = cross_entropy_kd(student.logits, teacher.logits, temperature=asked.temperature)
            terms["distillation"] = asked.logits_weight * soft / asked.temperature**2
        if self.relations:
            terms["relation"] = asked.relation_weight * self._relation(student, teacher)
        if self.hidden:
            likeness = [hidden_relation(student.levels[s].tokens, teacher.levels[t].tokens) for s, t in self.hidden]
            terms["hidden"] = asked.hidden_weight * _HIDDEN_FACTOR * torch.stack(likeness).mean()
        return terms

    def _relation(self, student: Outputs, teacher: Outputs) -> Tensor:
        """Mean over the pairs of blocks."""
        found = []
        for s, t in self.relations:
            mine = [part[:, self.prefixes[0] :] for part in student.attentions[s].qkv]
            theirs = [part[:, self.prefixes[1] :] for part in teacher.attentions[t].qkv]
            found.append(qkv_relation(mine, theirs, relation_heads=self.params.relation_heads))
        return torch.stack(found).mean()


def _swin_form(params: MinivitParams, asked: dict[str, Any]) -> StudentVariant:
    """A Swin with shared blocks; whether ``repeats`` divide its stages is seen where it is built."""
    if params.relative_position:
        raise invalid_param(
            "relative_position", "a Swin has a table of relative positions, which its runs share; leave it out"
        )
    local = params.repeats > 1 if params.local_convolution is None else params.local_convolution
    return StudentVariant("flexible_swin", asked | {"local_convolution": local})


def num_prefixes(anatomy: ModelStructure) -> int:
    """Tokens before the patches in each attention. Counted, as a CaiT's class token joins after its attentions."""
    if not (anatomy.is_vit and anatomy.attentions):
        return 0
    if catalog.is_swin(anatomy.architecture) or anatomy.attentions[0].windows > 1:
        return 0  # a Swin of one stage is on one grid too, and a window is not all of it
    return anatomy.attentions[0].tokens - anatomy.levels[0].tokens


def alike(mine: Sequence[Shape], theirs: Sequence[Shape]) -> Pairs:
    """Pairs of places of one shape: of each shape half as many as the network with fewer has, evenly in depth.

    12 and 24 blocks of one shape give 1, 3, … 11 with 3, 7, … 23; Swin's 2, 2, 6, 2 and 2, 2, 18, 2 give 1, 3, 5, 7,
    9, 11 with 1, 3, 9, 15, 21, 23.
    """
    pairs: list[tuple[int, int]] = []
    for shape in dict.fromkeys(mine):
        ours = [place for place, own in enumerate(mine) if own == shape]
        others = [place for place, own in enumerate(theirs) if own == shape]
        count = min(_MOST_PAIRS, -(-min(len(ours), len(others)) // 2))
        chosen = zip(evenly_spaced(len(ours), count), evenly_spaced(len(others), count), strict=True)
        pairs += [(ours[s], others[t]) for s, t in chosen]
    return tuple(sorted(pairs))


def _relations(params: MinivitParams, setting: MethodContext) -> Pairs:
    mine, theirs = setting.student_structure, setting.teacher_structures[0]
    for anatomy, whose in ((mine, "student"), (theirs, "teachers/0")):
        if not anatomy.attentions:
            raise invalid_architecture(
                whose,
                f"minivit compares queries, keys and values, and {anatomy.architecture} shows none; choose a "
                f"vit_*, deit_* or swin_*, {_WITHOUT}",
            )
    shapes, others = _attention_shapes(mine), _attention_shapes(theirs)
    pairs = alike(shapes, others) if params.layers is None else params.layers
    _check(pairs, shapes, others, given=params.layers is not None)
    if not pairs:
        whole = theirs.levels and (1, theirs.levels[-1].tokens) in others
        fix = grid_hint(setting, theirs.levels[-1].grid) if whole else "choose a ViT as teacher"
        raise invalid_architecture(
            "student",
            f"relations compare token by token: an attention of the student sees {_words(shapes)}, of the teacher "
            f"{_words(others)}; {fix}, or set relation_weight to 0",
        )
    return pairs


def _hidden(params: MinivitParams, setting: MethodContext) -> Pairs:
    mine, theirs = setting.student_structure, setting.teacher_structures[0]
    grids, others = [level.grid for level in mine.levels], [level.grid for level in theirs.levels]
    swins = any(catalog.is_swin(anatomy.architecture) for anatomy in (mine, theirs))
    by_block = mine.is_vit and theirs.is_vit and not swins  # a Swin's levels are stages, which layers do not count
    pairs = params.layers if params.layers is not None and by_block else alike(grids, others)
    _check(pairs, grids, others, given=params.layers is not None and by_block)
    if not pairs:
        raise invalid_architecture(
            "student",
            f"hidden states are compared patch by patch: the student's are on grids {_grids(grids)} and the teacher's "
            f"on {_grids(others)}; "
            + (f"{grid_hint(setting, others[-1])}, {_WITHOUT}" if others else f"choose a ViT or a Swin, {_WITHOUT}"),
        )
    return pairs


def _attention_shapes(anatomy: ModelStructure) -> list[Shape]:
    cut = num_prefixes(anatomy)
    return [(attention.windows, attention.tokens - cut) for attention in anatomy.attentions]


def _check(pairs: Pairs, mine: Sequence[Shape], theirs: Sequence[Shape], *, given: bool) -> None:
    """Refuse given pairs that are not there or not alike."""
    if not given:
        return
    for s, t in pairs:
        for place, shapes, whose in ((s, mine, "student"), (t, theirs, "teacher")):
            if place >= len(shapes):
                raise invalid_param("layers", f"the {whose} has blocks 0 to {len(shapes) - 1}, there is no {place}")
        if mine[s] != theirs[t]:
            raise invalid_param(
                "layers",
                f"the student's block {s} sees {_words([mine[s]])} and the teacher's block {t} {_words([theirs[t]])}; "
                "choose blocks that see the same, or leave layers out",
            )


def _words(shapes: Sequence[Shape]) -> str:
    found = [f"{patches} patches in each of {windows} windows" if windows > 1 else f"{patches} patches"
             for windows, patches in dict.fromkeys(shapes)]  # fmt: skip
    return " or ".join(found)


def _grids(grids: Sequence[Shape]) -> str:
    return ", ".join(f"{rows} × {columns}" for rows, columns in dict.fromkeys(grids)) or "that it does not show"

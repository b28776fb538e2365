"""Target-aware transformer: each pixel of the teacher's map is reconstructed from all pixels of the student's.

Paper: Lin et al. 2022, arXiv:2205.10793, eq. 3 to 6, in the form of the authors' code: query and value embed the
student's map by a 3 × 3 convolution and a batch norm each, key and target are the teacher's unchanged map, and the loss
is the squared error between softmax(q·k) v, with unscaled products, and the target. The paper's text exchanges the
roles of the two axes; the code is followed.

Deviations: tokens are read as a map without prefix tokens, and the coarser of two different grids is resampled to the
finer one. The memory of attention grows with the square of the number of pixels, so maps larger than 32 × 32 are
averaged to half their side until they fit. The paper's patch groups and anchors, which serve the same purpose, are not
in the authors' code for classification. The two embeddings are dropped at export.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from core.losses import target_aware
from core.methods.base import Batch, MethodContext, invalid_architecture, invalid_param
from core.methods.compatibility import pair_levels
from core.methods.feature_base import FeatureMethod
from core.models.align import coarser_grid, resample
from core.models.structure import FeatureLevel, ModelStructure
from core.models.taps import Feature, FeatureRequest, Outputs
from core.spec.methods.target_aware import TargetAwareParams

_MAX_PIXELS = 32 * 32
Level = int | None  # index of a level, or None for the features after the final norm


class TargetAware(FeatureMethod):
    """Term ``target_aware``, by default of the last maps that have more than one pixel."""

    def __init__(self, params: TargetAwareParams, context: MethodContext) -> None:
        super().__init__(params, context)
        student, teacher = context.student_structure, context.teacher_structures[0]
        self.heads = params.heads
        self.pairs: tuple[tuple[Level, Level], ...]
        if params.layers is None:
            self.pairs = ((_last_map(student, "student"), _last_map(teacher, "teachers/0")),)
        else:
            self.pairs = pair_levels(student, teacher, params.layers, count=1, method=params.name)
        levels = [(_level(student, s), _level(teacher, t)) for s, t in self.pairs]
        for student_level, teacher_level in levels:
            _check_pair(student_level, teacher_level, heads=params.heads)
        widths = [(student_level.width, teacher_level.width) for student_level, teacher_level in levels]
        self.queries = nn.ModuleList(Embed(*pair) for pair in widths)
        self.values = nn.ModuleList(Embed(*pair) for pair in widths)
        self.student_taps = _request([s for s, _ in self.pairs])
        self.teacher_taps = _request([t for _, t in self.pairs])

    def feature_terms(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs]) -> dict[str, Tensor]:
        """``target_aware``, the mean over the pairs."""
        errors = []
        for (s, t), query, value in zip(self.pairs, self.queries, self.values, strict=True):
            source, target = _on_common_grid(_feature(student, s), _feature(teachers[0], t))
            errors.append(target_aware(query(source.map), target.map, value(source.map), target.map, heads=self.heads))
        return {"target_aware": torch.stack(errors).mean()}


class Embed(nn.Sequential):
    """A 3 × 3 convolution to the teacher's width and a batch norm, in float32."""

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__(
            nn.Conv2d(student_width, teacher_width, 3, padding=1, bias=False), nn.BatchNorm2d(teacher_width)
        )

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Embed a map (B, C, H, W)."""
        embedded = input.float()
        for layer in self:
            embedded = layer(embedded)
        return embedded


def _last_map(structure: ModelStructure, model_field: str) -> Level:
    """The last features, or the deepest level with more than one pixel: CNNs reduce small images to one pixel."""
    if structure.last is not None and structure.last.tokens > 1:
        return None
    spatial = [index for index, level in enumerate(structure.levels) if level.tokens > 1]
    if not spatial:
        raise invalid_architecture(
            model_field,
            f"target_aware compares maps of more than one pixel, and {structure.architecture} has none; use larger "
            "images, another architecture, or method kd",
        )
    return spatial[-1]


def _level(structure: ModelStructure, level: Level) -> FeatureLevel:
    feature_level = structure.last if level is None else structure.levels[level]
    assert feature_level is not None
    return feature_level


def _check_pair(student: FeatureLevel, teacher: FeatureLevel, *, heads: int) -> None:
    if min(student.tokens, teacher.tokens) == 1:
        raise invalid_param(
            "layers", "a level of one pixel has no positions to attend to; choose earlier levels, or leave it out"
        )
    if teacher.width % heads:
        raise invalid_param(
            "heads", f"{heads} heads do not divide the teacher's width {teacher.width}; choose a divisor of it"
        )


def _feature(outputs: Outputs, level: Level) -> Feature:
    feature = outputs.last if level is None else outputs.levels[level]
    assert feature is not None
    return feature


def _request(levels: Sequence[Level]) -> FeatureRequest:
    return FeatureRequest(levels=tuple(level for level in levels if level is not None), last=None in levels)


def _on_common_grid(one: Feature, other: Feature) -> tuple[Feature, Feature]:
    """Resample both to the finer of the two grids, halved until it has at most ``_MAX_PIXELS``."""
    rows, columns = other.grid if coarser_grid(one.grid, other.grid) == one.grid else one.grid
    while rows * columns > _MAX_PIXELS:
        rows, columns = -(-rows // 2), -(-columns // 2)
    return resample(one, (rows, columns)), resample(other, (rows, columns))

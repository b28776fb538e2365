"""Target-aware: each pixel of the teacher's map is made from all pixels of the student's.

Lin et al. 2022, arXiv:2205.10793, eq. 3 to 6, in the authors' code: query and value embed the student's map by a 3 × 3
convolution and a batch norm each, key and target are the teacher's map as it is, and the squared error of
softmax(q·k) v with the target is taken without a scale of the products. The paper's text turns the roles of the two
axes around; the code is followed. Deviations: tokens are read as a map without prefix tokens, and where two grids
differ the coarser map is brought to the finer grid. Attention takes the square of the number of pixels, so maps of more
than 32 × 32 are averaged to half a side until they fit; the paper's patch groups and anchors, which serve that, are not
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
from core.models.align import coarser, resampled
from core.models.structure import FeatureLevel, ModelStructure
from core.models.taps import Feature, FeatureRequest, Outputs
from core.spec.methods.target_aware import TargetAwareParams

_MOST_PIXELS = 32 * 32
Place = int | None  # a level, or None for the features behind the final norm


class TargetAware(FeatureMethod):
    """The last maps of both networks that have more than one pixel, unless pairs of levels are given."""

    def __init__(self, params: TargetAwareParams, setting: MethodContext) -> None:
        super().__init__(params, setting)
        mine, theirs = setting.student_structure, setting.teacher_structures[0]
        self.heads = params.heads
        self.pairs: tuple[tuple[Place, Place], ...]
        if params.layers is None:
            self.pairs = ((_last_map(mine, "student"), _last_map(theirs, "teachers/0")),)
        else:
            self.pairs = pair_levels(mine, theirs, params.layers, count=1, method=params.name)
        levels = [(_level(mine, s), _level(theirs, t)) for s, t in self.pairs]
        for pair in levels:
            _check(*pair, heads=params.heads)
        widths = [(one.width, other.width) for one, other in levels]
        self.queries = nn.ModuleList(Embed(width, wanted) for width, wanted in widths)
        self.values = nn.ModuleList(Embed(width, wanted) for width, wanted in widths)
        self.student_taps = _wanted([s for s, _ in self.pairs])
        self.teacher_taps = _wanted([t for _, t in self.pairs])

    def feature_terms(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs]) -> dict[str, Tensor]:
        """``target_aware``, the mean over the pairs."""
        errors = []
        for (s, t), query, value in zip(self.pairs, self.queries, self.values, strict=True):
            mine, theirs = _on_one_grid(_feature(student, s), _feature(teachers[0], t))
            target = theirs.map
            errors.append(target_aware(query(mine.map), target, value(mine.map), target, heads=self.heads))
        return {"target_aware": torch.stack(errors).mean()}


class Embed(nn.Sequential):
    """A 3 × 3 convolution to the teacher's width and a batch norm, in float32."""

    def __init__(self, width: int, wanted: int) -> None:
        super().__init__(nn.Conv2d(width, wanted, 3, padding=1, bias=False), nn.BatchNorm2d(wanted))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Embed a map (B, C, H, W)."""
        embedded = input.float()
        for layer in self:
            embedded = layer(embedded)
        return embedded


def _last_map(anatomy: ModelStructure, whose: str) -> Place:
    """The last features, or the deepest level with more than one pixel: CNNs shrink small pictures to one."""
    if anatomy.last is not None and anatomy.last.tokens > 1:
        return None
    deepest = [index for index, level in enumerate(anatomy.levels) if level.tokens > 1]
    if not deepest:
        raise invalid_architecture(
            whose,
            f"target_aware compares maps of more than one pixel, and {anatomy.architecture} shows none; use larger "
            "images, another architecture, or method kd",
        )
    return deepest[-1]


def _level(anatomy: ModelStructure, place: Place) -> FeatureLevel:
    found = anatomy.last if place is None else anatomy.levels[place]
    assert found is not None
    return found


def _check(mine: FeatureLevel, theirs: FeatureLevel, *, heads: int) -> None:
    if min(mine.tokens, theirs.tokens) == 1:
        raise invalid_param(
            "layers", "a level of one pixel has no places to attend to; choose earlier ones, or leave it out"
        )
    if theirs.width % heads:
        raise invalid_param(
            "heads", f"{heads} heads do not divide the teacher's width {theirs.width}; choose a divisor of it"
        )


def _feature(outputs: Outputs, place: Place) -> Feature:
    found = outputs.last if place is None else outputs.levels[place]
    assert found is not None
    return found


def _wanted(places: Sequence[Place]) -> FeatureRequest:
    return FeatureRequest(levels=tuple(place for place in places if place is not None), last=None in places)


def _on_one_grid(one: Feature, other: Feature) -> tuple[Feature, Feature]:
    """Both on the finer of the two grids, or on a half, a quarter and so on of that where it is too large."""
    rows, columns = other.grid if coarser(one.grid, other.grid) == one.grid else one.grid
    while rows * columns > _MOST_PIXELS:
        rows, columns = -(-rows // 2), -(-columns // 2)
    return resampled(one, (rows, columns)), resampled(other, (rows, columns))

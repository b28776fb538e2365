"""Early layers of a CNN teach early blocks of a ViT; then labels alone: DearKD.

Chen et al. 2022, arXiv:2204.12997; no official code, and details of the paper that could not be
confirmed are said here. First stage: (1 − alpha) · labels on the class token + alpha · the teacher's
decision on the distillation token + weight · mean squared error between early maps, the student's
through an aligner (depth-wise convolution, layer norm, GELU, 1 × 1 convolution). Second stage: labels
alone, so that the teacher's limits are not the student's. One learning-rate schedule spans both.

The first blocks' attention is gated between content and place (the paper's multi-head convolutional
attention), and stays in the exported student; aligners are dropped. Deviations: both maps are
compared behind a layer norm over their channels, on the coarser grid of the two; in the second stage
both heads learn the labels, as the exported student averages them.

With ``data_free`` the training pictures are made by inverting the teacher (:mod:`core.methods.deep_inversion`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.data.pixels import Pixels
from core.errors import SpecCannotRun
from core.losses import token_divergence
from core.methods.base import Batch, ImageSources, Method, MethodContext, StepContext, invalid_param
from core.methods.compatibility import Pairs, check_levels, evenly_spaced, pair_levels
from core.methods.deep_inversion import Inversion, inverted_pixels
from core.models.align import coarser, resampled
from core.models.structure import ModelStructure
from core.models.student_variants import StudentVariant
from core.models.taps import Feature, FeatureRequest, Outputs
from core.spec.methods.dearkd import DearkdParams

_PAIRS = 2


class Dearkd(Method):
    """Terms ``label``, ``distillation`` and ``early`` in the first stage, ``label`` in the second."""

    uses_cached_outputs = True

    def __init__(self, params: DearkdParams, setting: MethodContext) -> None:
        super().__init__(setting)
        mine, theirs = setting.student_structure, setting.teacher_structures[0]
        if params.data_free:
            _check_invertible(theirs, setting)
            self.num_images = params.num_images
        self.params = params
        given = params.layers or early_pairs(mine, theirs)
        self.pairs = pair_levels(mine, theirs, given, count=len(given), method=params.name)
        self.aligners = nn.ModuleList(Aligner(mine.levels[s].width, theirs.levels[t].width) for s, t in self.pairs)
        self.student_taps = FeatureRequest(levels=tuple(s for s, _ in self.pairs))
        self.teacher_taps = FeatureRequest(levels=tuple(t for _, t in self.pairs))
        self.teacher_fraction = params.first_stage

    @classmethod
    def student_variant(
        cls, params: DearkdParams, student: ModelStructure, teachers: Sequence[ModelStructure]
    ) -> StudentVariant:
        """A ViT with a distillation token whose first blocks' attention may begin local."""
        depth = len(check_levels(student, "student", params.name))
        local = early_depth(depth) if params.local_blocks is None else params.local_blocks
        if local > depth:
            raise invalid_param("local_blocks", f"the student {student.architecture} has {depth} blocks, not {local}")
        return StudentVariant("flexible", {"distillation_tokens": 1, "local_blocks": local})

    def prepare_images(self, sources: ImageSources) -> Pixels | None:
        """Pictures made from the teacher, where the training is free of data."""
        if not self.params.data_free:
            return None
        wanted = Inversion(
            num_images=self.params.num_images, iterations=self.params.iterations, diversity=self.params.diversity
        )
        made = f"{wanted.num_images} pictures made from the teacher stand in for the training split"
        sources.event("data.inversion", made, {"images": wanted.num_images, "iterations": wanted.iterations})
        channels, height, width = sources.train.images.shape[1:]
        return inverted_pixels(
            sources.teachers[0].built,
            wanted,
            shape=(channels, height, width),
            seed=sources.seed,
            folder=sources.cache_dir,
            poll=sources.poll,
        )

    def prepare_student(self, student: nn.Module) -> None:
        """Make the student return both heads' logits while it trains.

        Raises ``SpecCannotRun`` for a student without a distillation token.
        """
        switch = getattr(student, "set_distilled_training", None)
        if switch is None:
            raise SpecCannotRun(
                f"dearkd needs a student with a distillation token, {type(student).__name__} has none; "
                "choose a plain ViT as student, or method kd"
            )
        switch(True)

    def terms(self, batch: Batch, room: StepContext) -> dict[str, Tensor]:
        """What the stage has; the second one asks no teacher."""
        student = room.student(batch.images)
        (token_logits,) = student.token_logits
        if room.info.fraction >= self.params.first_stage:
            both = self.label_loss(student.logits, batch) + self.label_loss(token_logits, batch)
            return {"label": both / 2}
        (teacher,), alpha = room.teacher_outputs(batch), self.params.alpha
        decision = token_divergence(token_logits, teacher.logits, distillation_type="hard", temperature=1.0)
        return {
            "label": (1 - alpha) * self.label_loss(student.logits, batch),
            "distillation": alpha * decision,
            "early": self.params.weight * self.early(student, teacher),
        }

    def early(self, student: Outputs, teacher: Outputs) -> Tensor:
        """The aligned maps' squared error, mean over entries and pairs."""
        errors = []
        for (mine, theirs), aligner in zip(self.pairs, self.aligners, strict=True):
            guess, guide = aligner(student.levels[mine]), teacher.levels[theirs]
            grid = coarser(guess.grid, guide.grid)
            errors.append(F.mse_loss(_normal(resampled(guess, grid)), _normal(resampled(guide, grid))))
        return torch.stack(errors).mean()


class Aligner(nn.Module):
    """From patch tokens to a CNN's map on the same grid: depth-wise 3 × 3, layer norm, GELU, 1 × 1."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, channels)  # the 1 × 1 convolution, place by place

    def forward(self, feature: Feature) -> Feature:
        """The same places with the CNN's channels."""
        mixed_BND = self.depthwise(feature.map.float()).flatten(2).transpose(1, 2)
        return Feature(self.project(F.gelu(self.norm(mixed_BND))), feature.grid)


def early_depth(depth: int) -> int:
    """How many of a ViT's blocks are early: a third, rounded up."""
    return -(-depth // 3)


def early_pairs(student: ModelStructure, teacher: ModelStructure) -> Pairs:
    """Two pairs in the first third of the student's blocks and the first half of the teacher's stages."""
    blocks = early_depth(len(check_levels(student, "student", "dearkd")))
    stages = -(-len(check_levels(teacher, "teachers/0", "dearkd")) // 2)
    count = min(_PAIRS, blocks, stages)
    return tuple(zip(evenly_spaced(blocks, count), evenly_spaced(stages, count), strict=True))


def _normal(feature: Feature) -> Tensor:
    return F.layer_norm(feature.tokens.float(), feature.tokens.shape[-1:])


def _check_invertible(teacher: ModelStructure, setting: MethodContext) -> None:
    if teacher.num_batch_norms == 0:
        raise invalid_param(
            "data_free",
            f"pictures are made from the statistics in the teacher's batch norms, and {teacher.architecture} has "
            "none; use a teacher with batch norms, such as a ResNet or RegNet, or train on the dataset",
        )
    if setting.num_classes is None:
        raise invalid_param("data_free", "pictures are made class by class, and the dataset has no classes")

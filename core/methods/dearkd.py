"""DearKD: early layers of a CNN teach early blocks of a ViT in a first stage; a second stage has only labels.

Paper: Chen et al. 2022, arXiv:2204.12997; no official code. First stage: labels on the class token, the teacher on the
distillation token, and early maps, the student's through an aligner (depth-wise convolution, layer norm, GELU, 1 × 1
convolution). Second stage: only labels, so that the teacher does not limit the student. One learning-rate schedule
spans both. The attention of the first blocks is gated between content and position (the paper's multi-head
convolutional attention). It stays in the exported student; aligners are dropped. Formula and deviations:
:class:`core.spec.methods.dearkd.DearkdParams`.

With ``data_free`` the training images are made by inverting the teacher (:mod:`core.methods.deep_inversion`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.data.pixels import Pixels
from core.losses import token_divergence
from core.methods.base import Batch, ImageSources, Method, MethodContext, StepContext, invalid_param
from core.methods.compatibility import Pairs, check_levels, evenly_spaced, pair_levels, return_all_logits
from core.methods.deep_inversion import Inversion, inverted_pixels
from core.models.align import coarser_grid, resample
from core.models.structure import ModelStructure
from core.models.student_variants import StudentVariant
from core.models.taps import Feature, FeatureRequest, Outputs
from core.spec.methods.dearkd import DearkdParams

_NUM_PAIRS = 2


class Dearkd(Method):
    """Terms ``label``, ``distillation`` and ``early`` in the first stage, ``label`` in the second."""

    uses_cached_outputs = True

    def __init__(self, params: DearkdParams, context: MethodContext) -> None:
        super().__init__(context)
        student, teacher = context.student_structure, context.teacher_structures[0]
        if params.data_free:
            _check_invertible(teacher, context)
            self.num_images = params.num_images
        self.params = params
        layers = params.layers or early_pairs(student, teacher)
        self.pairs = pair_levels(student, teacher, layers, count=len(layers), method=params.name)
        self.aligners = nn.ModuleList(Aligner(student.levels[s].width, teacher.levels[t].width) for s, t in self.pairs)
        self.student_taps = FeatureRequest(levels=tuple(s for s, _ in self.pairs))
        self.teacher_taps = FeatureRequest(levels=tuple(t for _, t in self.pairs))
        self.teacher_fraction = params.first_stage

    @classmethod
    def student_variant(
        cls, params: DearkdParams, student: ModelStructure, teachers: Sequence[ModelStructure]
    ) -> StudentVariant:
        """A ViT with a distillation token, whose first blocks have gated attention that starts local."""
        depth = len(check_levels(student, "student", params.name))
        num_local = num_early_blocks(depth) if params.local_blocks is None else params.local_blocks
        if num_local > depth:
            raise invalid_param(
                "local_blocks", f"the student {student.architecture} has {depth} blocks, not {num_local}"
            )
        return StudentVariant("flexible", {"distillation_tokens": 1, "local_blocks": num_local})

    def prepare_images(self, sources: ImageSources) -> Pixels | None:
        """Images made by inverting the teacher, with ``data_free``."""
        if not self.params.data_free:
            return None
        inversion = Inversion(
            num_images=self.params.num_images, iterations=self.params.iterations, diversity=self.params.diversity
        )
        message = f"{inversion.num_images} images made from the teacher replace the training split"
        sources.event("data.inversion", message, {"images": inversion.num_images, "iterations": inversion.iterations})
        teacher = sources.teachers[0].built
        size = teacher.preprocessing.image_size
        return inverted_pixels(
            teacher,
            inversion,
            shape=(sources.train.images.shape[1], size, size),
            seed=sources.seed,
            cache_dir=sources.cache_dir,
            poll=sources.poll,
        )

    def prepare_student(self, student: nn.Module) -> None:
        """Make the student return both heads' logits. Raises ``SpecCannotRun`` for a student without the token."""
        return_all_logits(student, "dearkd", fix="choose a plain ViT as student, or method kd")

    def terms(self, batch: Batch, step: StepContext) -> dict[str, Tensor]:
        """The terms of the current stage; the second stage runs no teacher."""
        student = step.student(batch.images)
        (token_logits,) = student.token_logits
        if step.info.fraction >= self.params.first_stage:
            sum_of_heads = self.label_loss(student.logits, batch) + self.label_loss(token_logits, batch)
            return {"label": sum_of_heads / 2}
        (teacher,), alpha = step.teacher_outputs(batch), self.params.alpha
        divergence = token_divergence(
            token_logits,
            teacher.logits,
            distillation_type=self.params.distillation_type,
            temperature=self.params.temperature,
            reduction="sample",
        )
        return {
            "label": (1 - alpha) * self.label_loss(student.logits, batch),
            "distillation": alpha * divergence,
            "early": self.params.weight * self.early(student, teacher),
        }

    def early(self, student: Outputs, teacher: Outputs) -> Tensor:
        """Squared error of the aligned maps, mean over entries and pairs."""
        errors = []
        for (s, t), aligner in zip(self.pairs, self.aligners, strict=True):
            aligned, target = aligner(student.levels[s]), teacher.levels[t]
            grid = coarser_grid(aligned.grid, target.grid)
            errors.append(F.mse_loss(_normalized(resample(aligned, grid)), _normalized(resample(target, grid))))
        return torch.stack(errors).mean()


class Aligner(nn.Module):
    """Map patch tokens to a CNN's channels on the same grid: depth-wise 3 × 3, layer norm, GELU, 1 × 1."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, channels)  # equals a 1 × 1 convolution

    def forward(self, feature: Feature) -> Feature:
        """Return the feature with the CNN's number of channels, in float32."""
        mixed_BND = self.depthwise(feature.map.float()).flatten(2).transpose(1, 2)
        return Feature(self.project(F.gelu(self.norm(mixed_BND))), feature.grid)


def num_early_blocks(depth: int) -> int:
    """Number of early blocks of a ViT: a third of its depth, rounded up."""
    return -(-depth // 3)


def early_pairs(student: ModelStructure, teacher: ModelStructure) -> Pairs:
    """Up to two pairs, from the first third of the student's blocks and the first half of the teacher's stages."""
    num_blocks = num_early_blocks(len(check_levels(student, "student", "dearkd")))
    num_stages = -(-len(check_levels(teacher, "teachers/0", "dearkd")) // 2)
    count = min(_NUM_PAIRS, num_blocks, num_stages)
    return tuple(zip(evenly_spaced(num_blocks, count), evenly_spaced(num_stages, count), strict=True))


def _normalized(feature: Feature) -> Tensor:
    return F.layer_norm(feature.tokens.float(), feature.tokens.shape[-1:])


def _check_invertible(teacher: ModelStructure, context: MethodContext) -> None:
    if teacher.num_batch_norms == 0:
        raise invalid_param(
            "data_free",
            f"images are made from the statistics of the teacher's batch norms, and {teacher.architecture} has "
            "none; use a teacher with batch norms, such as a ResNet or RegNet, or train on the dataset",
        )
    if context.num_classes is None:
        raise invalid_param("data_free", "images are made for each class, and the dataset has no classes")

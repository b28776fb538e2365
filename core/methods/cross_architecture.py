"""Cross-architecture distillation: a CNN's features match a ViT's in attention space and token space, under views.

Paper: Liu et al. 2022, arXiv:2207.05273; no official code. Main loss: labels + the partially cross attention projector
(L_proj1) + the group-wise linear projector (L_proj2) + adversarial_weight · the multi-view adversarial term. The
student sees a random view of an image, the teacher the image itself. All projectors and the discriminator are dropped
at export.

Deviations: attention uses the teacher's heads; the teacher's query, key or value replaces the student's independently
for each image; the teacher's features are transformed like the student's view, so that positions correspond; tokens
are compared after a layer norm without weights, because the scale of a ViT's raw tokens differs between blocks; the
student's adversarial term is the non-saturating one, and the discriminator's, on detached features, is minimized by
the same optimizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.methods.base import Batch, MethodContext, StepContext, invalid_architecture
from core.methods.compatibility import pair_levels
from core.methods.feature_base import FeatureMethod
from core.methods.random_views import RandomViews, affine_transform
from core.models.align import resample
from core.models.cross_attention import Discriminator, GroupwiseProjector, PartialCrossAttention
from core.models.structure import ModelStructure
from core.models.taps import Attention, Feature, FeatureRequest, Outputs
from core.spec.methods.cross_architecture import CrossArchitectureParams

_NUM_PAIRS = 1  # the last features of both, as in the paper


class CrossArchitecture(FeatureMethod):
    """Terms ``attention``, ``projection``, ``adversarial`` and ``discriminator``, each a mean over the pairs."""

    uses_cached_outputs = True

    def __init__(self, params: CrossArchitectureParams, context: MethodContext) -> None:
        super().__init__(params, context)
        student, teacher = context.student_structure, context.teacher_structures[0]
        self.params = params
        self.pairs = pair_levels(student, teacher, params.layers, count=_NUM_PAIRS, method=params.name)
        _check_teacher(teacher)
        self.num_prefix_tokens, self.grid = teacher.num_prefix_tokens, teacher.levels[0].grid
        widths = [
            (student.levels[s].width, teacher.levels[t].width, teacher.attentions[t].width) for s, t in self.pairs
        ]
        self.attentions = nn.ModuleList(
            PartialCrossAttention(student_width, attention_width, teacher_fraction=params.teacher_share)
            for student_width, _, attention_width in widths
        )
        self.projectors = nn.ModuleList(
            GroupwiseProjector(
                student_width, teacher_width, self.grid, group_size=params.group_size, dropout=params.dropout
            )
            for student_width, teacher_width, _ in widths
        )
        is_adversarial = params.adversarial_weight > 0
        self.discriminators = nn.ModuleList(
            Discriminator(teacher_width) for _, teacher_width, _ in widths if is_adversarial
        )
        self.views = RandomViews(
            probability=params.view_probability,
            max_rotation=params.max_rotation,
            min_crop=params.min_crop,
            mask_share=params.mask_share,
            grid=self.grid,
        )
        teacher_levels = tuple(t for _, t in self.pairs)
        self.student_taps = FeatureRequest(levels=tuple(s for s, _ in self.pairs))
        self.teacher_taps = FeatureRequest(levels=teacher_levels, attentions=teacher_levels)

    def terms(self, batch: Batch, step: StepContext) -> dict[str, Tensor]:
        """All terms, weighted: the student runs a random view of the images that the teacher runs."""
        views = self.views.draw(len(batch.images), batch.images.device)
        student = step.student(views.apply(batch.images))
        teachers = [self._transformed(teacher, views.theta) for teacher in step.teacher_outputs(batch)]
        return self.loss(batch, student, teachers, step.info)

    def feature_terms(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs]) -> dict[str, Tensor]:
        """The mean of each term over the pairs."""
        values_by_term: dict[str, list[Tensor]] = {}
        for index, (s, t) in enumerate(self.pairs):
            feature = resample(student.levels[s], self.grid).map_tensors(Tensor.float)
            teacher_BND = teachers[0].levels[t].tokens
            target_BND = F.layer_norm(teacher_BND.float(), teacher_BND.shape[-1:])
            projected_BND = self.projectors[index](feature.tokens)
            attention_loss = self.attentions[index](feature.map, self._patches(teachers[0].attentions[t]))
            terms = {
                "attention": self.params.attention_weight * attention_loss,
                "projection": self.params.projection_weight * F.mse_loss(projected_BND, target_BND),
            }
            if self.discriminators:
                generator_loss, discriminator_loss = self.discriminators[index](
                    projected_BND.mean(dim=1), target_BND.mean(dim=1)
                )
                terms["adversarial"] = self.params.adversarial_weight * generator_loss
                terms["discriminator"] = discriminator_loss
            for name, value in terms.items():
                values_by_term.setdefault(name, []).append(value)
        return {name: torch.stack(values).mean() for name, values in values_by_term.items()}

    def _patches(self, attention: Attention) -> Attention:
        """Remove prefix tokens; weights among the patches follow from query and key."""
        attention = replace(attention.map_tensors(Tensor.float), weights=None)
        return attention.map_tensors(lambda tokens: tokens[:, self.num_prefix_tokens :])

    def _transformed(self, teacher: Outputs, theta_B23: Tensor) -> Outputs:
        """Move the teacher's features to the positions where the student's view shows them."""

        def transform(tokens_BTD: Tensor) -> Tensor:
            prefix, patches = tokens_BTD[:, : self.num_prefix_tokens], tokens_BTD[:, self.num_prefix_tokens :]
            maps = affine_transform(Feature(patches, self.grid).map, theta_B23)
            return torch.cat((prefix, maps.flatten(2).transpose(1, 2)), dim=1)

        levels = {
            index: replace(feature, tokens=affine_transform(feature.map, theta_B23).flatten(2).transpose(1, 2))
            for index, feature in teacher.levels.items()
        }
        attentions = {
            index: replace(attention, weights=None).map_tensors(transform)
            for index, attention in teacher.attentions.items()
        }
        return replace(teacher, levels=levels, attentions=attentions)


def _check_teacher(structure: ModelStructure) -> None:
    num_tokens = structure.num_prefix_tokens + (structure.levels[0].tokens if structure.levels else 0)
    is_global = all(attention.tokens == num_tokens and attention.windows == 1 for attention in structure.attentions)
    if structure.is_vit and len(structure.attentions) == len(structure.levels) and is_global:
        return
    raise invalid_architecture(
        "teachers/0",
        f"cross_architecture reads queries, keys and values over all patches in every block, and "
        f"{structure.architecture} does not expose them; use a plain ViT (vit_*, deit_*)",
    )

"""From a transformer to a CNN: its features in the teacher's attention space and token space, under random views.

Liu et al. 2022, arXiv:2207.05273; no official code. Main loss: labels + the partially cross attention
projector (L_proj1) + the group-wise linear projector (L_proj2) + adversarial_weight · the multi-view
adversarial term. The student sees a random view of a picture, the teacher the picture itself. All
projectors and the discriminator are dropped at export.

Deviations: attention goes by the teacher's heads; the teacher's own query, key or value replace the
student's for each picture by itself; what the teacher saw is moved like the view, so that places stay
together; tokens are compared behind a layer norm without weights, as the raw ones of a ViT differ in
scale from block to block; the student's adversarial term is the non-saturating one, and the
discriminator's, on detached features, goes through the same optimiser.
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
from core.methods.random_views import RandomViews, moved
from core.models.align import resampled
from core.models.cross_attention import Discriminator, GroupwiseProjector, PartialCrossAttention
from core.models.structure import ModelStructure
from core.models.taps import Attention, Feature, FeatureRequest, Outputs
from core.spec.methods.cross_architecture import CrossArchitectureParams

_PAIRS = 1  # the last features of both, as in the paper


class CrossArchitecture(FeatureMethod):
    """Terms ``attention``, ``projection``, ``adversarial`` and ``discriminator``, each a mean over the pairs."""

    uses_cached_outputs = True

    def __init__(self, params: CrossArchitectureParams, setting: MethodContext) -> None:
        super().__init__(params, setting)
        mine, theirs = setting.student_structure, setting.teacher_structures[0]
        self.params = params
        self.pairs = pair_levels(mine, theirs, params.layers, count=_PAIRS, method=params.name)
        _check_teacher(theirs)
        self.prefix, self.grid = theirs.num_prefix_tokens, theirs.levels[0].grid
        widths = [(mine.levels[s].width, theirs.levels[t].width, theirs.attentions[t].width) for s, t in self.pairs]
        self.attentions = nn.ModuleList(
            PartialCrossAttention(own, attended, teacher_share=params.teacher_share) for own, _, attended in widths
        )
        self.projectors = nn.ModuleList(
            GroupwiseProjector(own, wanted, self.grid, group_size=params.group_size, dropout=params.dropout)
            for own, wanted, _ in widths
        )
        adversarial = params.adversarial_weight > 0
        self.discriminators = nn.ModuleList(Discriminator(wanted) for _, wanted, _ in widths if adversarial)
        self.views = RandomViews(
            probability=params.view_probability,
            max_rotation=params.max_rotation,
            min_crop=params.min_crop,
            mask_share=params.mask_share,
            grid=self.grid,
        )
        guided = tuple(t for _, t in self.pairs)
        self.student_taps = FeatureRequest(levels=tuple(s for s, _ in self.pairs))
        self.teacher_taps = FeatureRequest(levels=guided, attentions=guided)

    def terms(self, batch: Batch, room: StepContext) -> dict[str, Tensor]:
        """All terms, weighted: the student saw a view of what the teacher saw."""
        views = self.views.draw(len(batch.images), batch.images.device)
        student = room.student(views.of(batch.images))
        teachers = [self._seen_through(teacher, views.places) for teacher in room.teacher_outputs(batch)]
        return self.loss(batch, student, teachers, room.info)

    def feature_terms(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs]) -> dict[str, Tensor]:
        """The means over the pairs, by name."""
        found: dict[str, list[Tensor]] = {}
        for place, (own, guided) in enumerate(self.pairs):
            feature = resampled(student.levels[own], self.grid).map_tensors(Tensor.float)
            guide = teachers[0].levels[guided].tokens
            normal_BND = F.layer_norm(guide.float(), guide.shape[-1:])
            projected_BND = self.projectors[place](feature.tokens)
            attended = self.attentions[place](feature.map, self._patches(teachers[0].attentions[guided]))
            terms = {
                "attention": self.params.attention_weight * attended,
                "projection": self.params.projection_weight * F.mse_loss(projected_BND, normal_BND),
            }
            if self.discriminators:
                fooled, told = self.discriminators[place](projected_BND.mean(dim=1), normal_BND.mean(dim=1))
                terms |= {"adversarial": self.params.adversarial_weight * fooled, "discriminator": told}
            for name, value in terms.items():
                found.setdefault(name, []).append(value)
        return {name: torch.stack(values).mean() for name, values in found.items()}

    def _patches(self, attention: Attention) -> Attention:
        """The same without prefix tokens; weights among patches alone follow from query and key."""
        return replace(attention.map_tensors(Tensor.float), weights=None).map_tensors(lambda t: t[:, self.prefix :])

    def _seen_through(self, teacher: Outputs, theta_B23: Tensor) -> Outputs:
        """What the teacher said of each place, at the place where the view shows it."""

        def move(tokens_BTD: Tensor) -> Tensor:
            prefix, patches = tokens_BTD[:, : self.prefix], tokens_BTD[:, self.prefix :]
            shown = moved(Feature(patches, self.grid).map, theta_B23)
            return torch.cat((prefix, shown.flatten(2).transpose(1, 2)), dim=1)

        levels = {
            index: replace(feature, tokens=moved(feature.map, theta_B23).flatten(2).transpose(1, 2))
            for index, feature in teacher.levels.items()
        }
        attentions = {
            index: replace(attention, weights=None).map_tensors(move) for index, attention in teacher.attentions.items()
        }
        return replace(teacher, levels=levels, attentions=attentions)


def _check_teacher(anatomy: ModelStructure) -> None:
    tokens = anatomy.num_prefix_tokens + (anatomy.levels[0].tokens if anatomy.levels else 0)
    whole = all(attention.tokens == tokens and attention.windows == 1 for attention in anatomy.attentions)
    if anatomy.is_vit and len(anatomy.attentions) == len(anatomy.levels) and whole:
        return
    raise invalid_architecture(
        "teachers/0",
        f"cross_architecture reads queries, keys and values over all patches in every block, and "
        f"{anatomy.architecture} does not give them; use a plain ViT (vit_*, deit_*)",
    )

"""Attention Probe: a student that learns in the wild, from pictures that its teacher chooses.

Wang et al. 2022, ICASSP. First the teacher looks at an unlabelled pool, every picture as it is: kept are those with
the lowest ``confidence_share`` · (−log of its largest probability) + ``attention_share`` · Σ (cosine of its class
token's attention, head 0, with the uniform one). Then the student learns from these alone:
T² · KL + noise adaptation + 0.8 · the class token's row of the tokens' Gram matrices.

As the paper has it and unlike the official scripts, whose flag is inverted, both parts of the score count. The
Gram matrices are of unit tokens unless ``normalize`` is off; the noise matrix is trained with the student and
dropped at export, as is everything else here. Labels of the dataset serve one end, to measure how often the teacher
is right. Choosing is one pass over the pool in float32, kept for later attempts.
Shapes: B pictures, N patches, T = 1 + N tokens, C classes, P pictures of the pool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from core.data.pixels import Pixels
from core.data.stored import UNLABELLED
from core.losses import attention_concentration, attention_probe, kd, noise_adaptation, wild_scores
from core.methods.base import (
    Batch,
    ImageSources,
    Method,
    MethodContext,
    StepInfo,
    Teacher,
    invalid_architecture,
    invalid_param,
)
from core.methods.compatibility import Pairs, pair_levels
from core.models.structure import ModelStructure
from core.models.taps import Attention, Feature, FeatureRequest, Outputs, run_tapped
from core.spec.methods.attention_probe import AttentionProbeParams

_PROBES = 3  # blocks 3, 7 and 11 of 12
_LOOK = 128  # pictures at once
_TEACHER_ACCURACY = 0.8  # where nothing tells; the paper's teachers are right in 0.76 to 0.97
_LEAST, _MOST = 0.01, 0.99  # a teacher that never errs would leave no room for the matrix
_MEASURED_SHARE, _MOST_MEASURED = 10, 2_000


class AttentionProbe(Method):
    """Terms ``distillation``, ``noise`` and ``probe``."""

    def __init__(self, params: AttentionProbeParams, setting: MethodContext) -> None:
        super().__init__(setting)
        self.params = params
        mine, theirs = setting.student_structure, setting.teacher_structures[0]
        self.pairs: Pairs = pair_levels(mine, theirs, params.layers, count=_PROBES, method=params.name)
        self.seen = tuple(t for _, t in self.pairs)[:-1] or (self.pairs[0][1],)
        _check(mine, theirs, self.pairs, self.seen)
        self.prefixes = theirs.num_prefix_tokens
        self.num_images = None if setting.num_pool is None else _num_chosen(params.num_select, setting.num_pool)
        num_classes = setting.teachers[0].num_classes
        if num_classes < 2:
            raise invalid_param("", "a teacher of a single class cannot choose or teach; use a dataset with more")
        self.noise = nn.Parameter(torch.zeros(num_classes, num_classes - 1))
        self.teacher_accuracy = params.teacher_accuracy or _TEACHER_ACCURACY
        self.student_taps = FeatureRequest(levels=tuple(s for s, _ in self.pairs))
        self.teacher_taps = FeatureRequest(levels=tuple(t for _, t in self.pairs))

    def loss(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs], moment: StepInfo) -> dict[str, Tensor]:
        """All terms, weighted; the batch's labels are not looked at."""
        asked, (teacher,) = self.params, teachers
        mine_LBTD = torch.stack([_class_and_patches(student.levels[s]) for s, _ in self.pairs])
        theirs_LBTD = torch.stack([_class_and_patches(teacher.levels[t]) for _, t in self.pairs])
        noise = noise_adaptation(student.logits, teacher.logits, self.noise, teacher_accuracy=self.teacher_accuracy)
        return {
            "distillation": asked.distillation_weight
            * kd(student.logits, teacher.logits, temperature=asked.temperature),
            "noise": asked.noise_weight * noise,
            "probe": asked.probe_weight * attention_probe(mine_LBTD, theirs_LBTD, normalize=asked.normalize),
        }

    def prepare_images(self, sources: ImageSources) -> Pixels | None:
        """The chosen pictures of the pool, without labels."""
        if sources.unlabeled_pool is None or self.num_images is None:
            return None
        (teacher,) = sources.teachers
        file = sources.cache_dir / "chosen.npz"
        if not file.is_file():
            part = sources.cache_dir / "part.npz"
            np.savez(
                part,
                places=self._choose(teacher, sources.unlabeled_pool, sources.poll),
                right=_accuracy(teacher, sources),
            )
            part.replace(file)
        with np.load(file) as kept:
            places, right = kept["places"], float(kept["right"])
        if self.params.teacher_accuracy is None:
            self.teacher_accuracy = min(max(right, _LEAST), _MOST)
        sources.event(
            "pool.chosen",
            f"{len(places)} of {len(sources.unlabeled_pool)} pictures are trained on; the teacher is taken to be right in "
            f"{100 * self.teacher_accuracy:.1f} % of all cases",
            {"chosen": len(places), "pool": len(sources.unlabeled_pool), "teacher_accuracy": self.teacher_accuracy},
        )
        return sources.unlabeled_pool.unlabelled(places)

    def _choose(self, teacher: Teacher, pool: Pixels, poll: Callable[[], None]) -> npt.NDArray[np.int64]:
        assert self.num_images is not None
        scores, named = [], []
        for said in _look(teacher, pool, torch.arange(len(pool)), FeatureRequest(attentions=self.seen), poll):
            spread_B = sum((_concentration(said.attentions[t], self.prefixes) for t in self.seen), torch.zeros(()))
            unsure_B = self.params.confidence_share * wild_scores(said.logits).cpu()
            scores.append(unsure_B + self.params.attention_share * spread_B)
            named.append(said.logits.argmax(dim=1).cpu())
        return choose(
            torch.cat(scores).numpy(), torch.cat(named).numpy(), count=self.num_images, balanced=self.params.balanced
        )


def choose(
    scores_P: npt.NDArray[np.float32], named_P: npt.NDArray[np.int64], *, count: int, balanced: bool
) -> npt.NDArray[np.int64]:
    """The places of the ``count`` lowest scores, in their order; equal ones by place.

    ``balanced``: first the best of each class that the teacher names, then the second best of each, and so on.
    """
    order_P = np.argsort(scores_P, kind="stable")
    if balanced:
        rank_P = np.empty(len(scores_P), np.int64)
        for named in np.unique(named_P):
            of_class = order_P[named_P[order_P] == named]
            rank_P[of_class] = np.arange(len(of_class))
        order_P = np.lexsort((scores_P, rank_P))
    return np.sort(order_P[:count])


def _num_chosen(asked: int | None, num_pool: int) -> int:
    if asked is None:
        return max(2, num_pool // 2)
    if asked > num_pool:
        raise invalid_param("num_select", f"{asked} pictures cannot be chosen, the pool has {num_pool} to train on")
    return asked


def _check(mine: ModelStructure, theirs: ModelStructure, pairs: Pairs, seen: Sequence[int]) -> None:
    """Refuse networks whose class tokens cannot be compared, or looked at."""
    for whose, anatomy in (("student", mine), ("teachers/0", theirs)):
        if not (anatomy.is_vit and anatomy.has_class_token):
            raise invalid_architecture(
                whose, f"{anatomy.architecture} is no plain ViT with a class token; use a vit_* or deit_*"
            )
    for s, t in pairs:
        if mine.levels[s].grid != theirs.levels[t].grid:
            raise invalid_architecture(
                "student",
                f"it has {mine.levels[s].tokens} patches and the teacher {theirs.levels[t].tokens}, which are compared "
                "one by one; choose patch_size and image_size so that both have the same",
            )
    if any(t >= len(theirs.attentions) or not theirs.attentions[t].has_weights for t in seen):
        raise invalid_architecture(
            "teachers/0", f"the attention of {theirs.architecture} cannot be read; use a plain vit_*"
        )


def _class_and_patches(feature: Feature) -> Tensor:
    assert feature.prefix is not None
    return torch.cat((feature.prefix[:, :1], feature.tokens), dim=1)


def _concentration(attention: Attention, prefixes: int) -> Tensor:
    assert attention.weights is not None
    return attention_concentration(attention.weights[:, 0, 0, prefixes:]).cpu()


def _accuracy(teacher: Teacher, sources: ImageSources) -> float:
    """How often the teacher is right on a part of the training split; the stated default where it has no labels."""
    train = sources.train
    if bool((train.labels == UNLABELLED).any()):
        return _TEACHER_ACCURACY
    count = min(max(1, len(train) // _MEASURED_SHARE), _MOST_MEASURED)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(sources.seed))
    places_B = order[:count].sort().values
    named = [
        said.logits.argmax(dim=1).cpu() for said in _look(teacher, train, places_B, FeatureRequest(), sources.poll)
    ]
    return float((torch.cat(named) == train.labels[places_B]).double().mean())


def _look(
    teacher: Teacher, pixels: Pixels, places: Tensor, wanted: FeatureRequest, poll: Callable[[], None]
) -> Iterator[Outputs]:
    """What the teacher says of pictures as they are, in float32, batch by batch."""
    built = teacher.built
    device = next(built.module.parameters()).device
    for start in range(0, len(places), _LOOK):
        poll()
        images_BCHW = pixels.batch(places[start : start + _LOOK]).to(device).float() / 255
        with torch.no_grad():
            said = run_tapped(built.module, built.preprocessing(images_BCHW), wanted)
        yield said

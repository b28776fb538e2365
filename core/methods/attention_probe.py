"""Attention Probe: the student learns from images of an unlabeled pool that its teacher selects.

Paper: Wang et al. 2022, ICASSP. First the teacher scores every image of the pool without augmentation. Selected are the
images with the lowest ``confidence_share`` · (−log of the largest probability) + ``attention_share`` · Σ (cosine of the
class token's attention, head 0, with uniform attention). Then the student learns from the selected images:
T² · KL + noise adaptation + 0.8 · the class token's row of the tokens' Gram matrices.

Selection is one pass over the pool in float32, saved for later attempts of the job. The noise matrix is trained with
the student, at a learning rate of its own, and dropped at export. Formula and deviations:
:class:`core.spec.methods.attention_probe.AttentionProbeParams`.

Shapes: B images, N patches, T = 1 + N tokens, C classes, L pairs of levels, P images of the pool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from core.data.pixels import Pixels
from core.data.stored import UNLABELED
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
from core.system.disk import atomic_path

_NUM_PAIRS = 3  # blocks 3, 7 and 11 of 12
_SCORING_BATCH_SIZE = 128
_DEFAULT_ACCURACY = 0.8  # without labels to measure it; the paper's teachers have 0.76 to 0.97
_MIN_ACCURACY, _MAX_ACCURACY = 0.01, 0.99  # at 1 the noise matrix would be the identity
_MEASURED_SHARE, _MAX_MEASURED = 10, 2_000  # one image in 10 of the training split, at most 2,000


class AttentionProbe(Method):
    """Terms ``distillation``, ``noise`` and ``probe``."""

    def __init__(self, params: AttentionProbeParams, context: MethodContext) -> None:
        super().__init__(context)
        self.params = params
        student, teacher = context.student_structure, context.teacher_structures[0]
        self.pairs: Pairs = pair_levels(student, teacher, params.layers, count=_NUM_PAIRS, method=params.name)
        self.scored_blocks = tuple(t for _, t in self.pairs)[:-1] or (self.pairs[0][1],)
        _check_networks(student, teacher, self.pairs, self.scored_blocks)
        self.num_prefix_tokens = teacher.num_prefix_tokens
        self.num_images = None if context.num_pool is None else _num_selected(params.num_select, context.num_pool)
        num_classes = context.teachers[0].num_classes
        if num_classes < 2:
            raise invalid_param("", "a teacher with a single class cannot select images; use a dataset with more")
        self.noise = nn.Parameter(torch.zeros(num_classes, num_classes - 1))
        self.constant_rates = {"noise": params.noise_learning_rate}
        self.teacher_accuracy = params.teacher_accuracy or _DEFAULT_ACCURACY
        self.student_taps = FeatureRequest(levels=tuple(s for s, _ in self.pairs))
        self.teacher_taps = FeatureRequest(levels=tuple(t for _, t in self.pairs))

    @property
    def cacheable(self) -> bool:
        """False: the selected images are not views of the training split."""
        return False

    @property
    def balanceable(self) -> bool:
        """False: there is no label term."""
        return False

    def loss(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs], info: StepInfo) -> dict[str, Tensor]:
        """All terms, weighted; the batch's labels are not used."""
        params, (teacher,) = self.params, teachers
        student_LBTD = torch.stack([_class_and_patches(student.levels[s]) for s, _ in self.pairs])
        teacher_LBTD = torch.stack([_class_and_patches(teacher.levels[t]) for _, t in self.pairs])
        divergence = kd(student.logits, teacher.logits, temperature=params.temperature)
        noise = noise_adaptation(student.logits, teacher.logits, self.noise, teacher_accuracy=self.teacher_accuracy)
        return {
            "distillation": params.distillation_weight * divergence,
            "noise": params.noise_weight * noise,
            "probe": params.probe_weight * attention_probe(student_LBTD, teacher_LBTD, normalize=params.normalize),
        }

    def prepare_images(self, sources: ImageSources) -> Pixels | None:
        """The selected images of the pool, without labels."""
        if sources.unlabeled_pool is None or self.num_images is None:
            return None
        (teacher,) = sources.teachers
        path = sources.cache_dir / "selection.npz"
        if not path.is_file():
            indices = self._select(teacher, sources.unlabeled_pool, sources.poll)
            accuracy = _accuracy(teacher, sources)
            # np.savez appends .npz to other file names.
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.savez(file, indices=indices, accuracy=accuracy)
        with np.load(path) as saved:
            indices, accuracy = saved["indices"], float(saved["accuracy"])
        if self.params.teacher_accuracy is None:
            self.teacher_accuracy = min(max(accuracy, _MIN_ACCURACY), _MAX_ACCURACY)
        pool_size = len(sources.unlabeled_pool)
        sources.event(
            "pool.chosen",
            f"{len(indices)} of {pool_size} images of the pool selected; teacher accuracy "
            f"{100 * self.teacher_accuracy:.1f} %",
            {"chosen": len(indices), "pool": pool_size, "teacher_accuracy": self.teacher_accuracy},
        )
        return sources.unlabeled_pool.unlabeled_subset(indices)

    def _select(self, teacher: Teacher, pool: Pixels, poll: Callable[[], None]) -> npt.NDArray[np.int64]:
        assert self.num_images is not None
        request = FeatureRequest(attentions=self.scored_blocks)
        scores, predictions = [], []
        for outputs in _outputs(teacher, pool, torch.arange(len(pool)), request, poll):
            concentrations = (_concentration(outputs.attentions[t], self.num_prefix_tokens) for t in self.scored_blocks)
            concentration_B = sum(concentrations, torch.zeros(()))
            uncertainty_B = self.params.confidence_share * wild_scores(outputs.logits).cpu()
            scores.append(uncertainty_B + self.params.attention_share * concentration_B)
            predictions.append(outputs.logits.argmax(dim=1).cpu())
        return select_lowest(
            torch.cat(scores).numpy(),
            torch.cat(predictions).numpy(),
            count=self.num_images,
            balanced=self.params.balanced,
        )


def select_lowest(
    scores_P: npt.NDArray[np.float32], predictions_P: npt.NDArray[np.int64], *, count: int, balanced: bool
) -> npt.NDArray[np.int64]:
    """Return the indices of the ``count`` lowest scores in ascending order; ties go to the lower index.

    With ``balanced``, select the best image of each predicted class, then the second best of each, and so on.
    """
    order_P = np.argsort(scores_P, kind="stable")
    if balanced:
        rank_P = np.empty(len(scores_P), np.int64)
        for predicted in np.unique(predictions_P):
            class_indices = order_P[predictions_P[order_P] == predicted]
            rank_P[class_indices] = np.arange(len(class_indices))
        order_P = np.lexsort((scores_P, rank_P))
    return np.sort(order_P[:count])


def _num_selected(num_select: int | None, num_pool: int) -> int:
    if num_select is None:
        return max(2, num_pool // 2)
    if num_select > num_pool:
        raise invalid_param("num_select", f"{num_select} images cannot be selected, the pool has {num_pool}")
    return num_select


def _check_networks(
    student: ModelStructure, teacher: ModelStructure, pairs: Pairs, scored_blocks: Sequence[int]
) -> None:
    """Raise ``InvalidSpec`` for class tokens that cannot be compared, or attention that cannot be read."""
    for model_field, structure in (("student", student), ("teachers/0", teacher)):
        if not (structure.is_vit and structure.has_class_token):
            raise invalid_architecture(
                model_field, f"{structure.architecture} is no plain ViT with a class token; use a vit_* or deit_*"
            )
    for s, t in pairs:
        if student.levels[s].grid != teacher.levels[t].grid:
            raise invalid_architecture(
                "student",
                f"it has {student.levels[s].tokens} patches and the teacher {teacher.levels[t].tokens}, and patches "
                "are compared one by one; choose patch_size and image_size so that both have the same number",
            )
    if any(t >= len(teacher.attentions) or not teacher.attentions[t].has_weights for t in scored_blocks):
        raise invalid_architecture(
            "teachers/0", f"the attention of {teacher.architecture} cannot be read; use a plain vit_*"
        )


def _class_and_patches(feature: Feature) -> Tensor:
    assert feature.prefix is not None
    return torch.cat((feature.prefix[:, :1], feature.tokens), dim=1)


def _concentration(attention: Attention, num_prefix_tokens: int) -> Tensor:
    assert attention.weights is not None
    return attention_concentration(attention.weights[:, 0, 0, num_prefix_tokens:]).cpu()


def _accuracy(teacher: Teacher, sources: ImageSources) -> float:
    """Teacher accuracy on a sample of the training split, 0…1; ``_DEFAULT_ACCURACY`` if the split is unlabeled."""
    train = sources.train
    if bool((train.labels == UNLABELED).any()):
        return _DEFAULT_ACCURACY
    count = min(max(1, len(train) // _MEASURED_SHARE), _MAX_MEASURED)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(sources.seed))
    indices = order[:count].sort().values
    predictions = [
        outputs.logits.argmax(dim=1).cpu()
        for outputs in _outputs(teacher, train, indices, FeatureRequest(), sources.poll)
    ]
    return float((torch.cat(predictions) == train.labels[indices]).double().mean())


def _outputs(
    teacher: Teacher, pixels: Pixels, indices: Tensor, request: FeatureRequest, poll: Callable[[], None]
) -> Iterator[Outputs]:
    """Yield the teacher's outputs for images without augmentation, batch by batch, in float32."""
    built = teacher.built
    device = next(built.module.parameters()).device
    for start in range(0, len(indices), _SCORING_BATCH_SIZE):
        poll()
        images_BCHW = pixels.batch(indices[start : start + _SCORING_BATCH_SIZE]).to(device).float() / 255
        with torch.no_grad():
            outputs = run_tapped(built.module, built.preprocessing(images_BCHW), request)
        yield outputs

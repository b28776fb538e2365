"""Agglomeration: several foundation models are distilled into one small backbone, on unlabeled images.

Papers: AM-RADIO, Ranzinger et al. 2024, arXiv:2312.06709 (heads, cosine of summaries); PHI-S, Ranzinger et al. 2024,
arXiv:2410.01680 (standardization); UNIC, Sariyildiz et al. 2024, arXiv:2408.05088 (teacher dropping, ladder).
Each teacher has a summary and patch features behind its final norm, and the student has a head for each of them. The
loss of an image and a teacher is the weighted sum of (1 − w) (1 − cosine) + w · smooth L1 over both kinds, with w =
``smooth_l1_share``; summaries without standardization are compared by cosine alone.

Deviations: statistics are estimated once, over the first batches, so that targets do not move while the heads learn.
The student's summary is what the exported backbone outputs. Prefix tokens (class, register) are never patches. Grids
that differ are brought to the smaller one; the resolver avoids that by choosing the teachers' image sizes.

Shapes: B batch, N tokens, D width of a teacher, T teachers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.data.transfer import to_device
from core.data.views import sample_draws
from core.losses import drop_teachers, embedding_match
from core.methods.base import Batch, Method, MethodContext, StepInfo, invalid_architecture, invalid_param
from core.methods.compatibility import check_batch, last_level
from core.methods.standardization import ChannelStandardizer, PhiStandardizer, Standardizer, finalize_statistics
from core.models.align import interpolate
from core.models.built import BuiltModel
from core.models.projection import Ladder, ProjectionMlp
from core.models.structure import ModelStructure
from core.models.taps import Feature, FeatureRequest, Outputs
from core.seeds import derive_seed
from core.spec.methods.agglomerate import AgglomerateParams
from core.spec.teacher_names import teacher_subject

Kind = Literal["summary", "patches"]
Summary = Literal["embedding", "class", "mean"]

_NO_PATCHES = "or set method.patch_weight to 0 and method.summary to auto"
_LAST_RUNG_FACTOR = 4  # hidden width of the ladder's last MLP, relative to the others (UNIC: 3072 and 768)


class Agglomerate(Method):
    """Terms ``summary_0``, ``patches_0``, ``summary_1`` and so on, by teacher; a term of weight 0 is left out."""

    shares: Tensor

    def __init__(self, params: AgglomerateParams, context: MethodContext) -> None:
        super().__init__(context)
        self.params = params
        self.seed = derive_seed(context.seed, "dropped teachers")
        self.headless = context.student.num_classes == 0
        weights: dict[Kind, float] = {"summary": params.summary_weight, "patches": params.patch_weight}
        self.kinds = {kind: weight for kind, weight in weights.items() if weight > 0}
        self.teacher_weights = _teacher_weights(params, len(context.teachers))
        self.register_buffer("shares", torch.tensor(self.teacher_weights), persistent=False)
        self.summaries = [_teacher_summary(params, context, i) for i in range(len(context.teachers))]
        self.class_token = _check_student(params, context)
        self.heads, self.standardizers = nn.ModuleDict(), nn.ModuleDict()
        for index, teacher in enumerate(context.teacher_structures):
            for kind in self.kinds:
                width = self._target_width(kind, teacher, index)
                self.heads[f"{kind}_{index}"] = _head(kind, params, context.student_structure, width)
                if params.normalization == "channel":
                    self.standardizers[f"{kind}_{index}"] = ChannelStandardizer(width)
                elif params.normalization == "phi_s" and kind == "patches":
                    self.standardizers[f"{kind}_{index}"] = PhiStandardizer(width)
        self.num_statistics_batches = params.statistics_batches if len(self.standardizers) else 0
        _check_samples(params, context)
        self.drop_probability = _drop_probability(params, context)
        self.per_sample = self.drop_probability == 0
        self.student_taps, self.teacher_taps = self._taps()

    @property
    def reads_teacher_logits(self) -> bool:
        """Never: the teachers' classes are irrelevant."""
        return False

    def prepare_training(self, teacher_outputs: Iterable[Sequence[Outputs]]) -> None:
        """Estimate the statistics of every teacher's features."""
        standardizers: dict[str, Standardizer] = dict(self.standardizers.items())  # type: ignore[arg-type]
        for teachers in teacher_outputs:
            for index, outputs in enumerate(teachers):
                for kind in self.kinds:
                    standardizer = standardizers.get(f"{kind}_{index}")
                    if standardizer is not None:
                        standardizer.update(self._target(kind, index, outputs).tokens.flatten(0, 1))
        for name, standardizer in standardizers.items():
            _, _, index_text = name.partition("_")
            finalize_statistics([standardizer], teacher_subject(int(index_text), len(self.teacher_weights)))

    def loss(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs], info: StepInfo) -> dict[str, Tensor]:
        """All terms, weighted; labels are not used."""
        matches = [self._match(index, student, teacher) for index, teacher in enumerate(teachers)]
        losses_TB = torch.stack([torch.stack(list(match.values())).sum(dim=0) for match in matches])
        weights_TB = self._sample_weights(losses_TB.detach(), batch.indices, info)
        return {
            f"{kind}_{index}": (weights_TB[index] * value_B).sum()
            for index, match in enumerate(matches)
            for kind, value_B in match.items()
        }

    def test_metrics(self, student: Outputs, teachers: Sequence[Outputs]) -> dict[str, Tensor]:
        """Cosine of the predicted features with those of each teacher, in the teacher's own space."""
        cosines = {}
        for index, teacher in enumerate(teachers):
            for kind in self.kinds:
                predicted, target = self._pair(kind, index, student, teacher, standardized=False)
                cosine_BN = F.cosine_similarity(predicted.tokens, target.tokens, dim=-1, eps=1e-8)
                cosines[f"teacher/{index}/{kind}_cosine"] = cosine_BN.mean(dim=1)
        return cosines

    # --- features -----------------------------------------------------------------------------------

    def _match(self, index: int, student: Outputs, teacher: Outputs) -> dict[Kind, Tensor]:
        """Weighted distance of each sample to a teacher by kind, (B,)."""
        matches = {}
        for kind, weight in self.kinds.items():
            predicted, target = self._pair(kind, index, student, teacher, standardized=True)
            is_cosine = kind == "summary" and self.params.normalization != "channel"
            share = 0.0 if is_cosine else self.params.smooth_l1_share
            matches[kind] = weight * embedding_match(
                predicted.tokens,
                target.tokens,
                cosine_weight=1 - share,
                smooth_l1_weight=share,
                beta=self.params.beta,
                reduction="sample",
            )
        return matches

    def _pair(
        self, kind: Kind, index: int, student: Outputs, teacher: Outputs, *, standardized: bool
    ) -> tuple[Feature, Feature]:
        """Predicted and target features of one teacher on one grid; a summary is a grid of one token."""
        predicted, target = self._predicted(kind, index, student), self._target(kind, index, teacher)
        name = f"{kind}_{index}"
        if name in self.standardizers:
            standardizer = self.standardizers[name]
            assert isinstance(standardizer, Standardizer)
            if standardized:
                target = target.map_tensors(standardizer)
            else:
                predicted = predicted.map_tensors(standardizer.inverse)
        (rows, columns), (teacher_rows, teacher_columns) = predicted.grid, target.grid
        grid = (min(rows, teacher_rows), min(columns, teacher_columns))
        return interpolate(predicted, grid), interpolate(target, grid)

    def _predicted(self, kind: Kind, index: int, student: Outputs) -> Feature:
        head = self.heads[f"{kind}_{index}"]
        if self.params.ladder is not None:
            levels = [student.levels[level] for level in self.params.ladder]
            if kind == "patches":
                return Feature(head([level.tokens for level in levels]), levels[-1].grid)
            return _one_token(head([_level_summary(level, class_token=self.class_token) for level in levels]))
        if kind == "patches":
            assert student.last is not None
            return Feature(head(student.last.tokens), student.last.grid)
        # A student without a classifier outputs its embedding, averaged where several tokens are read.
        embedding_BD = student.logits if self.headless else student.embedding
        assert embedding_BD is not None
        return _one_token(head(embedding_BD))

    def _target(self, kind: Kind, index: int, teacher: Outputs) -> Feature:
        """A teacher's features without prefix tokens, in its own space."""
        if kind == "summary" and self.summaries[index] == "embedding":
            assert teacher.embedding is not None
            return _one_token(teacher.embedding.float())
        assert teacher.last is not None
        if kind == "patches":
            return Feature(teacher.last.tokens.float(), teacher.last.grid)
        if self.summaries[index] == "mean":
            return _one_token(teacher.last.pooled.float())
        assert teacher.last.prefix is not None
        return _one_token(teacher.last.prefix[:, 0].float())

    # --- weights ------------------------------------------------------------------------------------

    def _sample_weights(self, losses_TB: Tensor, indices_B: Tensor, info: StepInfo) -> Tensor:
        """Weights (T, B) of teachers and samples, with a sum of 1."""
        shares_T1 = self.shares[:, None]
        if self.drop_probability == 0:
            return shares_T1.expand_as(losses_TB) / losses_TB.shape[1]
        draws_BT = sample_draws(self.seed, int(info.epoch), indices_B, len(losses_TB))
        draws_TB = to_device(draws_BT, losses_TB.device).T
        # A teacher of weight 0 must not be the only one that stays.
        competing_TB = losses_TB.masked_fill(shares_T1 == 0, -torch.inf)
        weights_TB = drop_teachers(competing_TB, draws_TB, probability=self.drop_probability) * shares_T1
        return weights_TB / weights_TB.sum()

    # --- construction -------------------------------------------------------------------------------

    def _target_width(self, kind: Kind, teacher: ModelStructure, index: int) -> int:
        if kind == "summary" and self.summaries[index] == "embedding":
            assert teacher.embedding is not None, "checked with the summaries"
            return teacher.embedding
        return last_level(teacher, f"teachers/{index}", "agglomerate", fix=_NO_PATCHES).width

    def _taps(self) -> tuple[FeatureRequest, FeatureRequest]:
        """Features that are requested of the student, and of every teacher."""
        reads_summary, reads_patches = "summary" in self.kinds, "patches" in self.kinds
        sources = set(self.summaries) if reads_summary else set()
        teacher = FeatureRequest(last=reads_patches or bool(sources - {"embedding"}), embedding="embedding" in sources)
        if self.params.ladder is not None:
            return FeatureRequest(levels=self.params.ladder, logits=False), teacher
        return FeatureRequest(last=reads_patches, embedding=reads_summary and not self.headless), teacher


def _head(kind: Kind, params: AgglomerateParams, student: ModelStructure, width: int) -> nn.Module:
    """Build the head that maps the student's features of one kind to a teacher's width."""
    if params.ladder is not None:
        return Ladder(
            [student.levels[level].width for level in params.ladder],
            width,
            hidden_width=params.head_width,
            last_hidden_width=_LAST_RUNG_FACTOR * params.head_width,
        )
    own = (
        student.embedding if kind == "summary" else last_level(student, "student", "agglomerate", fix=_NO_PATCHES).width
    )
    assert own is not None, "checked with the student"
    return ProjectionMlp(own, width, hidden_width=params.head_width, depth=params.head_depth)


def _one_token(summary_BD: Tensor) -> Feature:
    return Feature(summary_BD.unsqueeze(1), (1, 1))


def _level_summary(level: Feature, *, class_token: bool) -> Tensor:
    """Summary of a student's level, (B, D): what its pooling would read there."""
    if class_token:
        assert level.prefix is not None
        return level.prefix[:, 0]
    return level.pooled


# --- checks -----------------------------------------------------------------------------------------


def _pooling(built: BuiltModel) -> str:
    """How a network reduces its features to an embedding, by timm's name: ``token``, ``avg``, ``map`` and others."""
    pooling = getattr(built.module, "global_pool", None)
    return pooling if isinstance(pooling, str) and pooling else "avg"


def _has_class_token(structure: ModelStructure) -> bool:
    return structure.has_class_token and structure.num_prefix_tokens > 0


def _teacher_summary(params: AgglomerateParams, context: MethodContext, index: int) -> Summary:
    """Return the source of a teacher's summary. Raises ``InvalidSpec`` if it has none."""
    structure, model_field = context.teacher_structures[index], f"teachers/{index}"
    if params.summary_weight == 0 or params.summary == "mean":
        return "mean"
    if params.summary == "class" and not _has_class_token(structure):
        detail = f"timm's {structure.architecture} has no class token; set method.summary to auto or mean"
        raise invalid_architecture(model_field, detail)
    # Where the class token is pooled, it is the embedding, and nothing else has to be stored.
    if _has_class_token(structure) and (_pooling(context.teachers[index]) != "token" or structure.embedding is None):
        return "class"
    if structure.embedding is None:
        raise invalid_architecture(
            model_field,
            f"timm's {structure.architecture} has no embedding that can be read; use another architecture, or set "
            "method.summary to mean or method.summary_weight to 0",
        )
    return "embedding"


def _check_student(params: AgglomerateParams, context: MethodContext) -> bool:
    """Return whether the student's summary is its class token. Raises ``InvalidSpec`` for an unsupported student."""
    student, pooling = context.student_structure, _pooling(context.student)
    if params.summary_weight > 0 and student.embedding is None:
        raise invalid_architecture(
            "student",
            f"timm's {student.architecture} has no embedding that can be read; use another architecture, or set "
            "method.summary_weight to 0",
        )
    if params.ladder is not None:
        _check_ladder(params.ladder, student, pooling)
    elif params.patch_weight > 0:
        last_level(student, "student", "agglomerate", fix=_NO_PATCHES)
    wanted = {"class": "token", "mean": "avg"}.get(params.summary, pooling)
    if params.summary_weight > 0 and pooling != wanted:
        raise invalid_param(
            "summary",
            f"the student's backbone outputs its {pooling} pooling, not its {params.summary}: set summary to auto, or "
            f"the student's argument global_pool to {wanted}",
        )
    return pooling == "token"


def _check_ladder(ladder: Sequence[int], student: ModelStructure, pooling: str) -> None:
    if not student.is_vit:
        raise invalid_param(
            "ladder", f"the levels of a ladder have one grid, and {student.architecture} is no ViT; leave it out"
        )
    last = len(student.levels) - 1
    if ladder[-1] != last:
        raise invalid_param(
            "ladder", f"it must end at the student's last level, {last}: later blocks would not be trained"
        )
    if pooling not in {"token", "avg"}:
        raise invalid_param("ladder", f"{student.architecture} pools by {pooling}, which levels cannot; leave it out")


def _check_samples(params: AgglomerateParams, context: MethodContext) -> None:
    """Raise ``InvalidSpec`` if there are too few images for the statistics."""
    if params.normalization == "channel" and params.summary_weight > 0:
        check_batch(context, "agglomerate with normalization channel")
    if params.normalization != "phi_s" or params.patch_weight == 0:
        return
    num_images = min(context.num_samples, params.statistics_batches * context.batch_size)
    for index, structure in enumerate(context.teacher_structures):
        last = last_level(structure, f"teachers/{index}", "agglomerate", fix=_NO_PATCHES)
        needed = last.width // last.tokens + 1
        teacher = teacher_subject(index, len(context.teacher_structures))
        if num_images < needed:
            more = f"raise statistics_batches to {-(-needed // context.batch_size)}"
            fix = more if context.num_samples >= needed else "use more images, or normalization channel or none"
            raise invalid_param(
                "statistics_batches",
                f"phi_s estimates the {last.width} channels of {teacher} from {num_images} images of "
                f"{last.tokens} patches, and needs {needed} images; {fix}",
            )


def _teacher_weights(params: AgglomerateParams, count: int) -> tuple[float, ...]:
    weights = params.teacher_weights or (1.0,) * count
    if len(weights) != count:
        detail = f"{len(weights)} weights are given for {count} teachers; give one for each"
        raise invalid_param("teacher_weights", detail)
    return tuple(weight / sum(weights) for weight in weights)


def _drop_probability(params: AgglomerateParams, context: MethodContext) -> float:
    """Probability of dropping a teacher; a single teacher always stays."""
    if len(context.teachers) == 1:
        return 0.0
    return 0.5 if params.drop_probability is None else params.drop_probability

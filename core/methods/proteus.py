"""Proteus: a small ViT takes over class token, features and masked patches of a foundation ViT, without labels.

Paper: Zhang et al. 2024, arXiv:2407.10366. The student sees each image twice: whole, and with some patch embeddings
replaced by a learned mask token. Three heads (layer norm and linear layer) map its tokens after the final norm to the
teacher's width. ``token``: squared error of the class token; ``features``: of class token and patch tokens together;
``patches``: of the masked patches, which the teacher sees. Heads and mask token are dropped at export; the student has
no classifier.

Deviations: each image is masked with a probability of ``masked_pictures``, drawn from (seed, epoch, sample index),
instead of the first half of a batch; masked images have a constant weight each, so that a batch can be divided. The
second pass sees masked images only. The teacher's tokens can be standardized, by statistics that are estimated before
the first step.

Shapes: B images, N patches, M masked images, D width of the student, T of the teacher.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from core.data.transfer import to_device
from core.data.views import sample_draws
from core.losses import three_levels
from core.methods.base import Batch, Method, MethodContext, StepContext, invalid_architecture, invalid_param
from core.methods.compatibility import check_batch, grid_hint
from core.methods.standardization import ChannelStandardizer, PhiStandardizer, Standardizer, finalize_statistics
from core.models.patch_masking import replace_patches, supports_patch_replacement
from core.models.structure import FeatureLevel, ModelStructure
from core.models.taps import Feature, FeatureRequest, Outputs
from core.spec.methods.proteus import ProteusParams

_STATISTICS_BATCHES = 100  # from which the normalization is estimated, at most one epoch
_STANDARDIZERS: dict[str, type[Standardizer]] = {"channel": ChannelStandardizer, "phi_s": PhiStandardizer}


class Proteus(Method):
    """Terms ``token``, ``features`` and ``patches``; a term of weight 0 is left out."""

    uses_cached_outputs = True

    def __init__(self, params: ProteusParams, context: MethodContext) -> None:
        super().__init__(context)
        self.params = params
        student = _last(context.student_structure, "student")
        teacher = _last(context.teacher_structures[0], "teachers/0")
        if student.grid != teacher.grid:
            raise invalid_architecture(
                "student",
                f"proteus compares patch by patch: the student's patches are on a grid of {student.grid[0]} × "
                f"{student.grid[1]}, the teacher's on {teacher.grid[0]} × {teacher.grid[1]}; "
                f"{grid_hint(context, teacher.grid)}",
            )
        self.num_patches = student.tokens
        self.num_masked = int(params.mask_share * student.tokens)  # rounded down, as in the official code
        if params.patch_weight > 0:
            self.mask_token = nn.Parameter(torch.zeros(_patch_width(context, self.num_masked)))
            self.patch_head = _head(student.width, teacher.width)
        if params.token_weight > 0 or params.feature_weight > 0:
            self.token_head = _head(student.width, teacher.width)
        if params.feature_weight > 0:
            self.feature_head = _head(student.width, teacher.width)
        self.standardizers = nn.ModuleDict()
        if params.normalization != "none":
            check_batch(context, f"proteus with normalization {params.normalization}")
            make = _STANDARDIZERS[params.normalization]
            self.standardizers.update({part: make(teacher.width) for part in ("token", "patches")})
            self.num_statistics_batches = _STATISTICS_BATCHES
        self.seed = context.seed
        self.student_taps = self.teacher_taps = FeatureRequest(last=True)
        self._student: tuple[nn.Module, ...] = ()  # a tuple, so that it is no submodule

    @property
    def reads_teacher_logits(self) -> bool:
        """Never: the teacher's classes are irrelevant."""
        return False

    def prepare_student(self, student: nn.Module) -> None:
        """Keep a reference to the student, whose patch embedding the second pass changes."""
        self._student = (student,)

    def prepare_training(self, teacher_outputs: Iterable[Sequence[Outputs]]) -> None:
        """Estimate the statistics of the teacher's class token and patch tokens."""
        token, patches = (self.standardizers[part] for part in ("token", "patches"))
        assert isinstance(token, Standardizer)
        assert isinstance(patches, Standardizer)
        for (teacher,) in teacher_outputs:
            assert teacher.last is not None
            token.update(_class_token(teacher.last).float())
            patches.update(teacher.last.tokens.float().flatten(0, 1))
        finalize_statistics((token, patches), "the teacher")

    def terms(self, batch: Batch, step: StepContext) -> dict[str, Tensor]:
        """All terms, weighted; labels are not used."""
        (outputs,) = step.teacher_outputs(batch)
        assert outputs.last is not None
        teacher_BT, teacher_BNT = _class_token(outputs.last), outputs.last.tokens
        if self.standardizers:
            teacher_BT, teacher_BNT = (
                self.standardizers["token"](teacher_BT),
                self.standardizers["patches"](teacher_BNT),
            )
        weights = (self.params.token_weight, self.params.feature_weight, self.params.patch_weight)
        token_BT, patches_BNT = self._whole(batch, step, teacher_BNT)
        hidden_BN = self.draw_masks(batch.indices, int(step.info.epoch))
        masked_BNT, share = self._masked(batch, step, hidden_BN, teacher_BNT)
        mask_BN = to_device(hidden_BN, teacher_BNT.device)
        token, features, patches = three_levels(
            token_BT, patches_BNT, masked_BNT, teacher_BT, teacher_BNT, mask_BN, weights=weights
        )
        terms = {"token": token, "features": features, "patches": patches * share}
        return {name: terms[name] for name, weight in zip(terms, weights, strict=True) if weight > 0}

    def draw_masks(self, indices_B: Tensor, epoch: int) -> Tensor:
        """Masked patches of the samples in an epoch, (B, N) bool on the CPU; a row has none or ``num_masked``."""
        if self.params.patch_weight == 0:
            return torch.zeros(len(indices_B), self.num_patches, dtype=torch.bool)
        draws_BK = sample_draws(self.seed, epoch, indices_B, 1 + self.num_patches)
        is_masked_B1 = draws_BK[:, :1] < self.params.masked_pictures
        order_BN = draws_BK[:, 1:].argsort(dim=1, stable=True)
        hidden_BN = torch.zeros_like(order_BN, dtype=torch.bool).scatter_(1, order_BN[:, : self.num_masked], value=True)
        return hidden_BN & is_masked_B1

    def _whole(self, batch: Batch, step: StepContext, teacher_BNT: Tensor) -> tuple[Tensor, Tensor]:
        """Class token (B, T) and patch tokens (B, N, T) of the whole images, behind their heads.

        Zeros for the levels of weight 0, which have no heads.
        """
        params = self.params
        token_BT, patches_BNT = torch.zeros_like(teacher_BNT[:, 0]), torch.zeros_like(teacher_BNT)
        if params.token_weight > 0 or params.feature_weight > 0:
            last = step.student(batch.images).last
            assert last is not None
            token_BT = self.token_head(_class_token(last).float())
            if params.feature_weight > 0:
                patches_BNT = self.feature_head(last.tokens.float())
        return token_BT, patches_BNT

    def _masked(self, batch: Batch, step: StepContext, hidden_BN: Tensor, teacher_BNT: Tensor) -> tuple[Tensor, float]:
        """Patch tokens (B, N, T) of the second pass behind their head, and masked images divided by those expected.

        Images without masked patches are left out of the pass; their tokens are zero.
        """
        masked_BNT = torch.zeros_like(teacher_BNT)
        rows_M = hidden_BN.any(dim=1).nonzero().flatten()
        if self.params.patch_weight == 0:
            return masked_BNT, 0.0
        if not len(rows_M):
            return masked_BNT + 0 * self.mask_token.sum(), 0.0  # has a gradient, for a loss without other terms
        (student,), device = self._student, teacher_BNT.device
        on_device_M = to_device(rows_M, device)
        with replace_patches(student, to_device(hidden_BN[rows_M], device), self.mask_token):
            last = step.student(batch.images[on_device_M]).last
        assert last is not None
        masked_BNT = masked_BNT.index_copy(0, on_device_M, self.patch_head(last.tokens.float()))
        return masked_BNT, len(rows_M) / (len(hidden_BN) * self.params.masked_pictures)


def _head(width: int, teacher_width: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, teacher_width))


def _class_token(last: Feature) -> Tensor:
    assert last.prefix is not None, "checked when the method was built"
    return last.prefix[:, 0]


def _last(structure: ModelStructure, model_field: str) -> FeatureLevel:
    """Return the last features of a ViT with a class token. Raises ``InvalidSpec`` if the network is none."""
    if not (structure.is_vit and structure.has_class_token and structure.num_prefix_tokens and structure.last):
        raise invalid_architecture(
            model_field,
            f"proteus compares class token and patches of ViTs, and {structure.architecture} is no plain ViT with a "
            "class token; use a vit_* or deit_*, or method feature",
        )
    return structure.last


def _patch_width(context: MethodContext, num_masked: int) -> int:
    """Return the width of the student's embedded patches. Raises ``InvalidSpec`` if none can be masked."""
    if num_masked == 0:
        raise invalid_param("mask_share", "it masks no patch of the student; raise it, or set patch_weight to 0")
    if not supports_patch_replacement(context.student.module):
        raise invalid_architecture(
            "student",
            f"proteus masks embedded patches, which {context.student.architecture} does not expose; use a vit_* or "
            "deit_*, or set method.patch_weight to 0",
        )
    return int(context.student.module.embed_dim)  # type: ignore[arg-type]

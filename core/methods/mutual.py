"""Deep mutual learning: two students, each taught by the labels and by the other.

Zhang et al. 2018, arXiv:1706.00384, eq. 6: L_i = CE_i + KL(p_j ‖ p_i), nothing flows back into p_j. Both losses are
minimized in one step by the job's optimizer, where the official code updates one student after the other. The peer
belongs to the method and starts at random. Of the two, the one that is right more often on the held-out part of the
training split is exported; at a draw, the student. ``training.ema`` averages the student alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from core.data.pixels import Pixels
from core.errors import FieldError, InvalidSpec
from core.losses import kd
from core.methods.base import Batch, Method, MethodContext, StepContext
from core.methods.ema_teacher import precision_of
from core.models.build import build_student
from core.models.built import BuiltModel
from core.models.plan import DATASET_ARGUMENTS, plan_student
from core.models.taps import Outputs
from core.spec import StudentSpec
from core.spec.info import InputInfo
from core.spec.methods.mutual import MutualParams, PeerSpec

_LOOK = 128  # images at once


class Mutual(Method):
    """Terms ``label`` and ``distillation`` of the student, ``peer_label`` and ``peer_distillation`` of the other."""

    held_out: ClassVar[float] = 0.1

    def __init__(self, params: MutualParams, context: MethodContext) -> None:
        super().__init__(context)
        self.params = params
        self.built = _peer(params.peer, context)
        self.peer = self.built.module

    def no_weight_decay(self) -> set[str]:
        """The optimizer treats the peer's parameters as it would a student's."""
        own = getattr(self.peer, "no_weight_decay", None)
        return {f"peer.{name}" for name in own()} if own is not None else set()

    def terms(self, batch: Batch, step: StepContext) -> dict[str, Tensor]:
        """Both students' losses."""
        student = step.student(batch.images)
        with precision_of(student.logits):
            peer = Outputs.of(self.peer(self.built.preprocessing(batch.images)))
        asked = self.params
        return {
            "label": self.label_loss(student.logits, batch),
            "distillation": asked.weight * kd(student.logits, peer.logits, temperature=asked.temperature),
            "peer_label": self.label_loss(peer.logits, batch),
            "peer_distillation": asked.weight * kd(peer.logits, student.logits, temperature=asked.temperature),
        }

    def finalize(self, student: BuiltModel, held_out: Pixels | None) -> BuiltModel:
        """The better of the two on the held-out images."""
        assert held_out is not None, "a tenth of the training split is held out for this"
        return self.built if _hits(self.built, held_out) > _hits(student, held_out) else student


def _peer(asked: PeerSpec | None, context: MethodContext) -> BuiltModel:
    """The other student, built for the same images and classes. Raises ``InvalidSpec`` where it cannot be."""
    student = context.student
    arguments: Mapping[str, Any] = student.arguments if asked is None else asked.arguments
    own = {name: value for name, value in arguments.items() if name not in DATASET_ARGUMENTS}
    spec = StudentSpec.model_construct(
        architecture=student.architecture if asked is None else asked.architecture, arguments=own, weights="random"
    )
    size, channels = student.preprocessing.image_size, student.preprocessing.channels
    facts = InputInfo(num_classes=student.num_classes, channels=channels, image_size=size)
    try:
        return build_student(plan_student(spec, facts, image_size=size), drop_path=context.drop_path)
    except InvalidSpec as error:
        found = error.errors or (FieldError("/arguments", error.detail),)
        placed = [FieldError(f"/method/peer{one.pointer}", one.detail) for one in found]
        raise InvalidSpec.for_fields(placed) from error


@torch.no_grad()
def _hits(built: BuiltModel, pixels: Pixels) -> int:
    """How many images a network gets right."""
    built.module.eval()
    device = next(built.module.parameters()).device
    hits = 0
    for start in range(0, len(pixels), _LOOK):
        places_B = torch.arange(start, min(start + _LOOK, len(pixels)))
        images_BCHW = pixels.batch(places_B).to(device).float() / 255
        decisions_B = Outputs.of(built(images_BCHW)).logits.argmax(dim=1).cpu()
        hits += int((decisions_B == pixels.labels[places_B]).sum())
    return hits

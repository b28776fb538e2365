"""Deep mutual learning: two students learn from the labels and from each other.

Paper: Zhang et al. 2018, arXiv:1706.00384, eq. 6: L_i = CE_i + KL(p_j ‖ p_i), without gradient to p_j.

Deviation: both losses are minimized in one step by the job's optimizer, while the official code updates the students
in turn. The peer belongs to the method and starts from random weights. As in the paper, no image is held out and the
student is exported. With ``hold_out`` above 0, the network with the higher accuracy on that part of the training split
is exported; the student if both are equal. ``training.ema`` averages only the student.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from core.data.pixels import Pixels
from core.errors import FieldError, InvalidSpec
from core.losses import kd
from core.methods.base import Batch, Method, MethodContext, StepContext
from core.methods.ema_teacher import precision_of
from core.models.build import build_student
from core.models.built import BuiltModel
from core.models.plan import plan_student
from core.models.taps import Outputs
from core.spec import StudentSpec
from core.spec.info import InputInfo
from core.spec.methods.mutual import MutualParams, PeerSpec
from core.spec.references import DATASET_ARGUMENTS

_EVALUATION_BATCH_SIZE = 128


class Mutual(Method):
    """Terms ``label`` and ``distillation`` of the student, ``peer_label`` and ``peer_distillation`` of the peer."""

    def __init__(self, params: MutualParams, context: MethodContext) -> None:
        super().__init__(context)
        self.params = params
        self.built_peer = _build_peer(params.peer, context)
        self.peer = self.built_peer.module

    def no_weight_decay(self) -> set[str]:
        """Names of the peer's parameters without weight decay, by timm's convention."""
        no_weight_decay = getattr(self.peer, "no_weight_decay", None)
        return {f"peer.{name}" for name in no_weight_decay()} if no_weight_decay is not None else set()

    def terms(self, batch: Batch, step: StepContext) -> dict[str, Tensor]:
        """The weighted terms of both networks."""
        student = step.student(batch.images)
        with precision_of(student.logits):
            peer = Outputs.from_model_output(self.peer(self.built_peer.preprocessing(batch.images)))
        params = self.params
        return {
            "label": self.label_loss(student.logits, batch),
            "distillation": params.weight * kd(student.logits, peer.logits, temperature=params.temperature),
            "peer_label": self.label_loss(peer.logits, batch),
            "peer_distillation": params.weight * kd(peer.logits, student.logits, temperature=params.temperature),
        }

    def export_candidates(self, student: BuiltModel) -> tuple[BuiltModel, ...]:
        """The student, and its peer where images are held out to compare them."""
        return (student, self.built_peer) if self.params.hold_out > 0 else (student,)

    def finalize(self, student: BuiltModel, held_out: Pixels | None) -> BuiltModel:
        """The network with more correct predictions on the held-out images; the student if none are held out."""
        if held_out is None:
            return student
        return self.built_peer if _num_correct(self.built_peer, held_out) > _num_correct(student, held_out) else student


def _build_peer(peer: PeerSpec | None, context: MethodContext) -> BuiltModel:
    """Build the peer for the student's image size and classes. Raises ``InvalidSpec`` if it cannot be built."""
    student = context.student
    architecture = student.architecture if peer is None else peer.architecture
    arguments: Mapping[str, Any] = student.arguments if peer is None else peer.arguments
    own_arguments = {name: value for name, value in arguments.items() if name not in DATASET_ARGUMENTS}
    spec = StudentSpec.model_construct(architecture=architecture, arguments=own_arguments, weights="random")
    size, channels = student.preprocessing.image_size, student.preprocessing.channels
    input_info = InputInfo(num_classes=student.num_classes, channels=channels, image_size=size)
    try:
        return build_student(plan_student(spec, input_info, image_size=size), drop_path=context.drop_path)
    except InvalidSpec as error:
        student_errors = error.errors or (FieldError("/arguments", error.detail),)
        peer_errors = [FieldError(f"/method/peer{field.pointer}", field.detail) for field in student_errors]
        raise InvalidSpec.for_fields(peer_errors) from error


@torch.no_grad()
def _num_correct(built: BuiltModel, pixels: Pixels) -> int:
    """Number of images that a network classifies correctly."""
    built.module.eval()
    device = next(built.module.parameters()).device
    num_correct = 0
    for start in range(0, len(pixels), _EVALUATION_BATCH_SIZE):
        indices_B = torch.arange(start, min(start + _EVALUATION_BATCH_SIZE, len(pixels)))
        images_BCHW = pixels.batch(indices_B).to(device).float() / 255
        predictions_B = Outputs.from_model_output(built(images_BCHW)).logits.argmax(dim=1).cpu()
        num_correct += int((predictions_B == pixels.labels[indices_B]).sum())
    return num_correct

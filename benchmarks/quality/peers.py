"""Losses of other packages in the engine's training: timm's distillation tasks, and torchdistill's box.

The peer computes the loss of each batch with its own code and runs the teacher at every step. Everything else is that
of the other arms: student, initial weights, batches, optimizer, schedule and clipping. So a difference is one of the
losses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from timm.task import FeatureDistillationTask, TokenDistillationTask
from torch import Tensor, nn

from benchmarks.peers import HOW_TO_INSTALL, logit_task, torchdistill_box
from core.errors import SpecCannotRun
from core.evaluate import evaluate_exported
from core.methods import Batch, MethodContext, plan_student_variant
from core.methods.base import Method, StepContext
from core.models.build import build_student
from core.models.built import BuiltModel
from core.models.plan import plan_student
from core.models.structure import structure_of
from core.models.weights import load_folder, save_folder
from core.reporting import STUDENT_TRACK, Reporter, Workspace
from core.seeds import derive_seed
from core.spec import JobSpec
from core.train.context import RunContext, open_run
from core.train.progress import Track
from core.train.time_plan import ProgressRange
from core.train.trainer import Trainer, TrainingSetup

Loss = Callable[[Tensor, Tensor], Tensor]
"""Student inputs (B, C, H, W) and labels (B,) to the loss, a scalar."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer's loss, and the modules that it trains besides the student."""

    loss: Loss
    trained: nn.Module | None = None


class TeacherAtOwnSize(nn.Module):
    """A teacher behind its own preprocessing, for inputs that are normalized for the student.

    The peers give the teacher the student's batch. This teacher may need another size of the image.
    """

    def __init__(self, teacher: BuiltModel, student: BuiltModel) -> None:
        super().__init__()
        self.model = teacher.module.eval().requires_grad_(False)
        self._own, given = teacher.preprocessing, student.preprocessing
        self.num_features = self.model.num_features
        # timm's tasks convert the input by these values: none are needed, because they are the student's.
        self.pretrained_cfg = {"mean": given.mean, "std": given.std}
        self.register_buffer("mean", torch.tensor(given.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(given.std).view(1, -1, 1, 1), persistent=False)

    def forward(self, inputs_BCHW: Tensor) -> Tensor:
        """Return the teacher's logits (B, classes)."""
        logits: Tensor = self.model(self._convert(inputs_BCHW))
        return logits

    def forward_features(self, inputs_BCHW: Tensor) -> Tensor:
        """Return the teacher's last features."""
        features: Tensor = self.model.forward_features(self._convert(inputs_BCHW))
        return features

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:  # noqa: FBT001, FBT002 - as in timm
        """Return the embedding of features, or their logits."""
        output: Tensor = self.model.forward_head(features, pre_logits=pre_logits)
        return output

    def _convert(self, inputs_BCHW: Tensor) -> Tensor:
        return self._own(inputs_BCHW * self.std + self.mean)


class PeerLoss(Method):
    """A peer's loss as a method of the engine."""

    def __init__(self, context: MethodContext, peer: Peer, student: BuiltModel) -> None:
        super().__init__(context)
        self.trained = peer.trained
        self._loss = peer.loss
        self._preprocessing = student.preprocessing

    def terms(self, batch: Batch, step: StepContext) -> dict[str, Tensor]:  # noqa: ARG002 - the peer runs the networks
        """Return the peer's loss."""
        return {"peer": self._loss(self._preprocessing(batch.images), batch.labels)}


def train_peer(name: str, spec: JobSpec, workspace: Workspace, reporter: Reporter) -> dict[str, Any]:
    """Train a student with a peer's loss, or resume it; write it to ``export``, and return its figures.

    Raises:
        SpecCannotRun: The package is not installed.
        Interrupted: On request, after a checkpoint is saved.
    """
    if name.startswith("torchdistill") and find_spec("torchdistill") is None:
        raise SpecCannotRun(f"torchdistill is not installed; {HOW_TO_INSTALL}")
    exported = workspace.root / "export"
    with open_run(spec, workspace, reporter) as context:
        setup = _setup(name, spec, workspace, context)
        track = Track(name=STUDENT_TRACK, metric_prefix="train", progress_range=ProgressRange(0.0, 1.0))
        trainer = Trainer(setup, track=track, reporter=reporter, scratch_dir=workspace.root / "checkpoints")
        trainer.resume(reporter.newest_checkpoint(STUDENT_TRACK))
        trainer.run()
        trainer.train_step.finalize_weights()
        student = setup.student
        save_folder(
            student.module,
            exported,
            architecture=student.architecture,
            arguments=student.arguments,
            preprocessing=student.preprocessing,
            classes=context.stored.classes,
        )
        pixels = context.pixels("test", student.preprocessing.image_size)
        return evaluate_exported(exported, pixels, poll=context.poll).summary()


def _setup(name: str, spec: JobSpec, workspace: Workspace, context: RunContext) -> TrainingSetup:
    """Build the student as the engine does for the spec's method, and the peer's loss in place of the method's."""
    training = spec.training
    teacher = load_folder(workspace.models[spec.teachers[0].weights])
    requested = plan_student(spec.student, context.input_info, image_size=training.image_size)
    plan = plan_student_variant(spec.method, requested, teachers=lambda: [structure_of(teacher)])
    torch.manual_seed(derive_seed(training.seed, "student"))
    student = build_student(plan)
    torch.manual_seed(derive_seed(training.seed, "method"))
    student.module.pretrained_cfg |= {"mean": student.preprocessing.mean, "std": student.preprocessing.std}
    peer = PEERS[name](spec, student, TeacherAtOwnSize(teacher, student))
    return TrainingSetup(
        training=training,
        student=student,
        method=PeerLoss(MethodContext(student=student, num_classes=student.num_classes), peer, student),
        teachers=(),
        loader=context.loader(training, image_size=student.preprocessing.image_size, views=training.views),
        compute=context.compute,
    )


def _timm_logit(spec: JobSpec, student: BuiltModel, teacher: nn.Module) -> Peer:
    """Return ``LogitDistillationTask`` with temperature and weights of the job's `kd`."""
    return Peer(_loss_of(logit_task(spec, student.module, teacher)))


def _timm_feature(_: JobSpec, student: BuiltModel, teacher: nn.Module) -> Peer:
    """Return ``FeatureDistillationTask`` with the weights of the example in its documentation."""
    task = FeatureDistillationTask(
        student.module,
        teacher,
        criterion=nn.CrossEntropyLoss(),
        distill_loss_weight=5.0,
        task_loss_weight=1.0,
        verbose=False,
    )
    return Peer(_loss_of(task), task.trainable_module.projection)


def _timm_token(spec: JobSpec, student: BuiltModel, teacher: nn.Module) -> Peer:
    """Return ``TokenDistillationTask`` with type, temperature and weight of the job's `deit`."""
    method = spec.method.model_dump()
    task = TokenDistillationTask(
        student.module,
        teacher,
        criterion=nn.CrossEntropyLoss(),
        distill_type=method["distillation_type"],
        task_loss_weight=1 - method["alpha"],
        temperature=method["temperature"],
        verbose=False,
    )
    return Peer(_loss_of(task))


def _torchdistill_kd(spec: JobSpec, student: BuiltModel, teacher: nn.Module) -> Peer:
    """Return ``DistillationBox`` with temperature and weights of the job's `kd`, without its optimizer."""
    box = torchdistill_box(spec, student.module, teacher)
    return Peer(lambda inputs, labels: box.forward_process(inputs, targets=labels, supp_dict=None))


def _loss_of(task: nn.Module) -> Loss:
    return lambda inputs, labels: task(inputs, labels)["loss"]


PEERS: dict[str, Callable[[JobSpec, BuiltModel, nn.Module], Peer]] = {
    "timm logit": _timm_logit,
    "timm feature": _timm_feature,
    "timm token": _timm_token,
    "torchdistill kd": _torchdistill_kd,
}

"""Distillation-aware fine-tuning: train a compressed network with the soft labels of the job's teachers.

The method is that of the step's parameters, by default ``kd``: it fits any network with the student's classes, whatever
a step did to its blocks. Teachers are those of the job if their classes are the student's, else the network before the
step. Their outputs come from the teacher cache: a view that the student's training has cached is not computed again.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from core.methods import MethodContext, build_method
from core.models.built import BuiltModel
from core.reporting import compression_track
from core.seeds import derive_seed
from core.spec import JobSpec, TrainingSpec
from core.spec.compression import FineTuningParams
from core.teacher.frozen import FrozenTeacher
from core.teacher.output_cache import CachedOutputs, cached_outputs_for
from core.train.batch_norm import update_batch_norm
from core.train.context import RunContext
from core.train.progress import Track
from core.train.schedule import Schedule
from core.train.time_plan import ProgressRange
from core.train.trainer import CheckpointPolicy, Trainer, TrainingSetup
from core.train.training_set import TrainingSet, labeled_fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuning:
    """Fine-tuning of the networks of one step.

    Args:
        index: Position of the step in ``spec.compression``.
        teachers: The job's teachers, in the order of the spec.
        original: The network before the step, which is the teacher where ``teachers`` cannot be.
        teacher_cache_bytes: Limit of the teacher cache.
        progress_range: Part of the job's progress that this training covers.
        schedule: Schedule of the student's training, which took ``student_step`` steps.
    """

    spec: JobSpec
    context: RunContext
    index: int
    teachers: Sequence[BuiltModel]
    original: BuiltModel
    training_set: TrainingSet
    teacher_cache_bytes: int
    progress_range: ProgressRange
    schedule: Schedule
    student_step: int

    def run(self, student: BuiltModel, params: FineTuningParams) -> BuiltModel:
        """Train ``student`` in place; return it as its method finalizes it, in evaluation mode on the CPU.

        Resumes from the newest checkpoint of an earlier attempt. Does nothing for 0 epochs. After a stop request the
        training ends early, and the network is returned as it is.

        Raises:
            Interrupted: On request, after a checkpoint is saved.
            NonFiniteLoss: The loss is not finite.
        """
        if params.training_epochs == 0:
            return student
        setup = self._setup(student, params)
        reporter, track_name = self.context.reporter, compression_track(self.index)
        track = Track(
            name=track_name,
            metric_prefix=f"compress/{self.index}",
            progress_range=self.progress_range,
            student_steps=self.schedule.total_steps,
            completed_steps=self.student_step,
            completed_epochs=self.schedule.epoch(self.student_step),
            time_plan=self.context.time_plan,
        )
        trainer = Trainer(
            setup,
            track=track,
            reporter=reporter,
            scratch_dir=self.context.root / "checkpoints",
            checkpoint_policy=CheckpointPolicy(every_epochs=self.spec.training.checkpoint_every_epochs),
        )
        trainer.resume(reporter.newest_checkpoint(track_name))
        trainer.run()
        trainer.train_step.finalize_weights()
        update_batch_norm(setup, steps=trainer.step, poll=self.context.poll)
        student.module.cpu().eval()
        setup.method.cpu()
        self._report(setup, trainer.step)
        return setup.method.finalize(student, None)

    def _report(self, setup: TrainingSetup, steps: int) -> None:
        data = {"step": self.index, "steps": steps, "teachers": len(setup.teachers)}
        if isinstance(setup.teacher_outputs, CachedOutputs):
            data |= {"hits": setup.teacher_outputs.stats.hits, "misses": setup.teacher_outputs.stats.misses}
        self.context.reporter.event(
            "compression.fine_tuned", f"Step {self.index}: the network was fine-tuned for {steps} steps.", data=data
        )

    def _setup(self, student: BuiltModel, params: FineTuningParams) -> TrainingSetup:
        training = fine_tuning_block(self.spec.training, params)
        method_params = params.fine_tuning_method(is_labeled=self.context.is_labeled)
        teachers = [] if method_params.info.needs.max_teachers == 0 else self._teachers()
        pixels, _ = self.training_set.training_split(method_params)
        torch.manual_seed(derive_seed(training.seed, f"compress-{self.index}"))
        method_context = MethodContext(
            student=student,
            teachers=teachers,
            num_classes=student.num_classes,
            num_samples=len(pixels),
            labeled_fraction=labeled_fraction(pixels),
            label_smoothing=training.label_smoothing,
            batch_size=training.batch_size,
            seed=training.seed,
        )
        method = build_method(method_params, method_context)
        setup = TrainingSetup(
            training=training,
            student=student,
            method=method,
            teachers=[FrozenTeacher(teacher, self.context.compute, method.teacher_request) for teacher in teachers],
            loader=self.context.loader(
                training, image_size=self.training_set.decode_size, views=training.distinct_views, pixels=pixels
            ),
            compute=self.context.compute,
        )
        outputs = cached_outputs_for(
            setup,
            self.context,
            spec=self.spec.model_copy(update={"training": training}),
            split_id=self.training_set.split_id,
            max_bytes=self.teacher_cache_bytes,
        )
        return replace(setup, teacher_outputs=outputs)

    def _teachers(self) -> list[BuiltModel]:
        """Return the job's teachers if all have the student's classes, else a copy of the network before the step."""
        num_classes = self.original.num_classes
        if self.teachers and all(teacher.num_classes == num_classes for teacher in self.teachers):
            return list(self.teachers)
        return [replace(self.original, module=copy.deepcopy(self.original.module))]


def fine_tuning_block(training: TrainingSpec, params: FineTuningParams) -> TrainingSpec:
    """Return the student's training block with the epochs and rates of a fine-tuning; seed and images are the same."""
    return TrainingSpec.model_validate(
        training.model_dump(mode="json")
        | {
            "epochs": params.training_epochs,
            "learning_rate": params.learning_rate,
            "min_learning_rate": min(training.min_learning_rate, params.learning_rate),
            "warmup_epochs": 1.0,
            "optimizer": "adamw",
            "ema": None,
            "balance": {"rule": "none"},
            "keep_weights_every_epochs": None,
        }
    )

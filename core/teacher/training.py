"""Teachers that a job trains, from random or given weights: reused by their fingerprint, or trained and saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from core.data.mixing import Mixing
from core.methods import MethodContext, build_method
from core.models.build import build_student, stored_models
from core.models.built import BuiltModel
from core.models.plan import plan_teacher
from core.models.weights import load_folder, save_model
from core.seeds import derive_seed
from core.spec import TeacherSpec, TeacherTrainingSpec
from core.spec.methods.scratch import ScratchParams
from core.train.batch_norm import update_batch_norm
from core.train.context import RunContext
from core.train.fingerprint import training_fingerprint
from core.train.precision import ComputeConfig, choose_compute
from core.train.progress import Track
from core.train.time_plan import ProgressRange
from core.train.trainer import Trainer, TrainingSetup

_TEACHER_METHOD = ScratchParams(name="scratch")


class TrainedTeacher:
    """One teacher that is trained on the job's dataset.

    Its weights depend only on what its fingerprint covers, not on the rest of the job. ``folder`` is None until the
    teacher is found or trained. ``name`` is its name in texts. ``folders`` has the folder of each stored model that the
    job names.
    """

    def __init__(
        self,
        spec: TeacherSpec,
        index: int,
        *,
        name: str,
        image_size: int,
        context: RunContext,
        folders: Mapping[str, Path],
    ) -> None:
        assert spec.training is not None, "a resolved spec has the training of a teacher"
        self.spec = spec
        self.index = index
        self.name = name
        self.training: TeacherTrainingSpec = spec.training
        self.image_size = spec.training.image_size or image_size
        self.compute = choose_compute(context.compute.device, spec.training.precision)
        self.fingerprint = teacher_fingerprint(
            spec,
            image_size=self.image_size,
            dataset_fingerprint=context.stored.fingerprint,
            threads=context.threads,
            compute=self.compute,
        )
        self._context = context
        self._folders = folders
        self.folder: Path | None = None

    def find(self) -> BuiltModel | None:
        """Load the teacher that an earlier job with the same fingerprint saved; None if there is none."""
        self.folder = self._context.reporter.find_teacher(self.fingerprint)
        return None if self.folder is None else load_folder(self.folder)

    def build_setup(self) -> TrainingSetup:
        """Build its training from random or given weights, with the labels as the only target."""
        models = stored_models(self.spec, self._folders)
        plan = plan_teacher(self.spec, self._context.input_info, image_size=self.image_size, models=models)
        torch.manual_seed(derive_seed(self.training.seed, "student"))
        built = build_student(plan, drop_path=self.training.drop_path, folders=self._folders)
        method_context = MethodContext(
            student=built, num_classes=built.num_classes, label_smoothing=self.training.label_smoothing
        )
        return TrainingSetup(
            training=self.training,
            student=built,
            method=build_method(_TEACHER_METHOD, method_context),
            teachers=(),
            loader=self._context.loader(self.training, image_size=self.image_size),
            compute=self.compute,
        )

    def train(self, setup: TrainingSetup, *, progress_range: ProgressRange, student_steps: int) -> BuiltModel:
        """Train the teacher, save it for later jobs, and return it as loaded from its folder.

        This job uses a teacher that was stopped early, but does not save it: its fingerprint names the full training.
        """
        reporter = self._context.reporter
        track = Track(
            name=f"teacher-{self.index}",
            metric_prefix=f"teacher/{self.index}",
            progress_range=progress_range,
            student_steps=student_steps,
            time_plan=self._context.time_plan,
        )
        trainer = Trainer(setup, track=track, reporter=reporter, scratch_dir=self._context.root / "checkpoints")
        trainer.resume(reporter.newest_checkpoint(track.name))
        is_complete = trainer.run()
        updated = update_batch_norm(setup, steps=trainer.step, poll=self._context.poll)
        if updated is not None:
            data = {"teacher": self.index, **updated.to_json()}
            reporter.event("teacher.batch_norm_updated", f"{self.name.capitalize()}: {updated.message}", data=data)
        self.folder = folder = self._save(setup.student)
        teacher = load_folder(folder)
        if is_complete:
            reporter.save_teacher(self.fingerprint, folder)
            reporter.event(
                "teacher.trained",
                f"{self.name.capitalize()} ({self.spec.architecture_name}) trained for {trainer.step} steps.",
                data={"teacher": self.index, "recipe": self.fingerprint, "steps": trainer.step},
            )
        return teacher

    def _save(self, built: BuiltModel) -> Path:
        folder = self._context.root / "teachers" / str(self.index)
        save_model(replace(built, classes=self._context.stored.classes), folder)
        return folder


_FORMAT = 2  # incremented when a change of the training changes the weights of equal fields


def teacher_fingerprint(
    teacher: TeacherSpec, *, image_size: int, dataset_fingerprint: str, threads: int, compute: ComputeConfig
) -> str:
    """Return a SHA-256 over everything that the weights of a teacher trained in a job depend on.

    These are architecture, arguments, training block, given weights and the dataset's content; and, as the last bits
    depend on them, threads, device type, precision and library versions.
    """
    assert teacher.training is not None, "a resolved spec has the training of a teacher"
    fields = {
        "format": _FORMAT,
        "architecture": teacher.architecture,
        "arguments": teacher.arguments,
        "training": _training_fields(teacher.training, image_size),
        "dataset": dataset_fingerprint,
    }
    if teacher.is_fine_tuned:
        fields["weights"] = teacher.weights  # a stored model never changes; a tag is part of the architecture
    return training_fingerprint(fields, threads=threads, compute=compute)


def _training_fields(training: TeacherTrainingSpec, image_size: int) -> dict[str, Any]:
    """Return the training block with its effective image size; without the mixing fields where nothing is mixed."""
    fields = training.model_copy(update={"image_size": image_size}).model_dump(mode="json")
    if Mixing.from_training(training) is None:
        for name in ("mixup", "cutmix", "mix_probability"):
            del fields[name]
    return fields

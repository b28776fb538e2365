"""Teachers with ``weights: train``: found again by their recipe, or trained in the job and kept."""

from __future__ import annotations

from pathlib import Path

import torch

from core.methods import Setting, build_method
from core.models.build import build_student
from core.models.built import BuiltModel
from core.models.weights import load_folder, save_folder
from core.seeds import derive_seed
from core.spec import StudentSpec, TeacherSpec, TeacherTrainingSpec
from core.spec.methods.scratch import ScratchParams
from core.teacher.recipe import recipe_digest
from core.train.context import RunContext
from core.train.loop import Task, Trainer
from core.train.precision import choose_arithmetic
from core.train.record import Span, Track

_LABELS = ScratchParams(name="scratch")


class TrainedTeacher:
    """One teacher that the job's own data teaches. It depends on its recipe alone, not on the job around it."""

    def __init__(self, spec: TeacherSpec, index: int, *, image_size: int, context: RunContext) -> None:
        assert spec.training is not None, "the resolved spec says how a teacher is trained"
        self.spec = spec
        self.index = index
        self.training: TeacherTrainingSpec = spec.training
        self.image_size = spec.training.image_size or image_size
        self.arithmetic = choose_arithmetic(context.arithmetic.device, spec.training.precision)
        self.recipe = recipe_digest(
            spec,
            image_size=self.image_size,
            fingerprint=context.stored.fingerprint,
            threads=context.threads,
            arithmetic=self.arithmetic,
        )
        self._context = context
        self.folder: Path | None = None  # where the teacher is, once it is there

    def find(self) -> BuiltModel | None:
        """The teacher as an earlier job with the same recipe left it."""
        self.folder = self._context.reporter.find_teacher(self.recipe)
        return None if self.folder is None else load_folder(self.folder)

    def task(self) -> Task:
        """Its training from random weights: that of a student of the labels."""
        torch.manual_seed(derive_seed(self.training.seed, "student"))
        built = build_student(
            StudentSpec(architecture=self.spec.architecture, arguments=self.spec.arguments),
            facts=self._context.facts,
            image_size=self.image_size,
            drop_path=self.training.drop_path,
            models={},
        )
        setting = Setting(student=built, num_classes=built.num_classes, label_smoothing=self.training.label_smoothing)
        return Task(
            training=self.training,
            student=built,
            method=build_method(_LABELS, setting),
            teachers=(),
            feed=self._context.feed(self.training, image_size=self.image_size),
            arithmetic=self.arithmetic,
        )

    def train(self, task: Task, *, span: Span, student_steps: int) -> BuiltModel:
        """Train, keep the teacher for later jobs, and return it as they will find it.

        A teacher that was stopped early is used by this job and not kept: it is not what its recipe says.
        """
        reporter = self._context.reporter
        track = Track(
            name=f"teacher-{self.index}", series=f"teacher/{self.index}", span=span, student_steps=student_steps
        )
        trainer = Trainer(task, track=track, reporter=reporter, scratch=self._context.root / "checkpoints")
        trainer.resume(reporter.newest_checkpoint(track.name))
        finished = trainer.run()
        self.folder = folder = self._save(task.student)
        teacher = load_folder(folder)
        if finished:
            reporter.keep_teacher(self.recipe, folder)
            reporter.event(
                "teacher.trained",
                f"the teacher {self.spec.architecture} was trained for {trainer.step} steps and is kept for later jobs",
                data={"teacher": self.index, "recipe": self.recipe, "steps": trainer.step},
            )
        return teacher

    def _save(self, built: BuiltModel) -> Path:
        folder = self._context.root / "teachers" / str(self.index)
        save_folder(
            built.module,
            folder,
            architecture=built.architecture,
            arguments=built.arguments,
            preprocessing=built.preprocessing,
            classes=self._context.stored.classes,
        )
        return folder

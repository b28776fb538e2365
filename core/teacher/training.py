"""Teachers with ``weights: train``: found again by their recipe, or trained in the job and kept."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import timm
import torch

from core.data.mixing import Mixing
from core.methods import MethodContext, build_method
from core.models.build import build_student
from core.models.built import BuiltModel
from core.models.weights import load_folder, save_folder
from core.seeds import derive_seed
from core.spec import StudentSpec, TeacherSpec, TeacherTrainingSpec
from core.spec.methods.scratch import ScratchParams
from core.train.context import RunContext
from core.train.precision import ComputeConfig, choose_arithmetic
from core.train.progress import ProgressRange, Track
from core.train.trainer import Trainer, TrainingSetup

_LABELS = ScratchParams(name="scratch")


class TrainedTeacher:
    """One teacher that the job's own data teaches. It depends on its recipe alone, not on the job around it."""

    def __init__(self, spec: TeacherSpec, index: int, *, image_size: int, context: RunContext) -> None:
        assert spec.training is not None, "the resolved spec says how a teacher is trained"
        self.spec = spec
        self.index = index
        self.training: TeacherTrainingSpec = spec.training
        self.image_size = spec.training.image_size or image_size
        self.arithmetic = choose_arithmetic(context.compute.device, spec.training.precision)
        self.fingerprint = recipe_digest(
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
        self.folder = self._context.reporter.find_teacher(self.fingerprint)
        return None if self.folder is None else load_folder(self.folder)

    def task(self) -> TrainingSetup:
        """Its training from random weights: that of a student of the labels."""
        torch.manual_seed(derive_seed(self.training.seed, "student"))
        built = build_student(
            StudentSpec(architecture=self.spec.architecture, arguments=self.spec.arguments),
            facts=self._context.facts,
            image_size=self.image_size,
            drop_path=self.training.drop_path,
            models={},
        )
        setting = MethodContext(
            student=built, num_classes=built.num_classes, label_smoothing=self.training.label_smoothing
        )
        return TrainingSetup(
            training=self.training,
            student=built,
            method=build_method(_LABELS, setting),
            teachers=(),
            loader=self._context.loader(self.training, image_size=self.image_size),
            compute=self.arithmetic,
        )

    def train(self, task: TrainingSetup, *, span: ProgressRange, student_steps: int) -> BuiltModel:
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
            reporter.keep_teacher(self.fingerprint, folder)
            reporter.event(
                "teacher.trained",
                f"the teacher {self.spec.architecture} was trained for {trainer.step} steps and is kept for later jobs",
                data={"teacher": self.index, "recipe": self.fingerprint, "steps": trainer.step},
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


_FORMAT = 1  # raised when training changes so that the same recipe gives another teacher


def recipe_digest(
    teacher: TeacherSpec, *, image_size: int, fingerprint: str, threads: int, arithmetic: ComputeConfig
) -> str:
    """A sha256 over everything that the weights of a teacher trained in a job depend on.

    That is architecture, arguments, training block, the dataset's content, and, as the bits depend on
    them, threads, kind of device, precision and library versions.
    """
    assert teacher.training is not None, "the resolved spec says how a teacher is trained"
    recipe = {
        "format": _FORMAT,
        "architecture": teacher.architecture,
        "arguments": teacher.arguments,
        "training": _training(teacher.training, image_size),
        "dataset": fingerprint,
        "threads": threads,
        "device": arithmetic.device.type,
        "precision": arithmetic.precision,
        "torch": str(torch.__version__),
        "timm": timm.__version__,
    }
    return hashlib.sha256(json.dumps(recipe, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _training(training: TeacherTrainingSpec, image_size: int) -> dict[str, Any]:
    """The training block as it counts: without the words on mixing where nothing is mixed."""
    block = training.model_copy(update={"image_size": image_size}).model_dump(mode="json")
    if Mixing.of(training) is None:
        for name in ("mixup", "cutmix", "mix_probability"):
            del block[name]
    return block

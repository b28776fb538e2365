"""A job from its spec to its files: prepare, teacher, distill, evaluate, export.

The engine's one entry. It knows nothing of HTTP, Celery or a database: the caller passes a workspace to
read and write in, and a reporter that is told everything and asked what to do. Every stage can be
entered again by a later attempt, and the student's bits do not depend on how often that happens.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from core.data.pixels import Pixels
from core.errors import SpecCannotRun
from core.evaluate import ModelMetrics, agreement, evaluate_exported, measure_model
from core.export import export_student
from core.methods import MethodContext, build_method, student_form
from core.models.build import build_student, build_teacher
from core.models.built import BuiltModel
from core.models.structure import structure_of
from core.models.student_variants import StudentVariant
from core.models.weights import save_folder
from core.reporting import Progress, Reporter, RunResult, Stage, Workspace
from core.seeds import derive_seed
from core.spec import JobSpec, TeacherSpec
from core.teacher.evaluation_cache import Evaluation, EvaluationCache
from core.teacher.frozen import FrozenTeacher
from core.teacher.output_cache import CachedOutputs, CacheStats, cached_outputs_for
from core.teacher.training import TrainedTeacher
from core.train.context import RunContext, open_run, threads_each
from core.train.data_parallel import shard_setup
from core.train.preflight import PreflightResult, preflight, preflight_once
from core.train.progress import ProgressRange, Track, plan_spans
from core.train.rank_launcher import RankConfig, launch_ranks
from core.train.schedule import Schedule
from core.train.trainer import CheckpointPolicy, Trainer, TrainingSetup
from core.train.training_set import TrainingSet, planned_schedule

_PARITY_PICTURES = 64
_STUDENT = "distill"  # the student's track
_PREPARED, _TRAINED, _EVALUATED = 0.01, 0.95, 0.97  # fractions of a job that are done by then


def run(spec: JobSpec, workspace: Workspace, reporter: Reporter) -> RunResult:
    """Run a resolved spec to its end.

    Raises:
        Interrupted: The reporter asked to pause, cancel or drain; a checkpoint is saved.
        RunError: The run cannot go on; its ``code`` says why.
    """
    with open_run(spec, workspace, reporter) as context:
        return _Pipeline(spec, workspace, context).run()


def build_student_setup(spec: JobSpec, workspace: Workspace, context: RunContext) -> TrainingSetup:
    """The student's training as every process of it builds it, for a reporter that finds all teachers."""
    pipeline = _Pipeline(spec, workspace, context)
    prepared = pipeline.prepare()
    assert not prepared.pending_trainings, "whoever trains them does so before"
    task, _ = pipeline.taught(prepared)
    return task


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What the first stage leaves: the student's task, still without teachers, and the teachers by index.

    ``lessons`` are the trainings of the teachers that are not there yet, ``pool`` is the dataset that the
    method reads beside.
    """

    setup: TrainingSetup
    teachers: dict[int, BuiltModel]
    pending_trainings: dict[int, TrainingSetup]
    unlabeled_pool: Pixels | None
    checkpoint: Path | None


@dataclass(frozen=True, slots=True)
class _Evaluated:
    """What was measured on the test split. ``folder`` holds the student's files, as they are handed out."""

    folder: Path
    student: ModelMetrics
    teachers: tuple[Evaluation, ...]

    @property
    def agreement(self) -> float | None:
        """How often student and teacher decide alike, the mean over several teachers. None: without one, or labels."""
        known = [teacher.measured.accuracy for teacher in self.teachers]
        judged = [accuracy for accuracy in known if accuracy is not None]
        mine = self.student.accuracy
        if mine is None or not judged:
            return None
        return sum(agreement(mine.predictions, theirs.predictions) for theirs in judged) / len(judged)

    def result(self) -> dict[str, Any]:
        """The contract's job result, without the model's id."""
        return {
            "student": self.student.figures(),
            "teachers": [teacher.measured.figures() for teacher in self.teachers],
            "compressed": [],
            "agreement": self.agreement,
        }


class _Pipeline:
    """One attempt of one job."""

    def __init__(self, spec: JobSpec, workspace: Workspace, context: RunContext) -> None:
        assert spec.training.image_size is not None, "a resolved spec says how large pictures are"
        self.spec = spec
        self.context = context
        self.reporter = context.reporter
        self.image_size: int = spec.training.image_size
        self.workspace = workspace
        self.headless = spec.method.about.needs.headless
        self.facts = replace(context.facts, num_classes=None) if self.headless else context.facts
        self.gathering = TrainingSet(spec, context, workspace.datasets)
        self.seconds: dict[str, float] = {}
        self.spans = plan_spans(spec, _STUDENT, ProgressRange(_PREPARED, _TRAINED - _PREPARED))
        self.tally = CacheStats()
        self.evaluations = EvaluationCache.of_job(context, self.image_size, headless=self.headless)
        self.trained_teachers = {
            index: TrainedTeacher(teacher, index, image_size=self.image_size, context=context)
            for index, teacher in enumerate(spec.teachers)
            if teacher.weights == "train"
        }

    def run(self) -> RunResult:
        """The stages in order."""
        with self._stage(Stage.PREPARE):
            prepared = self.prepare()
            if prepared.checkpoint is None:
                self._probe(prepared)
        if prepared.pending_trainings:
            with self._stage(Stage.TEACHER):
                self._train_teachers(prepared)
        with self._stage(Stage.DISTILL):
            step = self._distill(prepared)
            student = self._finished(prepared.setup)
        schedule = planned_schedule(prepared.setup)
        with self._stage(Stage.EVALUATE):
            evaluated = self._evaluate(prepared, student)
            self._progress(_EVALUATED, step, schedule)
        with self._stage(Stage.EXPORT):
            artifacts = self._export(evaluated)
            self._progress(1.0, step, schedule)
        return RunResult(evaluated.result(), artifacts)

    @contextmanager
    def _stage(self, stage: Stage) -> Iterator[None]:
        self.reporter.stage_started(stage)
        self.context.poll()
        began = time.monotonic()
        yield
        self.seconds[stage.value] = round(time.monotonic() - began, 3)
        self.reporter.stage_finished(stage)

    # --- prepare ------------------------------------------------------------------------------------

    def prepare(self) -> _Prepared:
        """Build all networks; teachers that have to learn first are left as lessons."""
        if self.context.stored.num_classes is None and self.spec.method.about.needs.labels:
            raise SpecCannotRun(f"{self.spec.method.name} learns from labels, and this dataset has none")
        teachers: dict[int, BuiltModel] = {}
        lessons: dict[int, TrainingSetup] = {}
        for index, teacher in enumerate(self.spec.teachers):
            built = self._teacher(index, teacher)
            if built is None:
                lessons[index] = self.trained_teachers[index].task()
            else:
                teachers[index] = built
        networks = [teachers[i] if i in teachers else lessons[i].student for i in range(len(self.spec.teachers))]
        student = self._student(networks)
        pool = self.gathering.unlabeled_pool()
        task = self._task(student, networks, pool)
        return _Prepared(task, teachers, lessons, pool, self.reporter.newest_checkpoint(_STUDENT))

    def _teacher(self, index: int, spec: TeacherSpec) -> BuiltModel | None:
        """A teacher that is there already: given, or found by its recipe."""
        if index in self.trained_teachers:
            found = self.trained_teachers[index].find()
            if found is not None:
                self.reporter.event(
                    "teacher.reused",
                    f"the teacher {spec.architecture} was trained by an earlier job with the same recipe",
                    data={"teacher": index, "recipe": self.trained_teachers[index].fingerprint},
                )
            return found
        torch.manual_seed(derive_seed(self.spec.training.seed, f"teacher-{index}"))
        return build_teacher(spec, facts=self.facts, image_size=self.image_size, models=self.workspace.models)

    def _student(self, teachers: list[BuiltModel]) -> BuiltModel:
        training = self.spec.training

        def form(architecture: str, arguments: Mapping[str, Any]) -> StudentVariant | None:
            return student_form(
                self.spec.method,
                architecture,
                arguments,
                image_size=self.image_size,
                teachers=lambda: [structure_of(teacher) for teacher in teachers],
            )

        torch.manual_seed(derive_seed(training.seed, "student"))
        return build_student(
            self.spec.student,
            variant_for=form,
            facts=self.facts,
            image_size=self.image_size,
            drop_path=training.drop_path,
            models=self.workspace.models,
        )

    def _task(self, student: BuiltModel, networks: list[BuiltModel], pool: Pixels | None) -> TrainingSetup:
        """The student's training; where the method gathers its pictures, all of the pool stand in for them."""
        training = self.spec.training
        torch.manual_seed(derive_seed(training.seed, "method"))
        pixels, _ = self.gathering.training_split()
        setting = MethodContext(
            student=student,
            teachers=networks,
            num_classes=self.context.stored.num_classes,
            num_samples=len(pixels),
            num_pool=None if pool is None else len(pool),
            student_has_weights=self.spec.student.weights != "random",
            label_smoothing=training.label_smoothing,
            drop_path=training.drop_path,
            batch_size=training.batch_size,
            seed=training.seed,
        )
        return TrainingSetup(
            training=training,
            student=student,
            method=build_method(self.spec.method, setting),
            teachers=(),
            loader=self.context.loader(
                training, image_size=self.image_size, views=training.views, pixels=pool or pixels
            ),
            compute=self.context.compute,
            ema=training.ema,
        )

    def _probe(self, prepared: _Prepared) -> None:
        """Try one step of every training that is to come, unless such a job was tried before; teachers are copied."""
        self.context.poll()
        probed = preflight_once(
            self.spec, self.context, lambda: self._probed(prepared), anew=bool(prepared.pending_trainings)
        )
        for lesson in prepared.pending_trainings.values():
            self.context.poll()
            preflight(lesson, self.context.root)
        seconds, about = probed.step_seconds, probed.details(self.context)
        self.reporter.event("preflight.passed", f"a training step takes about {1000 * seconds:.1f} ms", data=about)

    def _probed(self, prepared: _Prepared) -> PreflightResult:
        networks = prepared.teachers | {index: lesson.student for index, lesson in prepared.pending_trainings.items()}
        copies = [replace(networks[index], module=copy.deepcopy(networks[index].module)) for index in sorted(networks)]
        frozen, feed = self._frozen(copies, prepared.setup), prepared.setup.loader.part(0, self.spec.resources.devices)
        return preflight(replace(prepared.setup, teachers=frozen, loader=feed), self.context.root)

    def _frozen(self, teachers: Iterable[BuiltModel], task: TrainingSetup) -> list[FrozenTeacher]:
        """Teachers that give what the method wants of them."""
        return [FrozenTeacher(teacher, self.context.compute, task.method.teacher_request) for teacher in teachers]

    # --- training -----------------------------------------------------------------------------------

    def _train_teachers(self, prepared: _Prepared) -> None:
        steps = planned_schedule(prepared.setup).total_steps
        for index, lesson in prepared.pending_trainings.items():
            learner = self.trained_teachers[index]
            prepared.teachers[index] = learner.train(lesson, span=self.spans[f"teacher-{index}"], student_steps=steps)
            self.context.poll()

    def taught(self, prepared: _Prepared) -> tuple[TrainingSetup, CachedOutputs | None]:
        """The student's training, its teachers being there, and where they are asked ahead of it."""
        frozen = self._frozen([prepared.teachers[i] for i in sorted(prepared.teachers)], prepared.setup)
        task = self.gathering.gathered(replace(prepared.setup, teachers=frozen), prepared.unlabeled_pool)
        answers = cached_outputs_for(
            task,
            replace(self.context, threads=threads_each(self.spec)),
            spec=self.spec,
            pictures=f"{self.context.stored.fingerprint}-{self.image_size}-train",
            max_bytes=self.workspace.teacher_cache_bytes,
        )
        return replace(task, teacher_outputs=answers), answers

    def _distill(self, prepared: _Prepared) -> int:
        """Train the student and return the number of steps it took."""
        training, context = self.spec.training, self.context
        task, answers = self.taught(prepared)
        watch = (
            None if self.headless else context.validation_callback("eval/top1", training, image_size=self.image_size)
        )
        found = {one.fingerprint: one.folder for one in self.trained_teachers.values() if one.folder is not None}
        orders = RankConfig.of(self.spec, self.workspace, teachers=found, checkpoint=prepared.checkpoint)
        with launch_ranks(orders, spec=self.spec, device=context.compute.device, poll=context.poll) as ranks:
            trainer = Trainer(
                shard_setup(task, ranks),
                track=Track(name=_STUDENT, series="train", span=self.spans[_STUDENT]),
                reporter=self.reporter,
                scratch=context.root / "checkpoints",
                saving=CheckpointPolicy.of(training),
                watch=watch,
                ranks=ranks,
            )
            trainer.resume(prepared.checkpoint)
            if trainer.step == 0 and not self.headless:
                self.evaluations.look_at(task.teachers, context, self.image_size)
            trainer.run()
        trainer.stepper.finalize_weights()
        if answers is not None:
            self.tally = answers.finish()
        return trainer.step

    def _finished(self, task: TrainingSetup) -> BuiltModel:
        """The model that the method makes of the trained student."""
        task.student.module.cpu()
        task.method.cpu()
        _, held_out = self.gathering.training_split()
        return task.method.finalize(task.student, held_out)

    # --- results ------------------------------------------------------------------------------------

    def _evaluate(self, prepared: _Prepared, student: BuiltModel) -> _Evaluated:
        """Write the student's files, and measure the file that is handed out."""
        folder = self.context.root / "export"
        save_folder(
            student.module,
            folder,
            architecture=student.architecture,
            arguments=student.arguments,
            preprocessing=student.preprocessing,
            classes=None if self.headless else self.context.stored.classes,
        )
        pixels = self.context.pixels("test", self.image_size)
        judge = self.context.embedding_evaluator(self.image_size) if self.headless else None
        how: dict[str, Any] = {"device": self.context.compute.device, "poll": self.context.poll, "judge": judge}
        return _Evaluated(
            folder,
            evaluate_exported(folder, pixels, **how),
            tuple(
                self.evaluations.of(prepared.teachers[index], lambda teacher: measure_model(teacher, pixels, **how))
                for index in sorted(prepared.teachers)
            ),
        )

    def _export(self, evaluated: _Evaluated) -> dict[str, Path]:
        """Complete the student's folder with everything else that is handed out."""
        stored = self.context.stored
        dataset = {
            "id": self.spec.dataset,
            "name": stored.name,
            "fingerprint": stored.fingerprint,
            "num_train": len(stored.split("train")),
            "num_test": len(stored.split("test")),
            "num_classes": stored.num_classes,
            "channels": stored.channels,
        }
        details = {
            "student": evaluated.student.details(stored.classes),
            "teachers": [teacher.details(stored.classes) for teacher in evaluated.teachers],
            "teacher_cache": self.tally.figures(),
        }
        return export_student(
            evaluated.folder,
            spec=self.spec,
            dataset=dataset,
            result=evaluated.result(),
            details=details,
            stages=self.seconds,
            samples_NCHW=self.context.pixels("train", self.image_size).images[:_PARITY_PICTURES],
            poll=self.context.poll,
        )

    def _progress(self, fraction: float, step: int, schedule: Schedule) -> None:
        """Progress after the training."""
        self.reporter.progress(
            Progress(fraction=fraction, step=step, total_steps=schedule.total_steps, epoch=schedule.epoch(step))
        )

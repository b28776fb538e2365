"""Run a job from its spec to its files: prepare, teacher, distill, compress, evaluate, export.

This is the engine's only entry point. It is independent of HTTP, Celery and the database: the caller passes a workspace
of folders, and a reporter that receives events and returns control requests. A later attempt can re-enter any stage.
The student's bits do not depend on the number of attempts.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from core.compress import Compression, MeasuredStep, StepOutcome, export_steps, measure_steps
from core.data.pixels import Pixels
from core.errors import SpecCannotRun
from core.export import Exported, export_student
from core.models.build import all_stored_models, build_teacher, stored_models
from core.models.built import BuiltModel
from core.models.plan import model_inputs, plan_teacher
from core.models.weights import save_model
from core.reporting import (
    BASELINE_TRACK,
    STUDENT_TRACK,
    Progress,
    Reporter,
    RunResult,
    Stage,
    Workspace,
    teacher_track,
)
from core.seeds import derive_seed
from core.spec import ExportOptions, JobSpec, TeacherSpec
from core.teacher.evaluation_cache import EvaluationCache
from core.teacher.frozen import FrozenTeacher
from core.teacher.job_evaluation import JobEvaluation
from core.teacher.job_evaluator import JobEvaluator
from core.teacher.output_cache import CachedOutputs, CacheStats, cached_outputs_for
from core.teacher.teacher_checks import TeacherChecks
from core.teacher.training import TrainedTeacher
from core.train.baseline import NOT_REQUESTED, Baseline, BaselineTraining, save_as_baseline
from core.train.batch_norm import BatchNormUpdate, update_batch_norm
from core.train.context import RunContext, open_run, threads_per_rank
from core.train.data_parallel import shard_setup
from core.train.export_preflight import preflight_formats
from core.train.preflight import PreflightResult, cached_preflight, preflight
from core.train.progress import ProgressRange, Track, plan_ranges
from core.train.rank_launcher import RankConfig, launch_ranks
from core.train.schedule import Schedule
from core.train.statistics import estimate_statistics, log_method_metrics
from core.train.student_setup import build_job_student, student_training_setup
from core.train.trainer import CheckpointPolicy, Trainer, TrainingSetup
from core.train.training_set import TrainingSet, planned_schedule

_PREPARED, _TRAINED, _EVALUATED = 0.01, 0.95, 0.97  # a job's progress after these stages


def run(spec: JobSpec, workspace: Workspace, reporter: Reporter) -> RunResult:
    """Run a resolved spec to its end.

    Raises:
        Interrupted: The reporter requested a pause, cancel or drain; a checkpoint is saved.
        RunError: The run failed; its ``code`` is the reason.
    """
    with open_run(spec, workspace, reporter) as context:
        return _Pipeline(spec, workspace, context).run()


def build_student_setup(spec: JobSpec, workspace: Workspace, context: RunContext) -> TrainingSetup:
    """Build the student's training setup on a rank whose reporter finds all trained teachers."""
    pipeline = _Pipeline(spec, workspace, context)
    prepared = pipeline.prepare()
    assert not prepared.pending_trainings, "rank 0 trains the teachers before it starts other ranks"
    setup, _ = pipeline.add_teachers(prepared)
    return setup


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Result of the prepare stage: the student's setup, still without teachers, and the teachers by index.

    ``pending_trainings`` are the setups of the teachers that still have to be trained. ``unlabeled_pool`` is the
    additional dataset of the method.
    """

    setup: TrainingSetup
    training_set: TrainingSet
    teachers: dict[int, BuiltModel]
    pending_trainings: dict[int, TrainingSetup]
    unlabeled_pool: Pixels | None
    checkpoint: Path | None


class _Pipeline:
    """One attempt of one job."""

    def __init__(self, spec: JobSpec, workspace: Workspace, context: RunContext) -> None:
        assert spec.training.image_size is not None, "a resolved spec has an image size"
        self.spec = spec
        self.context = context
        self.reporter = context.reporter
        self.image_size: int = spec.training.image_size
        self.workspace = workspace
        self.headless = spec.method.info.needs.headless
        self.has_accuracy = context.is_labeled and not self.headless
        self.stage_seconds: dict[str, float] = {}
        self.failed_formats: dict[ExportOptions, str] = {}  # reason by format, known before the training
        self.progress_ranges = plan_ranges(spec, ProgressRange(_PREPARED, _TRAINED - _PREPARED))
        self.cache_stats = CacheStats()
        self.batch_norm_update: BatchNormUpdate | None = None
        self.loss_ratio: float | None = None
        self.is_complete = False  # the student took all steps
        self.method_metrics: dict[str, float] = {}  # on the test split
        self.compressed: tuple[MeasuredStep, ...] = ()
        self.evaluation_cache = EvaluationCache.for_job(context, headless=self.headless)
        self.trained_teachers = {
            index: TrainedTeacher(teacher, index, image_size=self.image_size, context=context, folders=workspace.models)
            for index, teacher in enumerate(spec.teachers)
            if teacher.is_trained
        }

    def run(self) -> RunResult:
        """Run all stages in order."""
        with self._stage(Stage.PREPARE):
            prepared = self.prepare()
            if prepared.checkpoint is None:
                self._preflight(prepared)
        if prepared.pending_trainings:
            with self._stage(Stage.TEACHER):
                self._train_teachers(prepared)
        with self._stage(Stage.DISTILL):
            step = self._distill(prepared)
            student = self._finalize_student(prepared)
        schedule = planned_schedule(prepared.setup)
        baseline = self._train_baseline(step, schedule)
        outcomes = self._compress(prepared, student, step)
        with self._stage(Stage.EVALUATE):
            evaluated = self._evaluate(prepared, student, baseline, outcomes)
            evaluated.log(
                self.context,
                step=step,
                headless=self.headless,
                loss_ratio=self.loss_ratio,
                has_weights=self.spec.student.weights != "random",
            )
            self._progress(_EVALUATED, step, schedule)
        with self._stage(Stage.EXPORT):
            exported = self._export(evaluated)
            self._progress(1.0, step, schedule)
        return RunResult(evaluated.result(), exported.files, exported.receipts)

    @contextmanager
    def _stage(self, stage: Stage) -> Iterator[None]:
        self.reporter.stage_started(stage)
        self.context.poll()
        start = time.monotonic()
        yield
        self.stage_seconds[stage.value] = round(time.monotonic() - start, 3)
        self.reporter.stage_finished(stage)

    # --- prepare ------------------------------------------------------------------------------------

    def prepare(self) -> _Prepared:
        """Build all networks, and the training setups of the teachers that have no weights yet."""
        if not self.context.is_labeled and self.spec.method.reads_labels:
            raise SpecCannotRun(f"{self.spec.method.name} needs labels, but the dataset has none")
        teachers: dict[int, BuiltModel] = {}
        pending: dict[int, TrainingSetup] = {}
        for index, teacher in enumerate(self.spec.teachers):
            built = self._load_teacher(index, teacher)
            if built is None:
                pending[index] = self.trained_teachers[index].build_setup()
            else:
                teachers[index] = built
        networks = [teachers[i] if i in teachers else pending[i].student for i in range(len(self.spec.teachers))]
        student = build_job_student(self.spec, self.context, self.workspace.models, networks)
        training_set = TrainingSet.for_networks(
            self.spec, self.context, self.workspace.datasets, student=student, teachers=networks
        )
        pool = training_set.unlabeled_pool()
        setup = student_training_setup(training_set, student, networks, pool)
        return _Prepared(setup, training_set, teachers, pending, pool, self.reporter.newest_checkpoint(STUDENT_TRACK))

    def _load_teacher(self, index: int, spec: TeacherSpec) -> BuiltModel | None:
        """Build a teacher from given weights or from an earlier job; return None if it has to be trained."""
        if index in self.trained_teachers:
            teacher = self.trained_teachers[index]
            built = teacher.find()
            if built is not None:
                self.reporter.event(
                    "teacher.reused",
                    f"Teacher {index} ({spec.architecture_name}) reused from an earlier job.",
                    data={"teacher": index, "recipe": teacher.fingerprint},
                )
            return built
        folders = self.workspace.models
        inputs = model_inputs(self.spec, self.context.input_info, spec, models=all_stored_models(self.spec, folders))
        plan = plan_teacher(spec, inputs, image_size=self.image_size, models=stored_models(spec, folders))
        torch.manual_seed(derive_seed(self.spec.training.seed, f"teacher-{index}"))
        return build_teacher(plan, num_classes=inputs.num_classes, folders=folders)

    def _preflight(self, prepared: _Prepared) -> None:
        """Run one step of every pending training and try the export formats; results of equal jobs are cached."""
        self.context.poll()
        decode_size = prepared.training_set.decode_size
        result = cached_preflight(
            self.spec,
            self.context,
            lambda: self._preflight_student(prepared),
            decode_size=decode_size,
            refresh=bool(prepared.pending_trainings),
        )
        for setup in prepared.pending_trainings.values():
            self.context.poll()
            preflight(setup, self.context.root)
        message = f"Preflight passed: a training step takes {1000 * result.step_seconds:.1f} ms."
        details = result.details(self.context) | {"decode_size": decode_size}
        self.reporter.event("preflight.passed", message, data=details)
        seconds = result.step_seconds * planned_schedule(prepared.setup).total_steps
        self.failed_formats = preflight_formats(prepared.setup, self.spec, self.context, training_seconds=seconds)

    def _preflight_student(self, prepared: _Prepared) -> PreflightResult:
        networks = prepared.teachers | {index: setup.student for index, setup in prepared.pending_trainings.items()}
        copies = [replace(networks[index], module=copy.deepcopy(networks[index].module)) for index in sorted(networks)]
        teachers = self._freeze(copies, prepared.setup)
        loader = prepared.setup.loader.shard(0, self.spec.resources.devices)
        return preflight(replace(prepared.setup, teachers=teachers, loader=loader), self.context.root)

    def _freeze(self, teachers: Iterable[BuiltModel], setup: TrainingSetup) -> list[FrozenTeacher]:
        """Freeze teachers, which then return the features that the method requests."""
        return [FrozenTeacher(teacher, self.context.compute, setup.method.teacher_request) for teacher in teachers]

    # --- training -----------------------------------------------------------------------------------

    def _train_teachers(self, prepared: _Prepared) -> None:
        steps = planned_schedule(prepared.setup).total_steps
        for index, setup in prepared.pending_trainings.items():
            teacher = self.trained_teachers[index]
            progress_range = self.progress_ranges[teacher_track(index)]
            prepared.teachers[index] = teacher.train(setup, progress_range=progress_range, student_steps=steps)
            self.context.poll()

    def add_teachers(self, prepared: _Prepared) -> tuple[TrainingSetup, CachedOutputs | None]:
        """Add the teachers to the student's setup; precompute their outputs where the method allows it."""
        frozen = self._freeze([prepared.teachers[i] for i in sorted(prepared.teachers)], prepared.setup)
        training_set = prepared.training_set
        setup = training_set.prepare_setup(replace(prepared.setup, teachers=frozen), prepared.unlabeled_pool)
        outputs = cached_outputs_for(
            setup,
            replace(self.context, threads=threads_per_rank(self.spec)),
            spec=self.spec,
            split_id=f"{self.context.stored.fingerprint}-{training_set.decode_size}-train",
            max_bytes=self.workspace.teacher_cache_bytes,
        )
        return replace(setup, teacher_outputs=outputs), outputs

    def _distill(self, prepared: _Prepared) -> int:
        """Train the student and return the number of steps it took."""
        training, context = self.spec.training, self.context
        setup, outputs = self.add_teachers(prepared)
        validation = context.validation_callback(image_size=self.image_size) if self.has_accuracy else None
        teachers = {t.fingerprint: t.folder for t in self.trained_teachers.values() if t.folder is not None}
        config = RankConfig.from_spec(self.spec, self.workspace, teachers=teachers, checkpoint=prepared.checkpoint)
        with launch_ranks(config, spec=self.spec, device=context.compute.device, poll=context.poll) as ranks:
            trainer = Trainer(
                shard_setup(setup, ranks),
                track=Track(
                    name=STUDENT_TRACK, metric_prefix="train", progress_range=self.progress_ranges[STUDENT_TRACK]
                ),
                reporter=self.reporter,
                scratch_dir=context.root / "checkpoints",
                checkpoint_policy=CheckpointPolicy.from_spec(training),
                validation=validation,
                ranks=ranks,
            )
            trainer.resume(prepared.checkpoint)
            if trainer.step == 0:
                estimate_statistics(trainer.train_step.setup, poll=context.poll)
                if self.has_accuracy:
                    decode_size = prepared.training_set.decode_size
                    TeacherChecks(setup, context, self.evaluation_cache, decode_size).run()
            self.is_complete = trainer.run()
        trainer.train_step.finalize_weights()
        self.loss_ratio = trainer.train_step.state.loss_trend.ratio
        self.batch_norm_update = update = update_batch_norm(setup, steps=trainer.step, poll=context.poll)
        if update is not None:
            self.reporter.event("student.batch_norm_updated", update.message, data=update.to_json())
        if outputs is not None:
            self.cache_stats = outputs.finish()
        if self.headless:
            decode_size = prepared.training_set.decode_size
            self.method_metrics = log_method_metrics(setup, context, image_size=decode_size, step=trainer.step)
        return trainer.step

    def _finalize_student(self, prepared: _Prepared) -> BuiltModel:
        """Build the exported model from the trained student, as the method defines it."""
        setup, first_teacher = prepared.setup, prepared.teachers.get(0)
        setup.student.module.cpu()
        setup.method.cpu()
        _, held_out = prepared.training_set.training_split()
        student = setup.method.finalize(setup.student, held_out if self.spec.method.held_out_fraction else None)
        classes = self.context.stored.classes or (None if first_teacher is None else first_teacher.classes)
        return replace(student, classes=None if self.headless else classes)

    def _train_baseline(self, step: int, schedule: Schedule) -> Baseline:
        """Find or train the same student by labels alone, if the spec asks for it."""
        if not self.spec.baseline:
            return Baseline(None, NOT_REQUESTED)
        if not self.is_complete:
            return Baseline(None, "the student's training was stopped early, and a baseline takes all steps.")
        training = BaselineTraining(self.spec, self.workspace, self.context)
        found = training.find()
        if found is not None:
            return found
        with self._stage(Stage.BASELINE):
            return training.train(
                progress_range=self.progress_ranges[BASELINE_TRACK],
                student_steps=schedule.total_steps,
                student_epochs=schedule.epoch(step),
            )

    def _compress(self, prepared: _Prepared, student: BuiltModel, step: int) -> tuple[StepOutcome, ...]:
        """Run the compression steps on the trained student."""
        if not self.spec.compression:
            return ()
        compression = Compression(
            spec=self.spec,
            context=self.context,
            training_set=prepared.training_set,
            teachers=[prepared.teachers[index] for index in sorted(prepared.teachers)],
            progress_ranges=self.progress_ranges,
            schedule=planned_schedule(prepared.setup),
            student_step=step,
            teacher_cache_bytes=self.workspace.teacher_cache_bytes,
        )
        with self._stage(Stage.COMPRESS):
            return compression.run(student)

    # --- results ------------------------------------------------------------------------------------

    def _evaluate(
        self, prepared: _Prepared, student: BuiltModel, baseline: Baseline, outcomes: Sequence[StepOutcome]
    ) -> JobEvaluation:
        """Write the student's files, and measure the exported files, the baseline and the teachers."""
        folder = self.context.root / "export"
        save_model(student, folder)
        if self.is_complete:
            save_as_baseline(self.spec, self.context, folder)
        evaluator = JobEvaluator(
            spec=self.spec,
            context=self.context,
            cache=self.evaluation_cache,
            decode_size=prepared.training_set.decode_size,
            classes=student.classes,
        )
        teachers = [prepared.teachers[index] for index in sorted(prepared.teachers)]
        evaluated = evaluator.evaluate(folder, teachers, baseline)
        predictions = evaluated.student.predicted_classes
        self.compressed = measure_steps(outcomes, self.context, student.preprocessing, predictions)
        return replace(evaluated, compressed=tuple(each.summary for each in self.compressed))

    def _export(self, evaluated: JobEvaluation) -> Exported:
        """Export the remaining files to the student's folder, and those of compressed networks to theirs."""
        classes = self.context.stored.classes
        details = {
            "student": evaluated.student.details(classes),
            "batch_norm": None if self.batch_norm_update is None else self.batch_norm_update.to_json(),
            "teachers": [teacher.details(classes) for teacher in evaluated.teachers],
            "teacher_cache": self.cache_stats.to_json(),
            **({"method": self.method_metrics} if self.method_metrics else {}),
            **({"compression": [each.details for each in self.compressed]} if self.compressed else {}),
        }
        reference = {"id": self.spec.dataset, "license": self.workspace.dataset_license}
        inputs = evaluated.export_inputs(self.context, image_size=self.image_size, headless=self.headless)
        exported = export_student(
            evaluated.folder,
            spec=self.spec,
            dataset={**reference, **self.context.stored.description},
            result=evaluated.result(),
            details=details,
            stages=self.stage_seconds,
            reporter=self.reporter,
            failed=self.failed_formats,
            inputs=inputs,
            sections=evaluated.sections(self.spec, self.context, self.stage_seconds, self.cache_stats),
            poll=self.context.poll,
        )
        exported = replace(exported, files={**exported.files, **evaluated.write_predictions()})
        return export_steps(exported, self.compressed, self.spec, self.context, inputs)

    def _progress(self, fraction: float, step: int, schedule: Schedule) -> None:
        """Report progress of the stages after training."""
        self.reporter.progress(
            Progress(fraction=fraction, step=step, total_steps=schedule.total_steps, epoch=schedule.epoch(step))
        )

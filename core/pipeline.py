"""Run a job from its spec to its files: prepare, teacher, distill, compress, evaluate, export.

This is the engine's only entry point. It is independent of HTTP, Celery and the database: the caller passes a workspace
of folders, and a reporter that receives events and returns control requests. A later attempt can re-enter any stage.
The student's bits do not depend on the number of attempts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from core.chain import Chain
from core.compress import Compression, MeasuredStep, StepOutcome, export_steps, measure_steps
from core.data.stored import dataset_fingerprints
from core.distillation import Distillation, PreparedDistillation
from core.evaluate.corruptions import num_corrupted
from core.export import Exported, export_student
from core.models.built import BuiltModel
from core.models.weights import save_model
from core.reporting import BASELINE_TRACK, STUDENT_TRACK, Progress, Reporter, RunResult, Stage, Workspace
from core.spec import ExportOptions, JobSpec
from core.teacher.job_evaluation import JobEvaluation
from core.teacher.job_evaluator import JobEvaluator
from core.train.baseline import NOT_REQUESTED, NOT_TRAINED, Baseline, BaselineTraining, save_as_baseline
from core.train.context import RunContext, open_run
from core.train.export_preflight import preflight_formats
from core.train.preflight import PreflightResult
from core.train.rank_channel import RankChannel
from core.train.schedule import Schedule
from core.train.time_plan import ProgressRange
from core.train.training_lock import training_lock
from core.train.training_set import planned_schedule

_PREPARED, _TRAINED, _EVALUATED = 0.01, 0.95, 0.97  # a job's progress after these stages
_REST = ProgressRange(_TRAINED, 1 - _TRAINED)  # evaluation and export
_EXPORT_SECONDS = 5.0


def run(spec: JobSpec, workspace: Workspace, reporter: Reporter, *, channel: RankChannel | None = None) -> RunResult:
    """Run a resolved spec to its end. ``channel`` leads to ranks that torchrun has started.

    Raises:
        Interrupted: The reporter requested a pause, cancel or drain; a checkpoint is saved.
        RunError: The run failed; its ``code`` is the reason.
    """
    with open_run(spec, workspace, reporter, channel=channel) as context:
        return _Pipeline(spec, workspace, context).run()


class _Pipeline:
    """One attempt of one job. ``distillation`` is the job's own, prepared with the models of the chain as they are."""

    distillation: Distillation

    def __init__(self, spec: JobSpec, workspace: Workspace, context: RunContext) -> None:
        assert spec.training.image_size is not None, "a resolved spec has an image size"
        self.spec = spec
        self.context = context
        self.reporter = context.reporter
        self.image_size: int = spec.training.image_size
        self.headless = spec.method.info.needs.headless
        self.stage_seconds: dict[str, float] = {}
        self.failed_formats: dict[ExportOptions, str] = {}  # reason by format, known before the training
        self.compressed: tuple[MeasuredStep, ...] = ()
        self.chain = Chain(spec, workspace, context, progress_range=ProgressRange(_PREPARED, _TRAINED - _PREPARED))
        context.time_plan.add(_REST)

    def run(self) -> RunResult:
        """Run all stages in order."""
        with self._stage(Stage.PREPARE):
            self.chain.prepare()
            prepared = self._prepare()
            is_resumed = prepared.checkpoint is not None
            result = self.distillation.find_preflight(prepared) if is_resumed else self._preflight(prepared)
            self._plan_rest(prepared, result)
        schedule = planned_schedule(prepared.setup)
        if self.chain.is_pending or prepared.pending_trainings:
            with self._stage(Stage.TEACHER):
                if self.chain.is_pending:
                    del prepared  # its networks have the place of the trained ones
                    self.chain.train(student_steps=schedule.total_steps)
                    prepared = self._prepare()
                self.distillation.train_teachers(prepared)
        with self._stage(Stage.DISTILL):
            step = self.distillation.train_student(prepared)
            student = self.distillation.finalize_student(prepared)
        baseline = self._train_baseline(step, schedule)
        outcomes = self._compress(prepared, student, step)
        with self._stage(Stage.EVALUATE):
            evaluated = self._evaluate(prepared, student, baseline, outcomes)
            evaluated.log(
                self.context,
                step=step,
                headless=self.headless,
                loss_ratio=self.distillation.loss_ratio,
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

    def _prepare(self) -> PreparedDistillation:
        """Prepare the job's own distillation, with the models of the chain as they are now."""
        chain = self.chain
        self.distillation = Distillation(chain.spec(), chain.workspace(), self.context, progress_range=chain.rest)
        return self.distillation.prepare()

    def _preflight(self, prepared: PreparedDistillation) -> PreflightResult:
        """Run the preflight of the trainings, and try the export formats."""
        result = self.distillation.preflight(prepared)
        seconds = result.step_seconds * planned_schedule(prepared.setup).total_steps
        self.failed_formats = preflight_formats(prepared.setup, self.spec, self.context, training_seconds=seconds)
        return result

    def _plan_rest(self, prepared: PreparedDistillation, result: PreflightResult | None) -> None:
        """Set the expected seconds of baseline, evaluation and export. A training step runs all evaluated networks."""
        if self.spec.baseline:
            training = BaselineTraining(self.distillation.spec, self.distillation.workspace, self.context)
            ranges = self.distillation.progress_ranges
            training.plan(ranges[BASELINE_TRACK], student=ranges[STUDENT_TRACK])
        if result is not None:
            num_test = len(self.context.stored.split("test"))
            num_images = num_test + (num_corrupted(num_test) if self.distillation.has_accuracy else 0)
            num_batches = -(-num_images // prepared.setup.loader.batch_size)
            self.context.time_plan.expect(_REST, _EXPORT_SECONDS + num_batches * result.step_seconds)

    # --- further trainings --------------------------------------------------------------------------

    def _train_baseline(self, step: int, schedule: Schedule) -> Baseline:
        """Find or train the same student by labels alone, if the spec asks for it."""
        if not self.spec.baseline:
            return Baseline(None, NOT_REQUESTED if self.spec.training.epochs else NOT_TRAINED)
        if not self.distillation.is_complete:
            return Baseline(None, "the student's training was stopped early, and a baseline takes all steps.")
        training = BaselineTraining(self.distillation.spec, self.distillation.workspace, self.context)
        with training_lock(self.context, training.fingerprint, "the baseline"):
            found = training.find()
            if found is not None:
                return found
            with self._stage(Stage.BASELINE):
                return training.train(
                    progress_range=self.distillation.progress_ranges[BASELINE_TRACK],
                    student_steps=schedule.total_steps,
                    student_epochs=schedule.epoch(step),
                )

    def _compress(self, prepared: PreparedDistillation, student: BuiltModel, step: int) -> tuple[StepOutcome, ...]:
        """Run the compression steps on the trained student."""
        if not self.spec.compression:
            return ()
        compression = Compression(
            spec=self.distillation.spec,
            context=self.context,
            training_set=prepared.training_set,
            teachers=prepared.ordered_teachers,
            progress_ranges=self.distillation.progress_ranges,
            schedule=planned_schedule(prepared.setup),
            student_step=step,
            teacher_cache_bytes=self.distillation.workspace.teacher_cache_bytes,
        )
        with self._stage(Stage.COMPRESS):
            return compression.run(student)

    # --- results ------------------------------------------------------------------------------------

    def _evaluate(
        self, prepared: PreparedDistillation, student: BuiltModel, baseline: Baseline, outcomes: Sequence[StepOutcome]
    ) -> JobEvaluation:
        """Write the student's files, and measure the exported files, the baseline and the teachers."""
        folder = self.context.root / "export"
        save_model(student, folder)
        if self.distillation.is_complete:
            save_as_baseline(self.distillation.spec, self.context, folder)
        evaluator = JobEvaluator(
            spec=self.spec,
            context=self.context,
            cache=self.distillation.evaluation_cache,
            decode_size=prepared.training_set.decode_size,
            classes=student.classes,
        )
        evaluated = evaluator.evaluate(folder, prepared.ordered_teachers, baseline)
        predictions = evaluated.student.predicted_classes
        self.compressed = measure_steps(outcomes, self.context, student.preprocessing, predictions)
        return replace(evaluated, compressed=tuple(each.summary for each in self.compressed))

    def _export(self, evaluated: JobEvaluation) -> Exported:
        """Export the remaining files to the student's folder, and those of compressed networks to theirs."""
        classes = self.context.stored.classes
        distillation, lineage = self.distillation, self.chain.lineage()
        batch_norm = distillation.batch_norm_update
        details = {
            "student": evaluated.student.details(classes),
            "batch_norm": None if batch_norm is None else batch_norm.to_json(),
            "teachers": [teacher.details(classes) for teacher in evaluated.teachers],
            "teacher_cache": distillation.cache_stats.to_json(),
            **({"method": distillation.method_metrics} if distillation.method_metrics else {}),
            **({"distillations": lineage} if lineage else {}),
            **({"compression": [each.details for each in self.compressed]} if self.compressed else {}),
        }
        reference = {"id": self.spec.dataset, "license": self.distillation.workspace.dataset_license}
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
            sections=evaluated.sections(
                self.spec,
                self.context,
                self.stage_seconds,
                distillation.cache_stats,
                dataset_fingerprints(self.spec.further_datasets(), self.distillation.workspace.datasets),
            ),
            compressed=export_steps(evaluated.folder, self.compressed, self.spec, self.context, inputs),
            poll=self.context.poll,
        )
        return replace(exported, files={**exported.files, **evaluated.write_predictions()})

    def _progress(self, fraction: float, step: int, schedule: Schedule) -> None:
        """Report progress of the stages after training."""
        self.reporter.progress(
            Progress(fraction=fraction, step=step, total_steps=schedule.total_steps, epoch=schedule.epoch(step))
        )

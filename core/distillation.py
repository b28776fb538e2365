"""A distillation: one student and its teachers, from a spec without distilled models to the trained student.

:mod:`core.pipeline` runs the job's own, and :mod:`core.chain` those that give other models of the job their weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from core.data.pixels import Pixels
from core.errors import SpecCannotRun
from core.models.build import all_stored_models, build_teacher, stored_models
from core.models.built import BuiltModel
from core.models.plan import model_inputs, plan_teacher
from core.reporting import STUDENT_TRACK, Interrupted, Workspace, compression_track, teacher_track
from core.seeds import derive_seed
from core.spec import JobSpec, TeacherSpec
from core.spec.teacher_names import teacher_name
from core.teacher.evaluation_cache import EvaluationCache
from core.teacher.frozen import FrozenTeacher
from core.teacher.output_cache import CachedOutputs, CacheStats, cached_outputs_for
from core.teacher.teacher_checks import TeacherChecks
from core.teacher.training import TrainedTeacher
from core.train.batch_norm import BatchNormUpdate, update_batch_norm
from core.train.context import RunContext, threads_per_rank
from core.train.data_parallel import shard_setup
from core.train.preflight import PreflightResult, cached_preflight, find_preflight, preflight
from core.train.progress import Track, plan_ranges, planned_epochs
from core.train.rank_config import RankConfig
from core.train.rank_launcher import launch_ranks
from core.train.statistics import estimate_statistics, log_method_metrics
from core.train.student_setup import build_job_student, student_training_setup
from core.train.time_plan import ProgressRange
from core.train.trainer import CheckpointPolicy, Trainer, TrainingSetup
from core.train.training_lock import training_lock
from core.train.training_set import TrainingSet, planned_schedule

WHOLE = ProgressRange(0.0, 1.0)


def build_student_setup(spec: JobSpec, workspace: Workspace, context: RunContext) -> TrainingSetup:
    """Build the student's training setup on a rank whose reporter finds all trained teachers."""
    distillation = Distillation(spec, workspace, context)
    prepared = distillation.prepare()
    assert not prepared.pending_trainings, "rank 0 trains the teachers before it starts other ranks"
    setup, _ = distillation.add_teachers(prepared)
    return setup


@dataclass(frozen=True, slots=True)
class PreparedDistillation:
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

    @property
    def ordered_teachers(self) -> list[BuiltModel]:
        """The teachers in the order of the spec, once all are trained."""
        return [self.teachers[index] for index in sorted(self.teachers)]


class Distillation:
    """One attempt of a distillation; its trainings take ``progress_range`` of the job's progress.

    After :meth:`run`, ``is_complete`` is False where a request stopped it early.
    """

    def __init__(
        self, spec: JobSpec, workspace: Workspace, context: RunContext, *, progress_range: ProgressRange = WHOLE
    ) -> None:
        assert spec.training.image_size is not None, "a resolved spec has an image size"
        self.spec = spec
        self.context = context
        self.reporter = context.reporter
        self.image_size: int = spec.training.image_size
        self.workspace = workspace
        self.headless = spec.method.info.needs.headless
        self.has_accuracy = context.is_labeled and not self.headless
        self.progress_ranges = plan_ranges(spec, progress_range)
        for part in self.progress_ranges.values():
            context.time_plan.add(part)
        self.cache_stats = CacheStats()
        self.batch_norm_update: BatchNormUpdate | None = None
        self.loss_ratio: float | None = None
        self.method_metrics: dict[str, float] = {}  # on the test split
        self.is_complete = False
        self.evaluation_cache = EvaluationCache.for_job(context, headless=self.headless)
        self.trained_teachers = {
            index: TrainedTeacher(
                teacher,
                index,
                name=teacher_name(index, len(spec.teachers)),
                image_size=self.image_size,
                context=context,
                folders=workspace.models,
            )
            for index, teacher in enumerate(spec.teachers)
            if teacher.is_trained
        }

    def prepare(self) -> PreparedDistillation:
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
                if index in self.trained_teachers:
                    self.context.time_plan.expect(self.progress_ranges[teacher_track(index)], 0.0)
        networks = [teachers[i] if i in teachers else pending[i].student for i in range(len(self.spec.teachers))]
        student = build_job_student(self.spec, self.context, self.workspace.models, networks)
        training_set = TrainingSet.for_networks(
            self.spec, self.context, self.workspace.datasets, student=student, teachers=networks
        )
        pool = training_set.unlabeled_pool()
        setup = student_training_setup(training_set, student, networks, pool)
        return PreparedDistillation(
            setup, training_set, teachers, pending, pool, self.reporter.newest_checkpoint(STUDENT_TRACK)
        )

    def _load_teacher(self, index: int, spec: TeacherSpec) -> BuiltModel | None:
        """Build a teacher from given weights or from an earlier job; return None if it has to be trained."""
        if index in self.trained_teachers:
            return self._find_teacher(self.trained_teachers[index])
        folders = self.workspace.models
        inputs = model_inputs(self.spec, self.context.input_info, spec, models=all_stored_models(self.spec, folders))
        plan = plan_teacher(spec, inputs, image_size=self.image_size, models=stored_models(spec, folders))
        torch.manual_seed(derive_seed(self.spec.training.seed, f"teacher-{index}"))
        return build_teacher(plan, num_classes=inputs.num_classes, folders=folders)

    def _find_teacher(self, teacher: TrainedTeacher) -> BuiltModel | None:
        built = teacher.find()
        if built is not None:
            self.reporter.event(
                "teacher.reused",
                f"{teacher.name.capitalize()} ({teacher.spec.architecture_name}) reused from an earlier job.",
                data={"teacher": teacher.index, "recipe": teacher.fingerprint},
            )
        return built

    def preflight(self, prepared: PreparedDistillation) -> PreflightResult:
        """Run one step of every pending training and of the student's; the result of an equal job is cached."""
        self.context.poll()
        decode_size = prepared.training_set.decode_size
        result = cached_preflight(
            self.spec,
            self.context,
            lambda: self._preflight_student(prepared),
            decode_size=decode_size,
            refresh=bool(prepared.pending_trainings),
        )
        self._expect_trainings(prepared, result)
        for index, setup in prepared.pending_trainings.items():
            self.context.poll()
            seconds = preflight(setup, self.context.root).step_seconds * planned_schedule(setup).total_steps
            self.context.time_plan.expect(self.progress_ranges[teacher_track(index)], seconds)
        message = f"Preflight passed: a training step takes {1000 * result.step_seconds:.1f} ms."
        details = result.details(self.context) | {"decode_size": decode_size}
        self.reporter.event("preflight.passed", message, data=details)
        return result

    def find_preflight(self, prepared: PreparedDistillation) -> PreflightResult | None:
        """Return the cached preflight of an earlier attempt or job, for the remaining time of a resumed training."""
        result = find_preflight(self.spec, self.context, decode_size=prepared.training_set.decode_size)
        if result is not None:
            self._expect_trainings(prepared, result)
        return result

    def _expect_trainings(self, prepared: PreparedDistillation, result: PreflightResult) -> None:
        """Set the expected seconds of the student's training and of the compression steps, as many epochs of it."""
        schedule, plan = planned_schedule(prepared.setup), self.context.time_plan
        plan.expect(self.progress_ranges[STUDENT_TRACK], result.step_seconds * schedule.total_steps)
        epoch_seconds = result.step_seconds * schedule.steps_per_epoch
        for index, step in enumerate(self.spec.compression):
            plan.expect(self.progress_ranges[compression_track(index)], epoch_seconds * planned_epochs(step))

    def _preflight_student(self, prepared: PreparedDistillation) -> PreflightResult:
        networks = prepared.teachers | {index: setup.student for index, setup in prepared.pending_trainings.items()}
        copies = [replace(networks[index], module=copy.deepcopy(networks[index].module)) for index in sorted(networks)]
        teachers = self._freeze(copies, prepared.setup)
        loader = prepared.setup.loader.shard(0, self.spec.resources.devices)
        return preflight(replace(prepared.setup, teachers=teachers, loader=loader), self.context.root)

    def _freeze(self, teachers: Iterable[BuiltModel], setup: TrainingSetup) -> list[FrozenTeacher]:
        """Freeze teachers, which then return the features that the method requests."""
        return [FrozenTeacher(teacher, self.context.compute, setup.method.teacher_request) for teacher in teachers]

    def train_teachers(self, prepared: PreparedDistillation) -> None:
        """Train the teachers that have no weights yet, and add them to ``prepared``.

        A teacher that another job of this machine trains at the same time is trained once.
        """
        steps = planned_schedule(prepared.setup).total_steps
        for index, setup in prepared.pending_trainings.items():
            teacher = self.trained_teachers[index]
            progress_range = self.progress_ranges[teacher_track(index)]
            with training_lock(self.context, teacher.fingerprint, f"teacher {teacher.spec.architecture_name}"):
                built = self._find_teacher(teacher)
                if built is None:
                    built = teacher.train(setup, progress_range=progress_range, student_steps=steps)
            prepared.teachers[index] = built
            self.context.poll()

    def add_teachers(self, prepared: PreparedDistillation) -> tuple[TrainingSetup, CachedOutputs | None]:
        """Add the teachers to the student's setup; precompute their outputs where the method allows it."""
        frozen = self._freeze(prepared.ordered_teachers, prepared.setup)
        training_set = prepared.training_set
        setup = training_set.prepare_setup(replace(prepared.setup, teachers=frozen), prepared.unlabeled_pool)
        outputs = cached_outputs_for(
            setup,
            replace(self.context, threads=threads_per_rank(self.spec)),
            spec=self.spec,
            split_id=training_set.split_id,
            max_bytes=self.workspace.teacher_cache_bytes,
            offers_views=True,
        )
        return replace(setup, teacher_outputs=outputs), outputs

    def train_student(self, prepared: PreparedDistillation) -> int:
        """Train the student and return the number of steps it took."""
        training, context = self.spec.training, self.context
        setup, outputs = self.add_teachers(prepared)
        validation = context.validation_callback(image_size=self.image_size) if self.has_accuracy else None
        teachers = {t.fingerprint: t.folder for t in self.trained_teachers.values() if t.folder is not None}
        config = RankConfig.from_spec(self.spec, self.workspace, teachers=teachers, checkpoint=prepared.checkpoint)
        with launch_ranks(config, context, self.spec) as ranks:
            trainer = Trainer(
                shard_setup(setup, ranks),
                track=Track(
                    name=STUDENT_TRACK,
                    metric_prefix="train",
                    progress_range=self.progress_ranges[STUDENT_TRACK],
                    time_plan=context.time_plan,
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
                    TeacherChecks(setup, context, self.evaluation_cache, prepared.training_set).run()
            try:
                self.is_complete = trainer.run()
            except Interrupted:
                if outputs is not None:
                    outputs.finish()  # a later attempt counts its own accesses
                raise
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

    def finalize_student(self, prepared: PreparedDistillation) -> BuiltModel:
        """Build the exported model from the trained student, as the method defines it."""
        setup, first_teacher = prepared.setup, prepared.teachers.get(0)
        setup.student.module.cpu()
        setup.method.cpu()
        _, held_out = prepared.training_set.training_split()
        student = setup.method.finalize(setup.student, held_out if self.spec.method.held_out_fraction else None)
        classes = self.context.stored.classes or (None if first_teacher is None else first_teacher.classes)
        return replace(student, classes=None if self.headless else classes)

    def run(self, prepared: PreparedDistillation) -> BuiltModel:
        """Train the student after its teachers, and return the exported model."""
        self.train_teachers(prepared)
        self.train_student(prepared)
        return self.finalize_student(prepared)

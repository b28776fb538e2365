"""Baseline of a job: the same student, trained with the same budget by labels alone.

The training is that of a job with method ``scratch`` and the same student and training block, so initial weights,
order and augmentation of the images are those of the distilled student. It is found again by its fingerprint.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.data.holdout import num_held_out
from core.data.stored import StoredDataset
from core.data.views import steps_per_epoch
from core.errors import NonFiniteLoss
from core.models.weights import save_model
from core.reporting import BASELINE_TRACK, Control, Workspace
from core.spec import BalanceSpec, JobSpec
from core.spec.methods.scratch import ScratchParams
from core.train.batch_norm import update_batch_norm
from core.train.context import BASELINE_CURVE, RunContext
from core.train.data_parallel import shard_setup
from core.train.fingerprint import training_fingerprint
from core.train.preflight import PreflightResult, cached_preflight, preflight
from core.train.progress import Track
from core.train.rank_config import RankConfig
from core.train.rank_launcher import launch_ranks
from core.train.student_setup import build_job_student, student_training_setup
from core.train.time_plan import ProgressRange
from core.train.trainer import CheckpointPolicy, Trainer, TrainingSetup
from core.train.training_set import TrainingSet, planned_schedule

_FORMAT = 1  # incremented when a change of the training changes the weights of equal fields
_FREE_TRAINING_FIELDS = ("checkpoint_every_epochs", "keep_weights_every_epochs", "image_size")
NOT_REQUESTED = "no baseline was requested; set baseline to true."
NOT_TRAINED = "this job did not train the student; see the job that did."


@dataclass(frozen=True, slots=True)
class Baseline:
    """Result of a baseline: the folder of its weights, or None and the reason in ``note``, a sentence.

    ``seconds`` is the time of its training in this attempt, ``steps`` the last step of it. ``reused`` tells that an
    earlier job trained it.
    """

    folder: Path | None
    note: str
    reused: bool = False
    seconds: float = 0.0
    steps: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the entry of the report's details."""
        return {"note": self.note, "reused": self.reused, "seconds": round(self.seconds, 3)}


def baseline_spec(spec: JobSpec, *, num_labeled: int, num_unlabeled: int = 0) -> JobSpec:
    """Return the resolved spec of a job that trains the student by labels alone, in as many steps.

    ``num_labeled`` is the size of the training split, ``num_unlabeled`` that of ``unlabeled_dataset``, on which this
    training cannot learn. It then has more epochs, each with a new view: it needs no teacher outputs.
    """
    update: dict[str, Any] = {
        "balance": BalanceSpec(),
        "hold_out": spec.held_out_fraction,
        "keep_weights_every_epochs": None,
    }
    if spec.unlabeled_dataset is not None:
        training, num_trained = spec.training, num_labeled - num_held_out(num_labeled, spec.held_out_fraction)
        steps = steps_per_epoch(num_trained + num_unlabeled, training.batch_size) * training.num_epochs
        epochs = max(1, round(steps / steps_per_epoch(num_trained, training.batch_size)))
        assert training.warmup_epochs is not None, "a resolved spec has a warm-up"
        warmup = training.warmup_epochs * epochs / training.num_epochs
        update |= {"epochs": epochs, "warmup_epochs": warmup, "views": None}
    training = spec.training.model_copy(update=update)
    return spec.model_copy(
        update={
            "method": ScratchParams(name="scratch"),
            "unlabeled_dataset": None,
            "teachers": (),
            "training": training,
            "compression": (),
            "baseline": False,
        }
    )


class BaselineTraining:
    """The baseline of one job. ``workspace`` and ``context`` are those of the job."""

    def __init__(self, spec: JobSpec, workspace: Workspace, context: RunContext) -> None:
        num_labeled = len(context.stored.split("train"))
        num_unlabeled = 0
        if spec.unlabeled_dataset is not None:
            with StoredDataset.open(workspace.datasets[spec.unlabeled_dataset]) as stored:
                num_unlabeled = len(stored.split("train"))
        self.spec = baseline_spec(spec, num_labeled=num_labeled, num_unlabeled=num_unlabeled)
        self._workspace = workspace
        self._context = context
        self.fingerprint = baseline_fingerprint(self.spec, context)

    def find(self) -> Baseline | None:
        """Return the baseline that an earlier job with the same fingerprint trained; None if there is none."""
        folder = self._context.reporter.find_teacher(self.fingerprint)
        if folder is None:
            return None
        self._context.reporter.event(
            "baseline.reused", "Baseline reused from an earlier job.", data={"recipe": self.fingerprint}
        )
        return Baseline(folder, "trained by an earlier job with the same student, data and budget.", reused=True)

    def plan(self, progress_range: ProgressRange, *, student: ProgressRange) -> None:
        """Set the expected seconds of the training: none if it is saved; else timed steps, unless it has begun.

        ``student`` is the range of the student's training, whose steps contain those of the baseline.
        """
        context = self._context
        if context.reporter.find_teacher(self.fingerprint) is not None:
            context.time_plan.expect(progress_range, 0.0)
        elif context.reporter.newest_checkpoint(BASELINE_TRACK) is None:
            with suppress(NonFiniteLoss):  # a baseline that diverges does not fail the job
                setup = self._build_setup()
                result = cached_preflight(
                    self.spec,
                    context,
                    lambda: self._preflight(setup),
                    decode_size=setup.student.preprocessing.image_size,
                    refresh=False,
                )
                seconds = result.step_seconds * planned_schedule(setup).total_steps
                context.time_plan.expect(progress_range, seconds, slower=student)

    def _preflight(self, setup: TrainingSetup) -> PreflightResult:
        loader = setup.loader.shard(0, self.spec.resources.devices)
        return preflight(replace(setup, loader=loader), self._context.root)

    def train(self, *, progress_range: ProgressRange, student_steps: int, student_epochs: int) -> Baseline:
        """Train the baseline from its newest checkpoint, and save it for later jobs.

        A baseline that diverges or is stopped early is not one: the reason is in its note. Raises ``Interrupted``, and
        ``RunError`` as any training.
        """
        reporter, context = self._context.reporter, self._context
        if reporter.control() is Control.STOP:
            return Baseline(None, "the job was stopped before its baseline was trained.")
        began = time.monotonic()
        setup = self._build_setup()
        checkpoint = reporter.newest_checkpoint(BASELINE_TRACK)
        track = Track(
            name=BASELINE_TRACK,
            metric_prefix="baseline",
            progress_range=progress_range,
            student_steps=student_steps,
            completed_steps=student_steps,
            completed_epochs=student_epochs,
            time_plan=context.time_plan,
        )
        config = RankConfig.from_spec(self.spec, self._workspace, teachers={}, checkpoint=checkpoint)
        try:
            with launch_ranks(config, context, self.spec) as ranks:
                trainer = Trainer(
                    shard_setup(setup, ranks),
                    track=track,
                    reporter=reporter,
                    scratch_dir=context.root / "checkpoints",
                    checkpoint_policy=CheckpointPolicy.from_spec(self.spec.training),
                    validation=context.validation_callback(
                        image_size=setup.student.preprocessing.image_size, curve=BASELINE_CURVE
                    ),
                    ranks=ranks,
                )
                trainer.resume(checkpoint)
                is_complete = trainer.run()
        except NonFiniteLoss as error:
            reporter.event("baseline.diverged", f"The baseline diverged: {error.detail}", level="warning")
            return Baseline(None, "the training of the baseline diverged.", seconds=time.monotonic() - began)
        if not is_complete:
            return Baseline(None, "the training of the baseline was stopped early.", seconds=time.monotonic() - began)
        trainer.train_step.finalize_weights()
        update_batch_norm(setup, steps=trainer.step, poll=context.poll)
        folder = self._save(setup)
        reporter.save_teacher(self.fingerprint, folder, kind="baseline")
        reporter.event(
            "baseline.trained",
            f"Baseline trained by labels alone for {trainer.step} steps.",
            data={"recipe": self.fingerprint, "steps": trainer.step},
        )
        note = f"the same student, trained by labels alone for {trainer.step:,} steps with the same seed."
        return Baseline(folder, note, seconds=time.monotonic() - began, steps=trainer.step)

    def _build_setup(self) -> TrainingSetup:
        student = build_job_student(self.spec, self._context, self._workspace.models, ())
        training_set = TrainingSet.for_networks(self.spec, self._context, {}, student=student, teachers=())
        return student_training_setup(training_set, student, (), None)

    def _save(self, setup: TrainingSetup) -> Path:
        folder = self._context.root / "baseline"
        save_model(replace(setup.student, classes=self._context.stored.classes), folder)
        return folder


def save_as_baseline(spec: JobSpec, context: RunContext, folder: Path) -> None:
    """Save the student of a job with method ``scratch`` that took all steps: it is the baseline of later jobs."""
    if isinstance(spec.method, ScratchParams):
        own = baseline_spec(spec, num_labeled=len(context.stored.split("train")))
        fingerprint = baseline_fingerprint(own, context)
        context.reporter.save_teacher(fingerprint, folder, kind="baseline")


def baseline_fingerprint(spec: JobSpec, context: RunContext) -> str:
    """Return a SHA-256 over everything that the weights of a baseline depend on, for a spec of its own.

    See :func:`core.teacher.training.teacher_fingerprint`.
    """
    training = spec.training.model_dump(mode="json", exclude=set(_FREE_TRAINING_FIELDS))
    fields = {
        "format": _FORMAT,
        "kind": "baseline",
        "student": spec.student.model_dump(mode="json"),
        "training": training | {"image_size": spec.training.image_size},
        "dataset": context.stored.fingerprint,
        "devices": spec.resources.devices,
    }
    return training_fingerprint(fields, threads=context.threads, compute=context.compute)

"""Reporter of a job attempt: writes the engine's progress to the database, passes requested actions to the engine.

Metrics and progress are buffered and written about once a second by a background thread, so that the training does not
wait for the database. Checkpoints are recorded after the metrics before them: at once, or when an unavailable database
is back. Events and stages are written at once. A write without the lease raises ``LeaseLost``, which ends the process.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import structlog
from opentelemetry.trace import Span

from core import tracing
from core.errors import StorageFailed, StoredFileDamaged
from core.ids import new_id
from core.job_warnings import JobWarning
from core.reporting import Control, Interrupted, Progress, SavedCheckpoint, Stage, TrainedKind, ViewOffer
from core.store import checkpoints, events, jobs, metrics, teachers, view_offers
from core.store.artifact_store import StoredFile, parse_stored_files
from core.store.db import DatabaseUnavailable, Session
from core.store.job_leases import LeaseToken
from core.store.retry_commit import IdempotentTransaction
from core.store.tables import Checkpoint, Job
from core.system.fault_injection import fault_point
from worker.background import BackgroundTask
from worker.context import Context
from worker.stored_files import fetch_folder, publish_folder

FLUSH_SECONDS = 1.0
FLUSH_ROWS = 2_000
MAX_ROWS = 100_000  # buffered while the database is unavailable; at this limit the training waits
MAX_UNRECORDED = 8  # published checkpoints without a row; at this limit the training waits
_RETRY_SECONDS = 0.25

Value = TypeVar("Value")

log = structlog.get_logger(__name__)


class JobReporter:
    """The reporter of a run on a worker (see :class:`core.reporting.Reporter`)."""

    def __init__(self, context: Context, job: Job, scratch: Path, control: Callable[[], Control]) -> None:
        self._context = context
        self._lease = LeaseToken.from_job(job)
        self._project_id = job.project_id
        self._scratch = scratch
        self._control = control
        self._metrics: list[tuple[str, int, float]] = []
        self._progress: Progress | None = None
        self._flushed_at = time.monotonic()
        self._outbox: deque[Callable[[], None]] = deque()  # written by the background thread, in this order
        self._background = BackgroundTask()
        self._is_database_unavailable = False  # at the last write
        self._has_started_training = False
        self._stage_span: Span | None = None

    # --- buffered ---------------------------------------------------------------------------------

    def progress(self, progress: Progress) -> None:
        """Buffer the newest progress for the next flush. The first step of a training is flushed at once."""
        self._progress = progress
        if progress.stage_step == 1:
            self._flush_buffer()
            self._start_writing()
        else:
            self._flush_if_due()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Buffer the values for the next flush. The student's first step adds an event at once."""
        self._metrics.extend((name, step, value) for name, value in values.items())
        if not self._has_started_training and any(name.startswith("train/") for name in values):
            self._has_started_training = True
            self.event("training.started", f"The student's training is at step {step}.", data={"step": step})
        self._flush_if_due()

    def control(self) -> Control:
        """Return the requested control: a byte in shared memory that the monitor writes."""
        return self._control()

    def poll(self) -> None:
        """Raise ``Interrupted`` if the job must leave its worker now."""
        if (control := self.control()) in {Control.CANCEL, Control.PAUSE, Control.DRAIN}:
            raise Interrupted(control)

    # --- written at once --------------------------------------------------------------------------

    def stage_started(self, stage: Stage) -> None:
        """Record the start of a stage. Raises ``Interrupted`` if the job must leave its worker now."""
        self.flush()
        log.info("stage.started", stage=stage.value)
        self._stage_span = tracing.start_span(f"job.stage {stage.value}", {"potstill.job.stage": stage.value})
        self.write(lambda session: jobs.start_stage(session, self._lease, stage.value))
        fault_point("stage.started")
        self.poll()

    def stage_finished(self, stage: Stage) -> None:
        """Record the end of a stage."""
        self.flush()
        self.write(lambda session: jobs.finish_stage(session, self._lease, stage.value))
        self.end_stage_span()
        fault_point("stage.finished")

    def end_stage_span(self, error: str | None = None) -> None:
        """End the span of the open stage, if any; ``error``: why the stage is not complete."""
        if self._stage_span is not None:
            if error is not None:
                tracing.set_error(self._stage_span, error)
            self._stage_span.end()
            self._stage_span = None

    def event(
        self,
        type: str,  # noqa: A002 - the name in the API
        message: str,
        *,
        level: Literal["info", "warning", "error"] = "info",
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Add an event to the job's log."""
        log.info(type, message=message)
        self.write(lambda session: events.append(session, self._lease, type, message, level=level, data=data))

    def warning(self, warning: JobWarning) -> None:
        """Add a warning to the job's list, and an event unless the list has it."""
        log.info("job.warning", code=warning.code, message=warning.message)
        self.write(lambda session: jobs.add_warnings(session, self._lease, [warning]))

    def warnings(self) -> list[JobWarning]:
        """Load the job's warnings."""
        entries = self.write(lambda session: list(jobs.get_leased(session, self._lease).warnings))
        return [JobWarning.model_validate(entry) for entry in entries]

    def save_checkpoint(self, checkpoint: SavedCheckpoint) -> None:
        """Publish the files, then record them. A recorded checkpoint is complete."""
        checkpoint_id = new_id("ckpt")
        files = publish_folder(
            self._context.store,
            checkpoint.folder,
            f"jobs/{self._lease.job_id}/a{self._lease.attempt}/checkpoints/{checkpoint_id}",
        )
        fault_point("checkpoint.published")
        log.info("checkpoint.saved", track=checkpoint.track, step=checkpoint.step)
        self._flush_buffer()
        self._outbox.append(lambda: self._record_checkpoint(checkpoint, checkpoint_id, files))
        self._start_writing()
        while self._is_writing and not (self._is_database_unavailable and len(self._outbox) < MAX_UNRECORDED):
            self._background.wait(_RETRY_SECONDS)
            self._start_writing()
        if not self._is_writing:
            self._background.wait()  # raises the error of the last write, e.g. `LeaseLost`

    def newest_checkpoint(self, track: str) -> Path | None:
        """Fetch the newest complete checkpoint of a track; delete the metrics after it, which will be logged again."""
        if self._lease.attempt == 1:
            return None
        self.flush()
        saved = self.write(lambda session: checkpoints.list_resumable(session, self._lease))
        for checkpoint in saved:
            if checkpoint.track != track:
                continue
            folder = self._fetch_checkpoint(checkpoint)
            if folder is not None:
                self._delete_metrics(track, after=checkpoint.step)
                return folder
        self._delete_metrics(track, after=-1)
        return None

    def find_teacher(self, fingerprint: str) -> Path | None:
        """Fetch a teacher with this fingerprint that a job of this project trained; None if there is none."""
        files = self.write(lambda session: teachers.find_files(session, self._project_id, fingerprint))
        if not files:
            return None
        try:
            return self._context.input_cache.fetch(files, self._scratch / "teachers" / fingerprint, self.poll)
        except StoredFileDamaged as error:
            # The job trains the teacher again and replaces this one.
            log.warning("teacher.damaged", fingerprint=fingerprint, error=error.detail)
            return None

    def save_teacher(self, fingerprint: str, folder: Path, *, kind: TrainedKind = "teacher") -> None:
        """Publish a trained teacher or baseline for later jobs that need one with the same fingerprint."""
        prefix = f"teachers/{self._project_id}/{fingerprint}/{self._lease.job_id}-a{self._lease.attempt}"
        files = publish_folder(self._context.store, folder, prefix)
        fault_point("teacher.published")
        self.write(lambda session: teachers.save(session, self._lease, fingerprint, files, kind=kind))
        fault_point("teacher.saved")

    def offer_views(self, offer: ViewOffer) -> None:
        """Offer views to idle workers with the same cache folder, unless the rest is too short to be worth it."""
        least_seconds = self._context.settings.teacher_cache_share_seconds
        if not least_seconds or offer.seconds < least_seconds:
            return
        cache_id = self._context.cache_id
        self.write(lambda session: view_offers.offer(session, self._lease, offer, cache_id=cache_id))
        self._context.broker.wake_job_workers(self._context.accelerator)

    # --- for the rest of the worker ---------------------------------------------------------------

    def flush(self) -> None:
        """Write the buffer and wait for it. Raises as :meth:`write` does."""
        self._flush_buffer()
        self._empty_outbox()

    def write(self, work: Callable[[Session], Value]) -> Value:
        """Commit ``work`` once in one transaction, after all earlier writes; then notify the subscribers of the job.

        Waits for an unavailable database up to ``outage_seconds``, then raises ``DatabaseUnavailable``. Raises
        ``LeaseLost``.
        """
        self._empty_outbox()
        return self._commit(work)

    def delete_files(self, keys: Iterable[str]) -> None:
        """Delete files without a reference. Garbage collection deletes those that fail now."""
        for key in keys:
            try:
                self._context.store.delete(key)
            except StorageFailed as error:
                log.warning("garbage.delete_failed", key=key, error=error.detail)

    def _commit(self, work: Callable[[Session], Value]) -> Value:
        deadline = time.monotonic() + self._context.settings.outage_seconds
        transaction = IdempotentTransaction(self._context.database, work)
        while True:
            try:
                value = transaction.run()
                break
            except DatabaseUnavailable:
                self._is_database_unavailable = True
                if time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_SECONDS)
        self._is_database_unavailable = False
        self._context.broker.publish_job_change(self._lease.job_id)
        return value

    def _flush_if_due(self) -> None:
        is_due = len(self._metrics) >= FLUSH_ROWS or time.monotonic() - self._flushed_at >= FLUSH_SECONDS
        if len(self._metrics) >= MAX_ROWS:
            self.flush()
        elif is_due and not self._background.is_running:
            self._flush_buffer()
            self._start_writing()

    def _flush_buffer(self) -> None:
        """Move the buffer to the end of the outbox."""
        rows, progress = self._metrics, self._progress
        self._metrics, self._progress = [], None
        self._flushed_at = time.monotonic()
        if rows or progress is not None:
            self._outbox.append(lambda: self._commit(lambda session: self._store(session, rows, progress)))

    def _start_writing(self) -> None:
        """Write the outbox in the background, unless a write is running. Raises the error of the last write."""
        if self._outbox and not self._background.is_running:
            self._background.start(self._write_outbox)

    @property
    def _is_writing(self) -> bool:
        return bool(self._outbox) or self._background.is_running

    def _write_outbox(self) -> None:
        while self._outbox:
            self._outbox.popleft()()

    def _empty_outbox(self) -> None:
        """Write the outbox and wait for it. Raises as :meth:`write` does."""
        self._background.wait()
        while self._outbox:
            self._start_writing()
            self._background.wait()

    def _record_checkpoint(self, checkpoint: SavedCheckpoint, checkpoint_id: str, files: Sequence[StoredFile]) -> None:
        """Record a published checkpoint; delete the files of the checkpoints that it supersedes."""

        def save(session: Session) -> checkpoints.StoredCheckpoint:
            saved = checkpoints.save(
                session,
                self._lease,
                track=checkpoint.track,
                step=checkpoint.step,
                epoch=checkpoint.epoch,
                files=files,
                metrics=checkpoint.metrics,
                retain=checkpoint.keep,
                checkpoint_id=checkpoint_id,
            )
            session.flush()
            fault_point("checkpoint.uncommitted")
            return saved

        saved = self._commit(save)
        fault_point("checkpoint.named")
        self.delete_files(saved.garbage_keys)
        fault_point("checkpoint.superseded")

    def _store(self, session: Session, rows: list[tuple[str, int, float]], progress: Progress | None) -> None:
        if rows:
            metrics.insert(session, self._lease, rows)
        if progress is not None:
            jobs.record_progress(session, self._lease, progress)

    def _fetch_checkpoint(self, checkpoint: Checkpoint) -> Path | None:
        """Fetch a checkpoint; return None if it is damaged, and delete its record."""
        folder = self._scratch / "checkpoints" / checkpoint.id
        try:
            return fetch_folder(self._context.store, parse_stored_files(checkpoint.files), folder)
        except StoredFileDamaged as error:
            log.warning("checkpoint.damaged", checkpoint=checkpoint.id, error=error.detail)
            self.delete_files(self.write(lambda session: checkpoints.discard(session, self._lease, checkpoint.id)))
            return None

    def _delete_metrics(self, track: str, *, after: int) -> None:
        self.write(lambda session: metrics.delete_after(session, self._lease, after, track=track))

"""What the engine tells, written down under the attempt that runs; what was asked of the job, told to the engine.

Small things (metrics, progress) are gathered and written together about once a second, beside the training, which
does not wait for the database; events and checkpoints are written at once, after what was gathered before. A write
after the lease is lost raises ``LeaseLost``, which ends the process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import structlog

from core.errors import StorageFailed
from core.ids import new_id
from core.reporting import Control, Interrupted, Progress, SavedCheckpoint, Stage
from core.store import checkpoints, events, jobs, metrics, teachers
from core.store.db import DatabaseUnavailable, Session
from core.store.leases import Attempt
from core.store.tables import Checkpoint, Job
from worker.beside import Beside
from worker.context import Context
from worker.files import fetch_folder, publish_folder, stored_files

FLUSH_SECONDS = 1.0
FLUSH_ROWS = 2_000
MOST_ROWS = 100_000  # gathered while the database is away; then the training waits for it
PATIENCE_SECONDS = 15.0  # with a database that is away, for what must be written
_PAUSE_SECONDS = 0.25

Value = TypeVar("Value")

log = structlog.get_logger(__name__)


class JobReporter:
    """The worker's side of a run (see :class:`core.reporting.Reporter`)."""

    def __init__(self, context: Context, job: Job, scratch: Path, control: Callable[[], Control]) -> None:
        self._context = context
        self._attempt = Attempt.of(job)
        self._project_id = job.project_id
        self._scratch = scratch
        self._control = control
        self._metrics: list[tuple[str, int, float]] = []
        self._progress: Progress | None = None
        self._flushed_at = time.monotonic()
        self._beside = Beside()
        self._training = False

    # --- cheap: gathered --------------------------------------------------------------------------

    def progress(self, progress: Progress) -> None:
        """Keep the newest; it is written with the next flush."""
        self._progress = progress
        self._flush_if_due()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Keep the values; they are written with the next flush. The student's first step is told at once."""
        self._metrics.extend((name, step, value) for name, value in values.items())
        if not self._training and any(name.startswith("train/") for name in values):
            self._training = True
            self.event("training.started", f"The student's training is at step {step}.", data={"step": step})
        self._flush_if_due()

    def control(self) -> Control:
        """What to do next: a byte in shared memory that the guardian writes."""
        return self._control()

    # --- at once ----------------------------------------------------------------------------------

    def stage_started(self, stage: Stage) -> None:
        """A stage begins; not for a job that is to leave its worker now. Raises ``Interrupted``."""
        self.flush()
        log.info("stage.started", stage=stage.value)
        self.write(lambda session: jobs.start_stage(session, self._attempt, stage.value))
        if (control := self.control()) in {Control.CANCEL, Control.PAUSE, Control.DRAIN}:
            raise Interrupted(control)

    def stage_finished(self, stage: Stage) -> None:
        """A stage is done."""
        self.flush()
        self.write(lambda session: jobs.finish_stage(session, self._attempt, stage.value))

    def event(
        self,
        type: str,  # noqa: A002 - the wire's word
        message: str,
        *,
        level: Literal["info", "warning", "error"] = "info",
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Add to the job's log."""
        log.info(type, message=message)
        self.write(lambda session: events.append(session, self._attempt, type, message, level=level, data=data))

    def save_checkpoint(self, checkpoint: SavedCheckpoint) -> None:
        """Publish the files, then list them. A checkpoint that is listed is whole."""
        self.flush()
        checkpoint_id = new_id("ckpt")
        files = publish_folder(
            self._context.store,
            checkpoint.folder,
            f"jobs/{self._attempt.job_id}/a{self._attempt.attempt}/checkpoints/{checkpoint_id}",
        )
        saved = self.write(
            lambda session: checkpoints.save(
                session,
                self._attempt,
                track=checkpoint.track,
                step=checkpoint.step,
                epoch=checkpoint.epoch,
                files=files,
                metrics=checkpoint.metrics,
                keep=checkpoint.keep,
                checkpoint_id=checkpoint_id,
            )
        )
        log.info("checkpoint.saved", track=checkpoint.track, step=checkpoint.step)
        self._delete(saved.garbage)

    def newest_checkpoint(self, track: str) -> Path | None:
        """Bring the newest whole checkpoint of a track here; what was measured after it comes again."""
        if self._attempt.attempt == 1:
            return None  # nothing came before
        self.flush()
        listed = self.write(lambda session: checkpoints.newest(session, self._attempt))
        for checkpoint in (one for one in listed if one.track == track):
            folder = self._bring(checkpoint)
            if folder is not None:
                self._forget_metrics(track, after=checkpoint.step)
                return folder
        self._forget_metrics(track, after=-1)
        return None

    def find_teacher(self, recipe: str) -> Path | None:
        """Bring a teacher that some job of this project trained by the same recipe."""
        found = self.write(lambda session: teachers.find(session, self._project_id, recipe))
        if found is None:
            return None
        try:
            return fetch_folder(self._context.store, stored_files(found.files), self._scratch / "teachers" / recipe)
        except StorageFailed as error:
            log.warning("teacher.damaged", recipe=recipe, error=error.detail)  # trained once more, it replaces this
            return None

    def keep_teacher(self, recipe: str, folder: Path) -> None:
        """Publish a trained teacher for every later job with the same recipe."""
        prefix = f"teachers/{self._project_id}/{recipe}/{self._attempt.job_id}-a{self._attempt.attempt}"
        files = publish_folder(self._context.store, folder, prefix)
        self.write(lambda session: teachers.keep(session, self._attempt, recipe, files))

    # --- what the runner needs too ------------------------------------------------------------------

    def flush(self) -> None:
        """Have all that was gathered written. Raises as :meth:`write` does."""
        self._write_gathered()
        self._beside.wait()

    def write(self, work: Callable[[Session], Value]) -> Value:
        """Do ``work`` in one transaction, again and again while the database is away for a moment; tell who follows.

        Raises ``LeaseLost``; ``DatabaseUnavailable`` after ``PATIENCE_SECONDS``.
        """
        self._beside.wait()
        return self._written(work)

    # --- inside -----------------------------------------------------------------------------------

    def _written(self, work: Callable[[Session], Value]) -> Value:
        ends = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                with self._context.database.write() as session:
                    value = work(session)
                break
            except DatabaseUnavailable:
                if time.monotonic() > ends:
                    raise
                time.sleep(_PAUSE_SECONDS)
        self._context.hints.changed(self._attempt.job_id)
        return value

    def _flush_if_due(self) -> None:
        due = len(self._metrics) >= FLUSH_ROWS or time.monotonic() - self._flushed_at >= FLUSH_SECONDS
        if due and (not self._beside.busy or len(self._metrics) >= MOST_ROWS):
            self._write_gathered()

    def _write_gathered(self) -> None:
        """Start writing what was gathered, after what is being written."""
        rows, progress = self._metrics, self._progress
        self._metrics, self._progress = [], None
        self._flushed_at = time.monotonic()
        if rows or progress is not None:
            self._beside.start(lambda: self._written(lambda session: self._store(session, rows, progress)))

    def _store(self, session: Session, rows: list[tuple[str, int, float]], progress: Progress | None) -> None:
        if rows:
            metrics.insert(session, self._attempt, rows)
        if progress is not None:
            jobs.record_progress(session, self._attempt, progress)

    def _bring(self, checkpoint: Checkpoint) -> Path | None:
        """The checkpoint's folder, or None for a damaged one, which is then taken off the list."""
        folder = self._scratch / "checkpoints" / checkpoint.id
        try:
            return fetch_folder(self._context.store, stored_files(checkpoint.files), folder)
        except StorageFailed as error:
            log.warning("checkpoint.damaged", checkpoint=checkpoint.id, error=error.detail)
            self._delete(self.write(lambda session: checkpoints.discard(session, self._attempt, checkpoint.id)))
            return None

    def _forget_metrics(self, track: str, *, after: int) -> None:
        self.write(lambda session: metrics.drop_after(session, self._attempt, after, track=track))

    def _delete(self, keys: Iterable[str]) -> None:
        """Delete files that nothing names any more; what cannot be deleted now is left to the collector."""
        for key in keys:
            try:
                self._context.store.delete(key)
            except StorageFailed as error:
                log.warning("garbage.left", key=key, error=error.detail)

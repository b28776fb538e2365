"""Publish the artifacts of a finished job: store them, read them back, record them in one guarded UPDATE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.models.safetensors_header import read_model_info
from core.reporting import Control, Interrupted, RunResult
from core.spec import JobSpec
from core.spec.exports import media_type
from core.store import checkpoints, jobs, lineage, models
from core.store.db import Session
from core.store.job_leases import LeaseToken
from core.store.jobs import NewArtifact
from core.store.tables import Job, Model
from core.store.weights import WEIGHTS_FILES
from core.system.fault_injection import fault_point
from worker.context import Context
from worker.jobs.reporter import JobReporter
from worker.stored_files import publish_file


def publish(context: Context, job: Job, spec: JobSpec, run: RunResult, reporter: JobReporter) -> None:
    """Publish the artifacts, add the student as a model of the project, and mark the job as succeeded.

    Then delete the files that only a resume needs; garbage collection deletes those that a crash leaves.

    Raises ``Interrupted`` if a cancel came first. Then no row names the files, and garbage collection deletes them.
    """
    artifacts = []
    for name, path in sorted(run.artifacts.items()):
        if reporter.control() is Control.CANCEL:
            raise Interrupted(Control.CANCEL)
        stored = publish_file(context.store, f"jobs/{job.id}/a{job.attempt}/artifacts/{name}", path)
        artifacts.append(NewArtifact(name, media_type(name), stored, run.receipts.get(name)))
        fault_point("artifact.published")
    fault_point("artifacts.published")
    model_info = read_model_info(run.artifacts["config.json"].parent)
    lease = LeaseToken.from_job(job)

    def finish(session: Session) -> list[str]:
        before = checkpoints.list_files(session, job.id)
        model = models.create_student(
            session,
            lease,
            name=spec.name or job.id,
            info=model_info,
            files=[artifact.file for artifact in artifacts if artifact.name in WEIGHTS_FILES],
            parent_id=lineage.parent_of_student(session, job.project_id, spec.model_dump(mode="json")),
        )
        compressed = _add_compressed_models(session, lease, run, artifacts, student=model)
        result = {**run.result, **({"compressed": compressed} if compressed else {})}
        jobs.succeed(session, lease, result=result, artifacts=artifacts, model_id=model.id)
        session.flush()
        fault_point("success.uncommitted")
        after = {file.key for file in checkpoints.list_files(session, job.id)}
        return [file.key for file in before if file.key not in after]

    unreferenced_keys = reporter.write(finish)
    fault_point("success.committed")
    reporter.delete_files(unreferenced_keys)
    fault_point("success.cleaned")


def _add_compressed_models(
    session: Session, lease: LeaseToken, run: RunResult, artifacts: Sequence[NewArtifact], *, student: Model
) -> list[dict[str, Any]]:
    """Add each compressed network that is published as torch weights as a model; return the result's entries.

    An entry has the id of its ``model``, or None for a file of another format. The parent of a model is the network
    that its step changed: the student, or the model of the step before.
    """
    entries, parent = [], student
    for entry in run.result.get("compressed", []):
        folder, _, name = (entry["artifact"] or "").rpartition("/")
        model_id = None
        if folder and name == "model.safetensors":
            names = {f"{folder}/{file}" for file in WEIGHTS_FILES}
            parent = models.create_student(
                session,
                lease,
                name=f"{student.name} {folder}",
                info=read_model_info(run.artifacts[entry["artifact"]].parent),
                files=[artifact.file for artifact in artifacts if artifact.name in names],
                parent_id=parent.id,
            )
            model_id = parent.id
        entries.append({**entry, "model": model_id})
    return entries

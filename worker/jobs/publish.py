"""What a finished job hands out: published, read back, named by one guarded UPDATE."""

from __future__ import annotations

from core.models.safetensors_header import read_model_info
from core.reporting import Control, Interrupted, RunResult
from core.spec import JobSpec
from core.store import jobs, models
from core.store.db import Session
from core.store.job_leases import LeaseToken
from core.store.jobs import NewArtifact
from core.store.tables import Job
from core.system.fault_injection import fault_point
from worker.context import Context
from worker.jobs.inputs import STUDENT_FILES
from worker.jobs.reporter import JobReporter
from worker.stored_files import publish_file

MEDIA_TYPES = {
    ".safetensors": "application/octet-stream",
    ".onnx": "application/octet-stream",
    ".json": "application/json",
    ".md": "text/markdown; charset=utf-8",
}


def publish(context: Context, job: Job, spec: JobSpec, run: RunResult, reporter: JobReporter) -> None:
    """Publish the artefacts and let the job succeed, together with the student as a model of the project.

    Raises ``Interrupted`` where a cancel came first: then nothing is named, and the collector finds the files.
    """
    artifacts = []
    for name, path in sorted(run.artifacts.items()):
        if reporter.control() is Control.CANCEL:
            raise Interrupted(Control.CANCEL)
        stored = publish_file(context.store, f"jobs/{job.id}/a{job.attempt}/artifacts/{name}", path)
        artifacts.append(NewArtifact(name, MEDIA_TYPES.get(path.suffix, "application/octet-stream"), stored))
        fault_point("artifact.published")
    fault_point("artifacts.published")
    facts = read_model_info(run.artifacts["config.json"].parent)
    attempt = LeaseToken.of(job)

    def finish(session: Session) -> None:
        model = models.create_student(
            session,
            attempt,
            name=spec.name or job.id,
            facts=facts,
            files=[artifact.file for artifact in artifacts if artifact.name in STUDENT_FILES],
        )
        jobs.succeed(session, attempt, result=run.result, artifacts=artifacts, model_id=model.id)
        session.flush()
        fault_point("success.uncommitted")

    reporter.write(finish)
    fault_point("success.committed")

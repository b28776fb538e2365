"""Jobs with outputs, for tasks on other services."""

from datetime import timedelta

import pytest

from core.spec.info import ModelInfo
from core.store import jobs, metrics, models
from core.store.db import utc_now
from core.store.job_leases import LeaseToken
from core.store.jobs import NewArtifact
from worker.scheduler.outbound_runner import OutboundRunner

CARD = b'---\nlibrary_name: timm\n---\n\n# Student\n\ntimm.create_model("local-dir:PATH_OF_THIS_FOLDER")\n'
FILES = {
    "README.md": CARD,
    "config.json": b"{}",
    "model.safetensors": b"weights" * 500,
    "report.json": b'{"top1": 0.9}',
    "predictions.npz": b"private",
}
MEASURES = {"top1": 0.9, "top5": 1.0, "parameters": 10, "flops": 1e6, "size_bytes": 40, "latency_ms": 1.0}
RESULT = {"student": MEASURES, "teachers": [MEASURES], "compressed": [], "agreement": 0.9}
SPEC = {
    "method": {"name": "kd", "temperature": 4.0},
    "teachers": [{"architecture": "resnet18", "weights": "train"}],
    "training": {"epochs": 2, "ema": None},
}


class JobRun:
    """A running job whose worker is this test."""

    def __init__(self, service, store, tmp_path, **changes):
        self.service, self.store, self.tmp_path = service, store, tmp_path
        document = {"dataset": service.dataset, **SPEC}
        job = service.write(
            jobs.create, service.project, spec=document, resolved=True, dataset_id=service.dataset, **changes
        )
        claimed = service.write(jobs.claim, worker_id="wrk_test", accelerator="cpu", lease_seconds=600)
        self.id, self.lease = job.id, LeaseToken.from_job(claimed)

    def log(self, first, last, name="train/loss"):
        self.service.write(metrics.insert, self.lease, [(name, step, 1.0 / step) for step in range(first, last + 1)])

    def succeed(self, *, with_model=False):
        artifacts = []
        for name, content in FILES.items():
            (self.tmp_path / name).write_bytes(content)
            key = f"jobs/{self.id}/a1/artifacts/{name}"
            artifacts.append(NewArtifact(name, "text/plain", self.store.put(key, self.tmp_path / name)))

        def finish(session):
            model_id = None
            if with_model:
                sizes = {"num_classes": 2, "channels": 1, "parameters": 1, "size_bytes": 4}
                info = ModelInfo(architecture="resnet18", arguments={}, **sizes)
                new = {"name": "deit/pets", "info": info, "files": [], "parent_id": "mdl_parent"}
                model_id = models.create_student(session, self.lease, **new).id
            jobs.succeed(session, self.lease, result=RESULT, artifacts=artifacts, model_id=model_id)
            return model_id

        return self.service.write(finish)


@pytest.fixture
def start_job(service, store, tmp_path):
    """Start a job: it is claimed, and its worker is this test."""
    return lambda **changes: JobRun(service, store, tmp_path, **changes)


@pytest.fixture
def make_runner(service):
    """Make a runner with a clock that ``runner.later`` sets forward."""

    def make(**handlers):
        later = {"seconds": 0.0}
        runner = OutboundRunner(
            service.context.database,
            handlers,
            clock=lambda session: utc_now(session) + timedelta(seconds=later["seconds"]),
        )
        runner.later = lambda seconds: later.update(seconds=later["seconds"] + seconds)
        return runner

    return make

"""Rows of a project that has used the service for a while, for the dashboard's benchmark: nothing is trained."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from core.ids import new_id
from core.reporting import Progress, Stage
from core.spec.examples import example_job
from core.spec.info import ModelInfo
from core.store import job_counts, jobs, metrics, models, sweeps, workers
from core.store.artifact_store import ArtifactStore, StoredFile
from core.store.db import Database
from core.store.ingest_leases import IngestLeaseToken
from core.store.jobs import LeaseToken, NewArtifact
from core.store.tables import Job

METHODS = ("kd", "dkd", "deit", "dist", "scratch", "fitnets", "rkd", "mgd", "ofa", "nkd")
NAMES = ("small student", "baseline", "temperature 2", "strong augmentation", "longer training", "narrow student")
_STATUSES = ("succeeded",) * 14 + ("failed",) * 2 + ("cancelled",) * 3 + ("queued",)
_STEPS = 780
_ROWS_PER_STATEMENT = 500
_REFUSED_STEPS = (
    {
        "artifact": None, "top1": 0.412, "size_bytes": 70_000, "latency_ms": 0.3, "step": 2, "name": "quantize",
        "status": "rejected", "reason": "top-1 on the held-out images fell from 78.20 % to 41.20 %, more than 1.00 %",
    },
    {
        "artifact": None, "top1": None, "size_bytes": None, "latency_ms": None, "step": 3, "name": "merge",
        "status": "failed", "reason": "the network has no tokens to merge after the pruning",
    },
)  # fmt: skip


class Project:
    """Fills one project with jobs of every status."""

    def __init__(self, database: Database, store: ArtifactStore, project_id: str, dataset_id: str) -> None:
        self.database = database
        self.store = store
        self.project_id = project_id
        self.dataset_id = dataset_id
        self._random = random.Random(0)

    def add_old_jobs(self, count: int) -> None:
        """Insert jobs without metrics and files, which ended or wait."""
        rows = [self._row(index) for index in range(count)]
        with self.database.write() as session:
            for start in range(0, count, _ROWS_PER_STATEMENT):
                session.execute(insert(Job), rows[start : start + _ROWS_PER_STATEMENT])
            job_counts.recount(session)

    def add_finished_job(self, index: int, folder: Path, **membership: Any) -> str:
        """Create a job as its worker does, with curves and files; return its id."""
        spec = self._spec(index)
        lease = self._start(spec, priority=50, **membership)
        result = self._result(index, spec)
        with self.database.write() as session:
            for stage in (Stage.PREPARE, Stage.DISTILL):
                jobs.start_stage(session, lease, stage)
                if stage is Stage.DISTILL:
                    metrics.insert(session, lease, list(_curves(index, result["student"]["top1"])))
                    progress = Progress(
                        fraction=0.9, step=_STEPS, total_steps=_STEPS, epoch=20, images_per_second=410.0
                    )
                    jobs.record_progress(session, lease, progress)
                jobs.finish_stage(session, lease, stage)
        names = ["model.safetensors", "model.onnx", "config.json"]
        names += [each["artifact"] for each in result["compressed"] if each["artifact"]]
        artifacts = [self._artifact(lease, name, folder, result["student"]["top1"]) for name in names]
        with self.database.write() as session:
            jobs.succeed(session, lease, result=result, artifacts=artifacts)
            job = jobs.get(session, self.project_id, lease.job_id)
            # The rows are written within a second; a training takes minutes.
            job.started_at = job.finished_at - timedelta(seconds=240 + 31 * index)
            job.stages = [
                {**stage, "seconds": 3.1 if stage["name"] == "prepare" else 230.0 + 31 * index} for stage in job.stages
            ]
        return lease.job_id

    def add_sweep(self, folder: Path) -> str:
        """Create a sweep over temperature and width, of which all jobs but the last two have ended; return its id."""
        grid = {"method.temperature": [1.0, 2.0, 4.0, 8.0], "student.arguments.embed_dim": [48, 96]}
        combinations = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
        with self.database.write() as session:
            sweep = sweeps.create(
                session, self.project_id, name="width and temperature", spec=self._spec(0), grid=grid, points=[],
                fields=list(grid), num_jobs=len(combinations),
            )  # fmt: skip
        for index, values in enumerate(combinations):
            membership = {"sweep_id": sweep.id, "sweep_point": {"number": index + 1, "values": values}}
            if index < len(combinations) - 2:
                self.add_finished_job(index, folder, **membership)
            elif index == len(combinations) - 2:
                self.add_failed_job(**membership)
            else:
                self._start(self._spec(index), priority=50, **membership)
        return sweep.id

    def add_running_job(self) -> str:
        """Create a job in the middle of its training, and its worker; return its id."""
        lease = self._start(self._spec(1), priority=60)
        with self.database.write() as session:
            jobs.start_stage(session, lease, Stage.DISTILL)
            points = [point for point in _curves(1, 0.7) if point[1] <= _STEPS // 2]
            metrics.insert(session, lease, points)
            progress = Progress(
                fraction=0.46,
                step=_STEPS // 2,
                total_steps=_STEPS,
                epoch=10,
                images_per_second=412.0,
                eta_seconds=161.0,
            )
            jobs.record_progress(session, lease, progress)
        return lease.job_id

    def add_long_job(self, num_steps: int) -> str:
        """Create a running job with a point of each curve at every step; return its id."""
        lease = self._start(self._spec(1), priority=60)
        with self.database.write() as session:
            jobs.start_stage(session, lease, Stage.DISTILL)
        for start in range(0, num_steps, _STEPS):
            points = [(name, start + step, value) for name, step, value in _curves(start, 0.7) if step]
            with self.database.write() as session:
                metrics.insert(session, lease, points)
        return lease.job_id

    def add_failed_job(self, **membership: Any) -> str:
        """Create a job that ran out of memory; return its id."""
        lease = self._start(self._spec(2), priority=55, **membership)
        error = {
            "code": "out_of_memory",
            "message": "the job needed more memory than its worker has",
            "fault": "capacity",
            "retryable": False,
            "advice": "Halve the batch size and accumulate two parts: this keeps the learning rate.",
            "fix": {"training": {"batch_size": 32}},
            "log": ["step 12: loss 2.31", "allocating 412 MB failed"],
            "machine": {"memory_peak_bytes": 3_400_000_000, "memory_limit_bytes": 3_200_000_000, "device": None},
        }
        with self.database.write() as session:
            jobs.start_stage(session, lease, Stage.PREPARE)
            jobs.fail(session, lease, error)
        return lease.job_id

    def add_model(self) -> str:
        """Create an uploaded model that is ready; return its id."""
        info = ModelInfo(
            architecture="resnet18", arguments={"num_classes": 10}, num_classes=10, channels=3, parameters=11_181_642,
            size_bytes=44_726_568,
        )  # fmt: skip
        with self.database.write() as session:
            model = models.create(
                session, self.project_id, name="cifar10-resnet18", architecture="resnet18", arguments={}, upload_key="x"
            )
            model.worker_id, model.attempt = "wrk_benchmark", 1
            session.flush()
            return models.mark_ready(session, IngestLeaseToken(model.id, 1), files=[], info=info).id

    def add_processes(self, running_job: str) -> None:
        """Register the processes of two machines."""
        with self.database.write() as session:
            for role, host, device, job_id in _processes(running_job):
                accelerator = "cuda" if device else None
                details = {"devices": 1, "memory_bytes": 24 * 10**9} if device else {}
                worker = workers.register(
                    session, worker_id=new_id("wrk"), role=role, host=host, pid=1, accelerator=accelerator,
                    device=device, details=details,
                )  # fmt: skip
                worker.job_id = job_id
                worker.last_seen_at += timedelta(hours=1)  # it sends no heartbeats

    def _start(self, spec: dict[str, Any], *, priority: int, **membership: Any) -> LeaseToken:
        with self.database.write() as session:
            job = jobs.create(
                session, self.project_id, spec=spec, resolved=True, dataset_id=self.dataset_id, name=spec["name"],
                priority=priority, metadata=spec["metadata"], total_steps=_STEPS, **membership,
            )  # fmt: skip
            claimed = jobs.claim(session, worker_id="wrk_benchmark", accelerator="cpu", lease_seconds=36_000)
            assert claimed is not None
            assert claimed.id == job.id
            return LeaseToken.from_job(claimed)

    def _artifact(self, lease: LeaseToken, name: str, folder: Path, top1: float) -> NewArtifact:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(f"{lease.job_id} {name}".encode() * 1000)
        stored = self.store.put(f"jobs/{lease.job_id}/a1/artifacts/{name}", path)
        receipt = None if name == "config.json" else _receipt(name, stored, top1)
        return NewArtifact(name, "application/octet-stream", stored, receipt)

    def _spec(self, index: int) -> dict[str, Any]:
        method = METHODS[index % len(METHODS)]
        spec = example_job(method, dataset=self.dataset_id, pool=self.dataset_id, trained="random")
        embed_dim = 48 * (1 + index % 4)
        if spec["student"]["architecture"].startswith("vit"):
            spec["student"]["arguments"] = {
                "patch_size": 4,
                "embed_dim": embed_dim,
                "depth": 4,
                "num_heads": embed_dim // 16,
            }
        spec["training"] = {"epochs": 20, "batch_size": 64, "image_size": 32, "seed": index % 3, "learning_rate": 1e-3}
        spec["metadata"] = {"team": ("search", "ads", "vision")[index % 3]}
        return {"teachers": [], **spec, "name": f"{method}, {NAMES[index % len(NAMES)]}"}

    def _result(self, index: int, spec: dict[str, Any]) -> dict[str, Any]:
        scale = 1 + index % 4
        top1 = round(0.55 + 0.06 * scale + 0.05 * math.sin(index) + 0.01 * self._random.random(), 4)
        student = {
            "top1": top1, "top5": 0.97, "parameters": 120_000 * scale**2, "flops": 7.5e6 * scale**2,
            "size_bytes": 480_000 * scale**2, "latency_ms": round(0.6 * scale + 0.1 * (index % 3), 2),
        }  # fmt: skip
        teacher = {
            "top1": 0.93, "top5": 0.998, "parameters": 11_200_000, "flops": 5.6e8, "size_bytes": 44_700_000,
            "latency_ms": 4.2,
        }  # fmt: skip
        pruned = {
            **student, "artifact": "pruned/model.safetensors", "top1": round(top1 - 0.004, 4), "step": 0,
            "name": "prune", "status": "applied", "reason": None, "size_bytes": 260_000 * scale**2,
        }  # fmt: skip
        int8 = {
            "artifact": "model.int8.onnx", "top1": round(top1 - 0.006, 4), "size_bytes": 130_000 * scale**2,
            "latency_ms": round(0.35 * scale, 2), "step": 1, "name": "quantize", "status": "applied", "reason": None,
        }  # fmt: skip
        compressed = [pruned, int8, *_REFUSED_STEPS] if index % 2 == 0 else []
        teachers = [teacher for _ in spec["teachers"]]
        return {
            "student": student, "teachers": teachers, "compressed": compressed,
            "agreement": round(top1 - 0.01, 3) if teachers else None,
        }  # fmt: skip

    def _row(self, index: int) -> dict[str, Any]:
        status = self._random.choice(_STATUSES)
        spec = self._spec(index)
        created = datetime.now(UTC) - timedelta(minutes=7 * (index + 3))
        ended = status != "queued"
        started = created + timedelta(seconds=20) if ended else None
        finished = created + timedelta(seconds=120 + self._random.randrange(900)) if ended else None
        progress = {
            "fraction": 1.0 if status == "succeeded" else 0.0, "step": 0, "total_steps": _STEPS, "epoch": 0,
            "images_per_second": None, "eta_seconds": None, "stage_step": None, "stage_total_steps": None,
        }  # fmt: skip
        error = {"code": "non_finite_loss", "message": "train/kd became NaN at step 40"} if status == "failed" else None
        return {
            "id": _old_id(created, index), "project_id": self.project_id, "name": spec["name"], "status": status,
            "stages": [], "progress": progress, "spec": spec, "resolved": True, "dataset_id": self.dataset_id,
            "priority": 0, "accelerator": "auto", "attempt": 1, "worker_losses": 0, "checkpoint_step": 0, "last_seq": 0,
            "cancel_requested": False, "pause_requested": False, "stop_requested": False, "error": error,
            "warnings": [],
            "result": {"model": None, **self._result(index, spec)} if status == "succeeded" else None,
            "metadata_": spec["metadata"], "created_at": created, "started_at": started, "finished_at": finished,
        }  # fmt: skip


def _processes(running_job: str) -> Iterator[tuple[workers.Role, str, str | None, str | None]]:
    yield "worker", "gpu-01", "NVIDIA L4", running_job
    yield "worker", "gpu-02", "NVIDIA L4", None
    yield "ingest", "cpu-01", None, None
    yield "scheduler", "cpu-01", None, None


def _old_id(created: datetime, index: int) -> str:
    """Return an id that sorts by the time, as ids of that time do."""
    return f"job_{int(created.timestamp()):014d}{index:012d}"


def _receipt(name: str, stored: StoredFile, top1: float) -> dict[str, Any]:
    """Return what was measured of an exported file."""
    runtime, versions = ("onnxruntime", {"onnx": "1.20"}) if name.endswith(".onnx") else ("timm", {"torch": "2.9"})
    return {
        "runtime": runtime, "format": name.rpartition(".")[2],
        "logits": {"max_difference": 2e-6, "mean_difference": 1e-7, "tolerance": None, "images": 32},
        "top1": top1, "top1_student": top1, "agreement": 1.0, "evaluated_images": 2000, "test_images": 10_000,
        "latency_ms": {"1": 0.6, "32": 9.4}, "threads": 2, "size_bytes": stored.size_bytes, "sha256": stored.sha256,
        "files": [{"name": name}], "versions": versions,
    }  # fmt: skip


def _curves(index: int, top1: float) -> Iterator[tuple[str, int, float]]:
    noise = random.Random(index)
    for step in range(1, _STEPS + 1):
        decay = math.exp(-step / (180 + 25 * (index % 4)))
        yield "train/loss", step, 0.5 + 1.8 * decay + 0.05 * noise.random()
        yield "train/kd", step, 0.3 + 1.1 * decay + 0.05 * noise.random()
        yield "train/label", step, 0.2 + 0.7 * decay
        if step % 39 == 0:
            yield "eval/top1", step, top1 * (1 - 0.7 * decay)
    yield "teacher/0/top1", 0, 0.93

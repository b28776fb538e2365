"""Dump the rows of a service as SQL, to test upgrades from this schema. Run it before a release, and per migration:

    python tests/core/store/releases/make.py > tests/core/store/releases/NNNN.sql    # NNNN: the newest migration

The rows include every status of every object. Ids are numbered, so that a test can insert the same rows twice.
"""

import hashlib
import json
import re
import sys
import tempfile
from collections import defaultdict
from datetime import datetime
from pathlib import Path

from sqlalchemy import Boolean, select

from core.ids import new_id
from core.reporting import Progress
from core.spec.info import ModelInfo
from core.store import checkpoints, datasets, events, idempotency, jobs, keys, metrics, models, projects, teachers
from core.store import workers as processes
from core.store.artifact_store import StoredFile
from core.store.db import Database, make_engine, migrate
from core.store.ingest_leases import IngestLeaseToken
from core.store.jobs import LeaseToken, NewArtifact
from core.store.tables import Base

SECRET = "0" * 64  # of the key: `ps_` + its id + this
SPEC = {
    "name": "from a release",
    "student": {"architecture": "vit_tiny_patch16_224", "weights": "random", "arguments": {"img_size": 8}},
    "teachers": [],
    "method": {"name": "scratch"},
    "training": {"epochs": 2, "batch_size": 16, "image_size": 8},
}
MODEL_INFO = ModelInfo(architecture="vit", arguments={}, num_classes=2, channels=1, parameters=10, size_bytes=40)
METRICS = {"top1": 0.9, "top5": 1.0, "parameters": 10, "flops": 1e6, "size_bytes": 40, "latency_ms": 1.0}
ID = re.compile(r"\b(ds|mdl|job|evt|ckpt|up|key|prj|wrk|ps)_([0-9a-hjkmnp-tv-z]{26})\b")


class World:
    """Project with objects in every status."""

    def __init__(self, database):
        self.database = database
        self.project = self.do(projects.create, "default").id
        self.fill()

    def do(self, function, *args, **options):
        with self.database.write() as session:
            return function(session, *args, **options)

    def fill(self):
        self.do(keys.create, self.project, name="admin")
        with self.database.write() as session:
            session.execute(
                Base.metadata.tables["api_keys"]
                .update()
                .values(secret_hash=hashlib.sha256(SECRET.encode()).hexdigest())
            )
        self.dataset = self.ready_dataset()
        self.do(datasets.create, self.project, name="waits", source={"type": "builtin", "name": "digits"})
        self.do(
            models.create, self.project, name="m", architecture="resnet18", arguments={}, upload_key="uploads/m/file"
        )
        self.do(processes.register, worker_id=new_id("wrk"), role="worker", host="localhost", pid=1, accelerator="cpu")
        # The release comes last, because its job stays queued and would be claimed again.
        for finish in (self.succeed, self.fail, self.cancel, self.run, self.pause, self.release):
            finish()
        new = self.do(idempotency.begin, self.project, "a-key", "f" * 64)
        self.do(idempotency.finish, new, 201, {"id": "job_x", "object": "job"})

    def ready_dataset(self):
        dataset = self.do(datasets.create, self.project, name="digits", source={"type": "builtin", "name": "digits"})
        self.do(
            datasets.mark_ready,
            IngestLeaseToken.from_row(self.do(datasets.claim, worker_id="w", lease_seconds=60)),
            files=[StoredFile(f"datasets/{dataset.id}/a1/index.json", 10, "0" * 64)],
            splits={"train": {"num_samples": 80}, "test": {"num_samples": 20}},
            num_classes=2,
            classes=["a", "b"],
            channels=1,
            image_size=8,
            fingerprint="0" * 64,
            size_bytes=10,
            rejected=[{"path": "train/a/7.jpg", "reason": "it is not an image"}],
        )
        return dataset.id

    def start_job(self):
        """Start a job and train it halfway; return its lease."""
        spec = {**SPEC, "dataset": self.dataset}
        self.do(jobs.create, self.project, spec=spec, resolved=True, dataset_id=self.dataset, metadata={"team": "x"})
        lease = LeaseToken.from_job(self.do(jobs.claim, worker_id="wrk_gone", accelerator="cpu", lease_seconds=-1))
        self.do(jobs.start_stage, lease, "distill")
        self.do(events.append, lease, "training.started", "The student's first step.")
        self.do(metrics.insert, lease, [("train/loss", step, 2.0 - step / 16) for step in range(16)])
        self.do(metrics.insert, lease, [("train/loss", 16, float("nan"))])
        folder = f"jobs/{lease.job_id}/a1/checkpoints/s5"
        files = [StoredFile(f"{folder}/{name}", 10, "1" * 64) for name in ("model.safetensors", "state.pt")]
        self.do(checkpoints.save, lease, track="distill", step=5, epoch=1, files=files, metrics={"loss": 1.0})
        self.do(jobs.record_progress, lease, Progress(fraction=0.5, step=7, total_steps=10, epoch=1))
        return lease

    def succeed(self):
        lease = self.start_job()
        self.do(jobs.finish_stage, lease, "distill")
        files = [
            StoredFile(f"jobs/{lease.job_id}/a1/artifacts/{name}", 40, "2" * 64)
            for name in ("model.safetensors", "config.json")
        ]
        self.do(teachers.save, lease, "fingerprint-1", files)
        student = self.do(models.create_student, lease, name="student", info=MODEL_INFO, files=files)
        result = {"student": METRICS, "teachers": [], "compressed": [], "agreement": None}
        named = [NewArtifact(file.name, "application/octet-stream", file) for file in files]
        self.do(jobs.succeed, lease, result=result, artifacts=named, model_id=student.id)

    def fail(self):
        self.do(jobs.fail, self.start_job(), {"code": "out_of_memory", "message": "Ask for a smaller batch."})

    def cancel(self):
        lease = self.start_job()
        self.do(jobs.cancel, self.project, lease.job_id)
        self.do(jobs.release_cancelled, lease)

    def run(self):
        self.do(jobs.stop, self.project, self.start_job().job_id)

    def release(self):
        self.do(jobs.release, self.start_job())

    def pause(self):
        lease = self.start_job()
        self.do(jobs.pause, self.project, lease.job_id)
        self.do(jobs.release_paused, lease)


def literal(value, column):
    """Return a value as SQL for both SQLite and PostgreSQL."""
    match value:
        case None:
            return "NULL"
        case _ if isinstance(column.type, Boolean):
            return "TRUE" if value else "FALSE"
        case int() | float():
            return repr(value)
        case datetime():
            return f"'{value:%Y-%m-%d %H:%M:%S.%f}'"
        case str():
            text = value
        case _:
            text = json.dumps(value, sort_keys=True)
    assert "%" not in text, "psycopg reads % as a parameter"
    return "'" + text.replace("'", "''") + "'"


def numbered(sql):
    """Replace ids by numbers in order of first appearance, so that the same rows give the same text."""
    numbers, counts = {}, defaultdict(int)

    def number(match):
        kind, body = match.groups()
        if body not in numbers:
            counts[kind] += 1
            numbers[body] = f"{counts[kind]:026d}"
        return f"{kind}_{numbers[body]}"

    return ID.sub(number, sql)


def statements(connection):
    for table in Base.metadata.sorted_tables:
        columns = [
            column for column in table.columns if column.server_default is None or column.server_default.has_argument
        ]
        for row in connection.execute(select(*columns).order_by(*table.primary_key.columns)):
            names = ", ".join(f'"{column.name}"' for column in columns)
            values = ", ".join(literal(value, column) for value, column in zip(row, columns, strict=True))
            yield f"INSERT INTO {table.name} ({names}) VALUES ({values});"


def main():
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder)}/potstill.db"
        migrate(url)
        database = Database(make_engine(url))
        World(database)
        with database.engine.connect() as connection:
            sys.stdout.write(numbered("\n".join(statements(connection))) + "\n")
        database.dispose()


if __name__ == "__main__":
    main()

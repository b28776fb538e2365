"""Writes the rows of a service as SQL: run it before a release, so that later ones are tested to upgrade from it.

    python tests/core/store/releases/make.py > tests/core/store/releases/NNNN.sql    # NNNN: the newest migration

Every status of everything is there. Ids are numbered, so that a test can add the same rows twice.
"""

import hashlib
import json
import re
import sys
import tempfile
from collections import defaultdict
from datetime import datetime
from pathlib import Path

from sqlalchemy import Boolean

from core.ids import new_id
from core.reporting import Progress
from core.spec.facts import ModelInfo
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
FACTS = ModelInfo(architecture="vit", arguments={}, num_classes=2, channels=1, parameters=10, size_bytes=40)
MEASURED = {"top1": 0.9, "top5": 1.0, "parameters": 10, "flops": 1e6, "size_bytes": 40, "latency_ms": 1.0}
ID = re.compile(r"\b(ds|mdl|job|evt|ckpt|up|key|prj|wrk|ps)_([0-9a-hjkmnp-tv-z]{26})\b")


class World:
    """A project that has lived."""

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
        for end in (self.succeed, self.fail, self.cancel, self.run, self.pause, self.hand_back):  # this last: it waits
            end()
        new = self.do(idempotency.begin, self.project, "a-key", "f" * 64)
        self.do(idempotency.finish, new, 201, {"id": "job_x", "object": "job"})

    def ready_dataset(self):
        made = self.do(datasets.create, self.project, name="digits", source={"type": "builtin", "name": "digits"})
        self.do(
            datasets.ready,
            IngestLeaseToken.of(self.do(datasets.claim, worker_id="w", lease_seconds=60)),
            files=[StoredFile(f"datasets/{made.id}/a1/index.json", 10, "0" * 64)],
            splits={"train": {"num_samples": 80}, "test": {"num_samples": 20}},
            num_classes=2,
            classes=["a", "b"],
            channels=1,
            image_size=8,
            fingerprint="0" * 64,
            size_bytes=10,
            rejected=[{"path": "train/a/7.jpg", "reason": "it is not an image"}],
        )
        return made.id

    def attempt(self):
        """A job that a worker holds, in the middle of its training."""
        spec = {**SPEC, "dataset": self.dataset}
        self.do(jobs.create, self.project, spec=spec, resolved=True, dataset_id=self.dataset, metadata={"team": "x"})
        attempt = LeaseToken.of(self.do(jobs.claim, worker_id="wrk_gone", accelerator="cpu", lease_seconds=-1))
        self.do(jobs.start_stage, attempt, "distill")
        self.do(events.append, attempt, "training.started", "The student's first step.")
        self.do(metrics.insert, attempt, [("train/loss", step, 2.0 - step / 16) for step in range(16)])
        self.do(metrics.insert, attempt, [("train/loss", 16, float("nan"))])
        folder = f"jobs/{attempt.job_id}/a1/checkpoints/s5"
        files = [StoredFile(f"{folder}/{name}", 10, "1" * 64) for name in ("model.safetensors", "state.pt")]
        self.do(checkpoints.save, attempt, track="distill", step=5, epoch=1, files=files, metrics={"loss": 1.0})
        self.do(jobs.record_progress, attempt, Progress(fraction=0.5, step=7, total_steps=10, epoch=1))
        return attempt

    def succeed(self):
        attempt = self.attempt()
        self.do(jobs.finish_stage, attempt, "distill")
        files = [
            StoredFile(f"jobs/{attempt.job_id}/a1/artifacts/{name}", 40, "2" * 64)
            for name in ("model.safetensors", "config.json")
        ]
        self.do(teachers.keep, attempt, "recipe-1", files)
        student = self.do(models.create_student, attempt, name="student", facts=FACTS, files=files)
        result = {"student": MEASURED, "teachers": [], "compressed": [], "agreement": None}
        named = [NewArtifact(file.name, "application/octet-stream", file) for file in files]
        self.do(jobs.succeed, attempt, result=result, artifacts=named, model_id=student.id)

    def fail(self):
        self.do(jobs.fail, self.attempt(), {"code": "out_of_memory", "message": "Ask for a smaller batch."})

    def cancel(self):
        attempt = self.attempt()
        self.do(jobs.cancel, self.project, attempt.job_id)
        self.do(jobs.cancelled, attempt)

    def run(self):
        self.do(jobs.stop, self.project, self.attempt().job_id)

    def hand_back(self):
        self.do(jobs.release, self.attempt())

    def pause(self):
        attempt = self.attempt()
        self.do(jobs.pause, self.project, attempt.job_id)
        self.do(jobs.paused, attempt)


def literal(value, column):
    """A value as both SQLite and PostgreSQL read it."""
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
    assert "%" not in text, "a driver would take it for a parameter"
    return "'" + text.replace("'", "''") + "'"


def numbered(sql):
    """Ids by their first appearance: the same rows give the same text."""
    known, counts = {}, defaultdict(int)

    def number(found):
        kind, body = found.groups()
        if body not in known:
            counts[kind] += 1
            known[body] = f"{counts[kind]:026d}"
        return f"{kind}_{known[body]}"

    return ID.sub(number, sql)


def statements(connection):
    for table in Base.metadata.sorted_tables:
        for row in connection.execute(table.select().order_by(*table.primary_key.columns)):
            names = ", ".join(f'"{column.name}"' for column in table.columns)
            values = ", ".join(literal(value, column) for value, column in zip(row, table.columns, strict=True))
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

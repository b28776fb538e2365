"""Rows by the million, made by the database itself: what the service's tables look like after years of use."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from core.spec.examples import example_job

PROJECTS = 100
PRIORITIES = 5
LONG_SERIES_JOB = 1  # its one series has ``long_points``; the jobs after it have two ordinary ones each
ORDINARY_POINTS = 1_000  # of a series, as the recorder's rule keeps them


@dataclass(frozen=True, slots=True)
class Scale:
    """How many rows. Queued and running jobs are the newest; half of all jobs belong to the first project."""

    jobs: int
    queued: int
    running: int
    metrics: int
    long_points: int
    events_a_job: int = 2

    @property
    def ordinary_jobs(self) -> int:
        """Jobs with two ordinary series."""
        return (self.metrics - self.long_points) // (2 * ORDINARY_POINTS)


FULL = Scale(jobs=1_000_000, queued=100_000, running=100, metrics=10_000_000, long_points=1_000_000)
SMALL = Scale(jobs=10_000, queued=1_000, running=100, metrics=100_000, long_points=10_000)


def job_id(number: int) -> str:
    """The id of a job of these."""
    return f"job_{number:026x}"


def project_id(number: int) -> str:
    """The id of a project of these."""
    return f"prj_{number:026x}"


def fill(connection: Connection, scale: Scale) -> None:
    """Write all rows into an empty, migrated database, without the spans of its series."""
    say = _Sql(connection.dialect.name, scale)
    values = {"document": json.dumps(_document()), "progress": json.dumps(_PROGRESS)}
    connection.execute(text(say.projects()))
    connection.execute(text(say.jobs()), values)
    connection.execute(text(say.references()))
    connection.execute(text(say.events()))
    connection.execute(text(say.long_series()))
    connection.execute(text(say.ordinary_series()))


_PROGRESS = {"fraction": 0.0, "step": 0, "total_steps": 100, "epoch": 0, "images_per_second": None, "eta_seconds": None}


def _document() -> dict[str, Any]:
    return example_job(
        "kd",
        dataset="ds_" + "0" * 26,
        pool="",
        trained="",
        image_size=32,
        student_family="transformer",
        teacher_families=("cnn",),
    )


class _Sql:
    """The same statements for both dialects: they differ in how they count and in how they write a number."""

    def __init__(self, dialect: str, scale: Scale) -> None:
        self._on_postgresql = dialect == "postgresql"
        self._scale = scale

    def projects(self) -> str:
        return (
            f"INSERT INTO projects (id, name, created_at) SELECT {self._id('prj', 'i')}, 'p', {self._time('i')} "
            f"FROM {self._count('n', PROJECTS)}"
        )

    def jobs(self) -> str:
        scale = self._scale
        old = scale.jobs - scale.queued - scale.running
        status = (
            f"CASE WHEN i > {old + scale.running} THEN 'queued' WHEN i > {old} THEN 'running' "
            "WHEN i % 1000 = 0 THEN 'paused' WHEN i % 10 = 1 THEN 'failed' WHEN i % 10 = 2 THEN 'cancelled' "
            "ELSE 'succeeded' END"
        )
        accelerator = "CASE i % 3 WHEN 0 THEN 'auto' WHEN 1 THEN 'cpu' ELSE 'cuda' END"
        return (
            "INSERT INTO jobs (id, project_id, status, stages, progress, spec, resolved, dataset_id, priority, "
            "accelerator, attempt, losses, checkpoint_step, last_seq, cancel_requested, pause_requested, "
            "stop_requested, metadata, created_at, lease_expires_at) "
            f"SELECT {self._id('job', 'i')}, {self._project('i')}, {status}, '[]', {self._json(':progress')}, "
            f"{self._json(':document')}, true, 'ds_x', i % {PRIORITIES}, {accelerator}, 1, 0, 0, "
            f"{scale.events_a_job}, false, false, false, '{{}}', {self._time('i')}, "
            f"CASE WHEN i > {old} AND i <= {old + scale.running} THEN {self._time('i + 1000000000')} END "
            f"FROM {self._count('n', scale.jobs)}"
        )

    def references(self) -> str:
        return (
            "INSERT INTO job_references (job_id, object_id, project_id) "
            f"SELECT {self._id('job', 'i')}, 'ds_x', {self._project('i')} FROM {self._count('n', self._scale.jobs)}"
        )

    def events(self) -> str:
        return (
            "INSERT INTO events (job_id, seq, id, project_id, type, level, message, data, attempt, created_at) "
            f"SELECT {self._id('job', 'n.i')}, k.i, {self._id('evt', 'n.i * 100 + k.i')}, {self._project('n.i')}, "
            f"'stage.started', 'info', 'Stage prepare started.', '{{}}', 1, {self._time('n.i')} "
            f"FROM {self._count('n', self._scale.jobs)}, {self._count('k', self._scale.events_a_job)}"
        )

    def long_series(self) -> str:
        count = self._scale.long_points
        # Smooth, with one low and one high spike that no thinning may lose.
        value = f"CASE i WHEN {count // 3} THEN -9.0 WHEN {count // 2} THEN 9.0 ELSE (i % 1000) / 1000.0 END"
        return (
            "INSERT INTO metrics (job_id, name, step, project_id, value) "
            f"SELECT {self._id('job', str(LONG_SERIES_JOB))}, 'train/loss', i, {self._project(str(LONG_SERIES_JOB))}, "
            f"{value} FROM {self._count('n', count)}"
        )

    def ordinary_series(self) -> str:
        first = LONG_SERIES_JOB
        return (
            "INSERT INTO metrics (job_id, name, step, project_id, value) "
            f"SELECT {self._id('job', f'n.i + {first}')}, s.name, k.i, {self._project(f'n.i + {first}')}, 1.0 / k.i "
            f"FROM {self._count('n', self._scale.ordinary_jobs)}, {self._count('k', ORDINARY_POINTS)}, "
            "(SELECT 'train/loss' AS name UNION ALL SELECT 'train/learning_rate') AS s"
        )

    def _count(self, name: str, most: int) -> str:
        if self._on_postgresql:
            return f"generate_series(1::bigint, {most}) AS {name}(i)"
        return (
            f"(WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {most}) SELECT i FROM c) "
            f"AS {name}"
        )

    def _id(self, prefix: str, number: str) -> str:
        if self._on_postgresql:
            return f"'{prefix}_' || lpad(to_hex(({number})::bigint), 26, '0')"
        return f"'{prefix}_' || printf('%026x', {number})"

    def _project(self, number: str) -> str:
        return self._id("prj", f"CASE ({number}) % 2 WHEN 0 THEN 1 ELSE ({number}) / 2 % {PROJECTS} + 1 END")

    def _time(self, number: str) -> str:
        if self._on_postgresql:
            return f"timestamptz '2025-01-01' + ({number}) * interval '1 second'"
        return f"strftime('%Y-%m-%d %H:%M:%f000', '2025-01-01', '+' || ({number}) || ' seconds')"

    def _json(self, parameter: str) -> str:
        return f"CAST({parameter} AS json)" if self._on_postgresql else parameter

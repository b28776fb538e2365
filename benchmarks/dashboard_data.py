"""Datasets with images, and models with files and lineage, for the dashboard's benchmark."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from core.ids import new_id
from core.ingest.dataset import ingest_folder
from core.job_warnings import JobWarning
from core.store import datasets, jobs
from core.store.artifact_store import ArtifactStore
from core.store.db import Database
from core.store.ingest_leases import IngestLeaseToken
from core.store.tables import Model

SHAPES = {"circle": 32, "triangle": 3, "square": 4, "pentagon": 5, "hexagon": 6, "octagon": 8}  # corners by class
_IMAGES_PER_CLASS = {"train": (40, 34, 28, 22, 16, 9), "test": (8, 8, 8, 8, 8, 8)}
_REJECTED = [
    {"path": f"train/circle/broken {index}.jpg", "reason": "the file is truncated", "code": "image_truncated"}
    for index in range(3)
] + [{"path": "train/notes.txt", "reason": "not an image", "code": "not_an_image"}]
_WARNING = JobWarning(
    code="duplicate_images", message="2 images are in both splits, such as train/circle/001.jpg",
    fix="Remove them from one split.",
)  # fmt: skip


def add_datasets(database: Database, store: ArtifactStore, project_id: str, folder: Path) -> str:
    """Create a dataset of drawn shapes, one that failed and one that is processing; return the id of the first."""
    with database.write() as session:
        waiting = datasets.create(
            session, project_id, name="street signs", source={"type": "url", "url": "https://example.com/signs.tar"}
        )
        waiting.worker_id, waiting.attempt = "wrk_benchmark", 1
        session.flush()
        datasets.record_progress(
            session, IngestLeaseToken(waiting.id, 1), processed=18_240, total=52_000, images_per_second=291.0
        )
        waiting.lease_expires_at = waiting.created_at.replace(year=waiting.created_at.year + 1)
        failed = datasets.create(
            session, project_id, name="scans", source={"type": "file", "filename": "scans.zip", "size_bytes": 1000}
        )
        failed.worker_id, failed.attempt = "wrk_benchmark", 1
        session.flush()
        error = {"code": "layout_unclear", "message": "The folders can be read in two ways: set class_from."}
        datasets.fail(session, IngestLeaseToken(failed.id, 1), error, rejected=_REJECTED)
    return _add_shapes(database, store, project_id, folder)


def _add_shapes(database: Database, store: ArtifactStore, project_id: str, folder: Path) -> str:
    _draw_shapes(folder / "shapes")
    report = ingest_folder(folder / "shapes", folder / "stored-shapes")
    files = [store.put(f"datasets/shapes/{path.name}", path) for path in sorted((folder / "stored-shapes").iterdir())]
    document = report.document()
    names = ("splits", "num_classes", "classes", "channels", "image_size", "cropped_fraction", "fingerprint")
    values: Mapping[str, Any] = {name: document[name] for name in names}
    with database.write() as session:
        dataset = datasets.create(
            session, project_id, name="shapes", license="cc-by-4.0",
            source={"type": "file", "filename": "shapes.zip", "labels": "auto", "splits": "auto", "class_from": "auto"},
        )  # fmt: skip
        dataset.worker_id, dataset.attempt = "wrk_benchmark", 1
        session.flush()
        lease = IngestLeaseToken(dataset.id, 1)
        size = sum(file.size_bytes for file in files)
        datasets.mark_ready(
            session, lease, files=files, size_bytes=size, rejected=_REJECTED, warnings=[_WARNING], **values
        )
        return dataset.id


def _draw_shapes(folder: Path) -> None:
    generator = random.Random(0)
    for split, counts in _IMAGES_PER_CLASS.items():
        for (name, corners), count in zip(SHAPES.items(), counts, strict=True):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                _draw(generator, corners).save(folder / split / name / f"{index:03d}.jpg")


def _draw(generator: random.Random, corners: int) -> Image.Image:
    width, height = (generator.randrange(48, 320) for _ in range(2))
    ground, ink = (tuple(generator.randrange(*limits) for _ in range(3)) for limits in ((150, 256), (0, 140)))
    image = Image.new("RGB", (width, height), ground)
    radius, turn = 0.42 * min(width, height), generator.uniform(0, 2 * math.pi)
    points = [
        (width / 2 + radius * math.cos(turn + angle), height / 2 + radius * math.sin(turn + angle))
        for angle in (2 * math.pi * corner / corners for corner in range(corners))
    ]
    ImageDraw.Draw(image).polygon(points, fill=ink)
    return image


def add_students(database: Database, store: ArtifactStore, project_id: str, job_id: str, folder: Path) -> str:
    """Create the student of a finished job and its compressed form; return the id of the student."""
    with database.write() as session:
        job = jobs.get(session, project_id, job_id)
        figures = job.result["student"]
        ids = [new_id("mdl"), new_id("mdl")]
        for index, (model_id, name) in enumerate(zip(ids, ("student", "student pruned"), strict=True)):
            files = []
            for file in ("model.safetensors", "config.json"):
                (folder / file).write_bytes(f"{model_id} {file}".encode() * 900)
                files.append(store.put(f"models/{model_id}/{file}", folder / file).to_json())
            session.add(
                Model(
                    id=model_id, project_id=project_id, name=f"{job.name}: {name}", job_id=job_id,
                    parent_id=ids[0] if index else None, status="ready",
                    architecture=job.spec["student"]["architecture"], arguments={"num_classes": 6, "img_size": 32},
                    normalization={"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}, files=files,
                    num_classes=6, classes=list(SHAPES), channels=3, image_size=32, upload_key=None,
                    parameters=figures["parameters"], size_bytes=figures["size_bytes"],
                    created_at=job.finished_at, finished_at=job.finished_at,
                )
            )  # fmt: skip
            session.flush()
        compressed = [{**entry, "model": ids[1]} for entry in job.result["compressed"][:1]]
        job.result = {**job.result, "model": ids[0], "compressed": compressed}
        job.model_id = ids[0]
    return ids[0]

"""Quotas and usage of a project."""

import threading

import pytest

from core.errors import QuotaExceeded
from core.settings import Settings
from core.spec.info import ModelInfo
from core.store import datasets, ingest_leases, jobs, models, projects, quotas
from core.store.artifact_store import StoredFile
from core.store.jobs import NewArtifact
from core.store.project_tables import Project, ProjectUsage

MODEL_INFO = ModelInfo(
    architecture="vit", arguments={}, num_classes=2, channels=1, image_size=8, parameters=1, size_bytes=40
)
UPLOAD = {"name": "u", "source": {"type": "file"}, "upload_key": "uploads/x/file"}
MODEL = {"name": "m", "architecture": "vit", "arguments": {}, "upload_key": "uploads/y/file"}


def stored_bytes(world, project=None):
    """Return the counter, after checking that it matches the rows."""
    project = project or world.project
    counter = world.read(quotas.get_stored_bytes, project)
    assert world.write(quotas.recount, project) == 0

    return counter


def artifact(name, size_bytes):
    return NewArtifact(name, "application/octet-stream", StoredFile(f"jobs/x/a1/{name}", size_bytes, "0" * 64))


def succeed(world, lease, **options):
    files = [artifact("model.safetensors", 40), artifact("config.json", 7)]
    return world.write(jobs.succeed, lease, result={}, artifacts=files, **options)


def test_dataset_counts_from_its_upload(world):
    before = stored_bytes(world)
    dataset = world.write(datasets.create, world.project, **UPLOAD, size_bytes=500)
    assert stored_bytes(world) == before + 500

    lease = ingest_leases.IngestLeaseToken.from_row(world.write(datasets.claim, worker_id="w", lease_seconds=60))
    fields = {"num_classes": None, "classes": None, "channels": 1, "image_size": 8, "fingerprint": "0" * 64}
    world.write(datasets.mark_ready, lease, files=[], splits={}, size_bytes=300, **fields)
    assert stored_bytes(world) == before + 300

    world.write(datasets.delete, world.project, dataset.id)
    assert stored_bytes(world) == before


def test_failed_upload_no_longer_counts(world):
    before = stored_bytes(world)
    world.write(datasets.create, world.project, **UPLOAD, size_bytes=500)
    world.write(models.create, world.project, **MODEL, size_bytes=50)
    assert stored_bytes(world) == before + 550

    error = {"code": "dataset_rejected", "message": "no"}
    lease = ingest_leases.IngestLeaseToken.from_row(world.write(datasets.claim, worker_id="w", lease_seconds=60))
    world.write(datasets.fail, lease, error)
    lease = ingest_leases.IngestLeaseToken.from_row(world.write(models.claim, worker_id="w", lease_seconds=60))
    world.write(models.fail, lease, error)

    assert stored_bytes(world) == before


def test_model_counts_with_its_stored_size(world):
    before = stored_bytes(world)
    model = world.write(models.create, world.project, **MODEL, size_bytes=50)
    lease = ingest_leases.IngestLeaseToken.from_row(world.write(models.claim, worker_id="w", lease_seconds=60))
    world.write(models.mark_ready, lease, files=[], info=MODEL_INFO)
    assert stored_bytes(world) == before + 40

    world.write(models.delete, world.project, model.id)
    assert stored_bytes(world) == before


def test_student_that_outlives_its_job_counts_once(world):
    before = stored_bytes(world)
    lease = world.start_job()
    student = world.write(models.create_student, lease, name="s", info=MODEL_INFO, files=[])
    succeed(world, lease, model_id=student.id)
    assert stored_bytes(world) == before + 47

    world.write(jobs.delete, world.project, lease.job_id)
    assert stored_bytes(world) == before + 40
    world.write(models.delete, world.project, student.id)
    assert stored_bytes(world) == before


def test_job_that_outlives_its_student_counts(world):
    before = stored_bytes(world)
    lease = world.start_job()
    student = world.write(models.create_student, lease, name="s", info=MODEL_INFO, files=[])
    succeed(world, lease, model_id=student.id)

    world.write(models.delete, world.project, student.id)
    assert stored_bytes(world) == before + 47
    world.write(jobs.delete, world.project, lease.job_id)
    assert stored_bytes(world) == before


def test_recount_corrects_the_counter(world, other_project):
    correct = stored_bytes(world)
    world.write(set_stored, world.project, correct + 999)

    assert world.write(quotas.recount, world.project) == 999
    assert stored_bytes(world) == correct
    assert stored_bytes(world, other_project) == 0


def set_stored(session, project, value):
    session.get(ProjectUsage, project).stored_bytes = value


def test_concurrent_uploads_all_count(world):
    before = stored_bytes(world)
    threads = [
        threading.Thread(
            target=world.write, args=(datasets.create, world.project), kwargs={**UPLOAD, "size_bytes": 10 + number}
        )
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert stored_bytes(world) == before + 46


def test_unfinished_jobs_are_limited_with_advice(world, other_project):
    settings = Settings(quota_jobs=3)
    running = world.start_job()
    paused, queued = world.job(), world.job()
    world.write(jobs.pause, world.project, paused)

    with pytest.raises(QuotaExceeded, match=r"has 3 unfinished jobs.*the limit is 3.*cancel some") as refused:
        world.read(quotas.require_job_slot, world.project, settings)
    assert refused.value.extra == {"quota": "jobs", "limit": 3, "used": 3}
    world.read(quotas.require_job_slot, other_project, settings)
    world.read(quotas.require_job_slot, world.project, Settings(quota_jobs=0))

    succeed(world, running)
    world.read(quotas.require_job_slot, world.project, settings)
    assert world.read(quotas.count_unfinished, world.project) == 2
    assert world.read(quotas.count_unfinished, world.project, limit=1) == 1
    assert world.get(queued).status == "queued"


def test_stored_bytes_are_limited_with_advice(world):
    world.write(datasets.create, world.project, **UPLOAD, size_bytes=90)
    used = stored_bytes(world)

    world.read(quotas.require_storage, world.project, Settings(quota_stored_bytes=used))
    for require in (quotas.require_storage, quotas.require_job_slot):
        with pytest.raises(QuotaExceeded, match="Delete objects that are no longer needed") as refused:
            world.read(require, world.project, Settings(quota_stored_bytes=used - 1))
        assert refused.value.extra["used"] == used


def test_project_limits_override_settings(world, other_project):
    world.write(set_limits, world.project, max_jobs=0, max_stored_bytes=7, max_upload_bytes=5)
    settings = Settings(quota_jobs=1, quota_stored_bytes=2, max_upload_bytes=3)

    assert world.read(quotas.load_quotas, world.project, settings) == quotas.Quotas(0, 7, 3)
    assert world.read(quotas.load_quotas, other_project, settings) == quotas.Quotas(1, 2, 3)
    assert world.read(quotas.load_quotas, world.project, Settings(max_upload_bytes=9)).upload_bytes == 5


def set_limits(session, project, **limits):
    row = session.get(Project, project)
    for name, value in limits.items():
        setattr(row, name, value)


def test_project_is_found_by_id(world):
    assert world.read(projects.get, world.project).name == "main"


def test_negative_counter_is_shown_as_zero(world):
    world.write(set_stored, world.project, -5)

    assert world.read(quotas.get_stored_bytes, world.project) == 0
    assert world.write(quotas.recount, world.project) == -15

"""Garbage collection deletes files without a reference, except those of running attempts."""

import io

import pytest

from core.errors import StorageFailed
from core.store import datasets, garbage, jobs, models, teachers
from core.store.jobs import LeaseToken, NewArtifact
from core.store.models import ModelInfo
from core.store.storage_url import open_store

MODEL_INFO = ModelInfo(
    architecture="vit", arguments={}, num_classes=2, channels=1, image_size=8, parameters=1, size_bytes=4
)


@pytest.fixture
def store(tmp_path):
    return open_store(f"file://{tmp_path}/artifacts")


@pytest.fixture
def put(store):
    return lambda key: store.put(key, io.BytesIO(b"x"))


def remaining_keys(world, store):
    garbage.collect(world.db, store, min_age_seconds=-1)
    return [listed.key for listed in store.list_prefix()]


def test_files_of_running_attempts_and_referenced_files_stay(world, store, put):
    stale = world.start_job()
    world.write(jobs.release, stale)
    live = LeaseToken.from_job(world.claim())
    stale_key = put(f"jobs/{live.job_id}/a1/artifacts/model.onnx").key
    unreferenced = put(f"jobs/{live.job_id}/a2/artifacts/model.onnx").key
    checkpoint = world.checkpoint(live, 10)
    referenced = [put(file["key"]).key for file in checkpoint.checkpoint.files]

    assert remaining_keys(world, store) == sorted([unreferenced, *referenced])
    assert stale_key not in remaining_keys(world, store)
    world.write(jobs.fail, live, {"code": "x", "message": "x"})
    assert remaining_keys(world, store) == sorted(referenced)


def test_young_files_stay(world, store, put):
    key = put("jobs/job_gone/a1/x").key

    assert garbage.collect(world.db, store, min_age_seconds=60) == []
    assert garbage.collect(world.db, store, min_age_seconds=-1) == [key]


def test_student_of_a_deleted_job_keeps_its_files(world, store, put):
    lease = world.start_job()
    weights = put(f"jobs/{lease.job_id}/a1/artifacts/model.safetensors")
    report = put(f"jobs/{lease.job_id}/a1/artifacts/report.json")

    def finish(session):
        model = models.create_student(session, lease, name="s", info=MODEL_INFO, files=[weights])
        new = [NewArtifact(file.name, "x", file) for file in (weights, report)]
        return jobs.succeed(session, lease, result={}, artifacts=new, model_id=model.id)

    model_id = world.write(finish).model_id
    assert remaining_keys(world, store) == [weights.key, report.key]
    world.write(jobs.delete, world.project, lease.job_id)
    assert remaining_keys(world, store) == [weights.key]
    world.write(models.delete, world.project, model_id)
    assert remaining_keys(world, store) == []


def test_datasets_models_teachers_and_uploads(world, store, put):
    upload = put("uploads/one").key
    put("uploads/forgotten")
    processing = world.write(datasets.create, world.project, name="d", source={}, upload_key=upload)
    partial = put(f"datasets/{processing.id}/a1/train.bin").key
    ready = put(f"datasets/{world.dataset}/a1/index.json").key
    put(f"datasets/{world.dataset}/a0/index.json")
    put("models/mdl_gone/a1/model.safetensors")
    lease = world.start_job()
    saved = put(f"teachers/{world.project}/r/{lease.job_id}-a1/model.safetensors")
    unsaved = put(f"teachers/{world.project}/s/{lease.job_id}-a1/model.safetensors").key
    put(f"teachers/{world.project}/r/job_x-a1/model.safetensors")
    world.write(teachers.save, lease, "r", [saved])

    assert remaining_keys(world, store) == sorted([upload, partial, ready, saved.key, unsaved])
    world.write(jobs.release, lease)
    assert unsaved not in remaining_keys(world, store)


def test_failed_deletion_does_not_stop_the_collection(world, store, put, monkeypatch):
    undeletable, other = put("jobs/job_gone/a1/a").key, put("jobs/job_gone/a1/b").key
    delete = store.delete

    def fail_to_delete(key):
        if key == undeletable:
            raise StorageFailed(f"The artifact store failed at {key}: it may not be deleted.")
        delete(key)

    monkeypatch.setattr(store, "delete", fail_to_delete)

    assert garbage.collect(world.db, store, min_age_seconds=-1) == [other]
    assert [listed.key for listed in store.list_prefix()] == [undeletable]


def test_unknown_folders_are_ignored(world, store, put):
    key = put("unknown/folder/file").key

    assert remaining_keys(world, store) == [key]


@pytest.mark.parametrize("end", ["succeed", "fail"])
def test_young_files_of_a_finished_job_are_deleted(world, store, put, end):
    """A worker that dies after the job has ended leaves the files that only a resume needs."""
    lease = world.start_job()
    saved = world.checkpoint(lease, 10)
    keys = [put(file["key"]).key for file in saved.checkpoint.files]
    leftover = put(f"jobs/{lease.job_id}/a1/artifacts/model.onnx").key
    assert garbage.collect(world.db, store, min_age_seconds=3600) == []

    if end == "succeed":
        world.write(jobs.succeed, lease, result={}, artifacts=[])
        expected = [leftover, *(key for key in keys if key.endswith("state.pt"))]
    else:
        world.write(jobs.fail, lease, {"code": "x", "message": "x"})
        expected = [leftover]

    assert sorted(garbage.collect(world.db, store, min_age_seconds=3600)) == sorted(expected)

"""What no row names goes away; what somebody may still be about to name stays."""

import io

import pytest

from core.errors import StorageFailed
from core.store import datasets, garbage, jobs, models, teachers
from core.store.jobs import LeaseToken, NewArtifact
from core.store.models import ModelInfo
from core.store.storage_url import open_store

FACTS = ModelInfo(architecture="vit", arguments={}, num_classes=2, channels=1, image_size=8, parameters=1, size_bytes=4)


@pytest.fixture
def store(tmp_path):
    return open_store(f"file://{tmp_path}/artifacts")


@pytest.fixture
def put(store):
    return lambda key: store.put(key, io.BytesIO(b"x"))


def left(world, store):
    garbage.collect(world.db, store, min_age_seconds=-1)
    return [listed.key for listed in store.list_prefix()]


def test_a_running_attempt_keeps_all_that_it_wrote_and_a_stale_one_what_is_named(world, store, put):
    stale = world.start_job()
    world.write(jobs.release, stale)
    live = LeaseToken.from_job(world.claim())
    garbage = put(f"jobs/{live.job_id}/a1/artifacts/model.onnx").key
    unnamed = put(f"jobs/{live.job_id}/a2/artifacts/model.onnx").key
    checkpoint = world.checkpoint(live, 10)
    named = [put(file["key"]).key for file in checkpoint.checkpoint.files]

    assert left(world, store) == sorted([unnamed, *named])
    assert garbage not in left(world, store)
    world.write(jobs.fail, live, {"code": "x", "message": "x"})
    assert left(world, store) == sorted(named)


def test_young_files_stay(world, store, put):
    key = put("jobs/job_gone/a1/x").key

    assert garbage.collect(world.db, store, min_age_seconds=60) == []
    assert garbage.collect(world.db, store, min_age_seconds=-1) == [key]


def test_a_deleted_jobs_student_keeps_its_files(world, store, put):
    lease = world.start_job()
    weights = put(f"jobs/{lease.job_id}/a1/artifacts/model.safetensors")
    report = put(f"jobs/{lease.job_id}/a1/artifacts/report.json")

    def finish(session):
        model = models.create_student(session, lease, name="s", info=FACTS, files=[weights])
        new = [NewArtifact(one.name, "x", one) for one in (weights, report)]
        return jobs.succeed(session, lease, result={}, artifacts=new, model_id=model.id)

    model_id = world.write(finish).model_id
    assert left(world, store) == [weights.key, report.key]
    world.write(jobs.delete, world.project, lease.job_id)
    assert left(world, store) == [weights.key]
    world.write(models.delete, world.project, model_id)
    assert left(world, store) == []


def test_datasets_models_teachers_and_uploads(world, store, put):
    upload = put("uploads/one").key
    put("uploads/forgotten")
    processing = world.write(datasets.create, world.project, name="d", source={}, upload_key=upload)
    half = put(f"datasets/{processing.id}/a1/train.bin").key
    ready = put(f"datasets/{world.dataset}/a1/index.json").key
    put(f"datasets/{world.dataset}/a0/index.json")
    put("models/mdl_gone/a1/model.safetensors")
    lease = world.start_job()
    kept = put(f"teachers/{world.project}/r/{lease.job_id}-a1/model.safetensors")
    soon = put(f"teachers/{world.project}/s/{lease.job_id}-a1/model.safetensors").key
    put(f"teachers/{world.project}/r/job_x-a1/model.safetensors")
    world.write(teachers.save, lease, "r", [kept])

    assert left(world, store) == sorted([upload, half, ready, kept.key, soon])
    world.write(jobs.release, lease)
    assert soon not in left(world, store)


def test_a_file_that_cannot_be_deleted_keeps_none_of_the_others(world, store, put, monkeypatch):
    stuck, other = put("jobs/job_gone/a1/a").key, put("jobs/job_gone/a1/b").key
    delete = store.delete

    def refusing(key):
        if key == stuck:
            raise StorageFailed(f"The artefact store failed at {key}: it may not be deleted.")
        delete(key)

    monkeypatch.setattr(store, "delete", refusing)

    assert garbage.collect(world.db, store, min_age_seconds=-1) == [other]
    assert [listed.key for listed in store.list_prefix()] == [stuck]


def test_what_is_not_ours_is_left_alone(world, store, put):
    key = put("somebody/elses/file").key

    assert left(world, store) == [key]

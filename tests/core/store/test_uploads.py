"""Resumable uploads: parts in order, and their end when a dataset or model is ready or their time is over."""

from datetime import timedelta

import pytest

from core.errors import InUse, NotFound
from core.store import datasets, garbage, ingest_leases, quotas, uploads
from core.store.artifact_store import StoredFile
from core.store.db import utc_now


@pytest.fixture
def upload(world):
    return create(world)


def create(world, size_bytes=100, retention_hours=24.0):
    options = {"filename": "a.zip", "tus_metadata": "", "retention_hours": retention_hours}
    return world.write(uploads.create, world.project, size_bytes=size_bytes, **options)


def add(world, upload, start, *sizes):
    files = [StoredFile(f"uploads/{upload.id}/{start}-{k}", size, "0" * 64) for k, size in enumerate(sizes)]
    expires_at = world.read(utc_now) + timedelta(hours=1)
    return world.write(uploads.add_parts, upload, start, files, expires_at)


def dataset_of(world, upload):
    source = {"type": "upload", "upload": upload.id}
    return world.write(datasets.create, world.project, name="d", source=source, upload_id=upload.id)


def finish(world, function, **options):
    lease = ingest_leases.IngestLeaseToken.from_row(world.write(datasets.claim, worker_id="w", lease_seconds=60))
    return world.write(function, lease, **options)


def make_ready(world):
    return finish(
        world,
        datasets.mark_ready,
        files=[],
        splits={},
        num_classes=2,
        classes=["a", "b"],
        channels=1,
        image_size=8,
        fingerprint="0" * 64,
        size_bytes=7,
    )


def counted_bytes(world):
    """The counter of stored bytes, which equals the sum over all rows."""
    counted = world.read(quotas.get_stored_bytes, world.project)
    assert counted == world.read(quotas.sum_stored_bytes, world.project)
    return counted


def exists(world, upload):
    try:
        return bool(world.read(uploads.get, world.project, upload.id))
    except NotFound:
        return False


def test_parts_follow_each_other(world, upload):
    before = counted_bytes(world)
    add(world, upload, 0, 30, 30)
    complete = add(world, upload, 60, 40)

    assert (complete.received_bytes, complete.is_complete) == (100, True)
    assert [part.size_bytes for part in world.read(uploads.list_parts, upload.id)] == [30, 30, 40]
    assert counted_bytes(world) - before == 100


@pytest.mark.parametrize("start", [0, 29, 31])
def test_a_part_at_another_offset_is_refused(world, upload, start):
    add(world, upload, 0, 30)
    with pytest.raises(uploads.UploadOffsetMismatch, match="continues at offset 30"):
        add(world, upload, start, 10)

    assert [part.size_bytes for part in world.read(uploads.list_parts, upload.id)] == [30]


def test_an_upload_is_deleted_when_its_dataset_is_ready(world, upload):
    add(world, upload, 0, 100)
    before = counted_bytes(world)
    dataset_of(world, upload)
    with pytest.raises(InUse):
        world.write(uploads.delete, world.project, upload.id)
    make_ready(world)

    assert not exists(world, upload)
    assert world.read(uploads.list_parts, upload.id) == []
    assert counted_bytes(world) - before == 7 - 100


def test_a_failed_dataset_leaves_its_upload_for_another_try(world, upload):
    add(world, upload, 0, 100)
    dataset_of(world, upload)
    finish(world, datasets.fail, error={"code": "layout_unclear", "message": "…"})
    dataset_of(world, upload)
    make_ready(world)

    assert not exists(world, upload)


def test_an_upload_of_two_datasets_is_deleted_after_the_second(world, upload):
    add(world, upload, 0, 100)
    for _ in range(2):
        dataset_of(world, upload)
    make_ready(world)
    assert exists(world, upload)
    make_ready(world)

    assert not exists(world, upload)


def test_expired_uploads_are_deleted_unless_a_dataset_reads_them(world):
    expired, used, fresh = (create(world, retention_hours=hours) for hours in (-1.0, -1.0, 1.0))
    dataset_of(world, used)

    assert [world.write(uploads.prune_expired) for _ in range(2)] == [expired.id, None]
    assert [exists(world, each) for each in (expired, used, fresh)] == [False, True, True]


def test_files_of_an_upload_are_garbage_once_it_is_deleted(world, upload):
    add(world, upload, 0, 100)
    keys = [f"uploads/{upload.id}/0-0", f"uploads/{upload.id}/lost-the-race"]
    assert world.read(garbage.find_orphans, keys) == []
    assert set(world.read(garbage.referenced_files)) >= {keys[0]}
    world.write(uploads.delete, world.project, upload.id)

    assert world.read(garbage.find_orphans, keys) == keys


def test_uploads_of_another_project_are_not_found(world, upload, other_project):
    for function in (uploads.get, uploads.get_for_use, uploads.delete):
        with pytest.raises(NotFound):
            world.write(function, other_project, upload.id)

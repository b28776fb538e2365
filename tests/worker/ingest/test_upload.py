"""Datasets from resumable uploads, which the ingest worker joins."""

import io
from datetime import UTC, datetime

import pytest

from core.store import datasets, uploads
from tests.support.archives import make_color_dataset
from worker.claim_loop import run_next
from worker.ingest.parent import DATASETS


@pytest.fixture
def upload(service, store):
    """A complete upload of an archive in three parts."""
    archive = make_color_dataset(3)
    options = {"filename": "a.zip", "tus_metadata": "", "retention_hours": 1.0}
    upload = service.write(uploads.create, service.project, size_bytes=len(archive), **options)
    third = len(archive) // 3
    blocks = (archive[:third], archive[third : 2 * third], archive[2 * third :])
    files = [store.put(f"uploads/{upload.id}/{k}", io.BytesIO(block)) for k, block in enumerate(blocks)]
    return service.write(uploads.add_parts, upload, 0, files, datetime.now(UTC))


def ingest(service, upload):
    source = {"type": "upload", "upload": upload.id, "labels": "auto"}
    created = service.write(datasets.create, service.project, name="d", source=source, upload_id=upload.id)
    run_next(DATASETS)
    return service.read(datasets.get, service.project, created.id)


def keys(store, upload):
    return [listed.key for listed in store.list_prefix(f"uploads/{upload.id}")]


def test_an_upload_in_parts_becomes_a_dataset_and_is_deleted(service, store, upload):
    dataset = ingest(service, upload)

    assert (dataset.status, dataset.error, dataset.classes) == ("ready", None, ["blue", "red"])
    assert keys(store, upload) == []


def test_a_damaged_part_fails_the_dataset(service, store, upload):
    store.put(f"uploads/{upload.id}/1", io.BytesIO(b"damaged"))
    dataset = ingest(service, upload)

    assert (dataset.status, dataset.error["code"]) == ("failed", "storage_failed")
    assert len(keys(store, upload)) == 3

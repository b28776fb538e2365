"""Leases of datasets and models: claims, fencing, worker losses."""

import threading

import pytest

from core.spec.info import ModelInfo
from core.store import datasets, ingest_leases, models, quotas
from core.store.ingest_leases import IngestLeaseToken
from core.store.job_leases import LeaseLost

MODEL_INFO = ModelInfo(
    architecture="vit", arguments={"depth": 1}, num_classes=2, channels=3, image_size=8, parameters=7, size_bytes=28
)


class Kind:
    """Common interface of datasets and models."""

    def __init__(self, world, name):
        self.world, self.module = world, {"datasets": datasets, "models": models}[name]

    def create(self, size_bytes=None):
        fields = {"name": "n", "upload_key": f"uploads/{self.world.serial}", "size_bytes": size_bytes}
        self.world.serial += 1
        if self.module is datasets:
            return self.world.write(datasets.create, self.world.project, source={"type": "file"}, **fields).id
        return self.world.write(models.create, self.world.project, architecture="vit", arguments={}, **fields).id

    def claim(self, lease_seconds=60):
        row = self.world.write(self.module.claim, worker_id="w", lease_seconds=lease_seconds)
        return None if row is None else IngestLeaseToken.from_row(row)

    def mark_ready(self, lease):
        fields = {"files": [self.world.file()]}
        if self.module is models:
            return self.world.write(models.mark_ready, lease, info=MODEL_INFO, **fields)
        dataset_fields = {"splits": {}, "num_classes": None, "classes": None, "channels": 3, "image_size": 8}
        return self.world.write(
            datasets.mark_ready, lease, fingerprint="0" * 64, size_bytes=1, **dataset_fields, **fields
        )

    def get(self, object_id):
        return self.world.read(self.module.get, self.world.project, object_id)


@pytest.fixture(params=["datasets", "models"])
def kind(world, request):
    return Kind(world, request.param)


def test_oldest_is_claimed_and_becomes_ready(world, kind):
    first, second = kind.create(), kind.create()
    assert world.read(kind.module.count_claimable) == 2

    lease = kind.claim()

    assert lease == IngestLeaseToken(first, 1)
    assert world.read(kind.module.count_claimable) == 1
    row = kind.mark_ready(lease)
    assert (row.status, row.worker_id, row.upload_key, row.files[0]["size_bytes"]) == ("ready", None, None, 10)
    assert row.finished_at is not None
    assert kind.claim().object_id == second
    assert kind.claim() is None


def test_failure_after_worker_losses_drops_the_upload(world, kind):
    object_id = kind.create(size_bytes=100)
    before = world.read(quotas.get_stored_bytes, world.project)
    for _ in range(ingest_leases.MAX_WORKER_LOSSES):
        kind.claim(lease_seconds=-1)
    assert kind.claim() is None

    failed = kind.get(object_id)
    assert (failed.status, failed.error["code"]) == ("failed", "worker_lost")
    assert (failed.upload_key, failed.size_bytes) == (None, None)
    assert world.read(quotas.get_stored_bytes, world.project) == before - 100


def test_failure_records_its_error(world, kind):
    object_id = kind.create()
    world.write(kind.module.fail, kind.claim(), {"code": "dataset_rejected", "message": "no images"})

    failed = kind.get(object_id)
    assert (failed.status, failed.error["message"]) == ("failed", "no images")
    assert kind.claim() is None


def test_stale_lease_cannot_write(world, kind):
    kind.create()
    stale = kind.claim(lease_seconds=-1)
    kind.claim()
    before = world.rows()

    for write in (
        lambda: world.write(kind.module.renew_lease, stale, 60),
        lambda: world.write(kind.module.release, stale),
        lambda: world.write(kind.module.fail, stale, {"code": "x", "message": "x"}),
        lambda: kind.mark_ready(stale),
    ):
        with pytest.raises(LeaseLost):
            write()
    assert world.rows() == before


def test_released_lease_cannot_write(world, kind):
    kind.create()
    lease = kind.claim()
    world.write(kind.module.release, lease)

    with pytest.raises(LeaseLost):
        kind.mark_ready(lease)
    assert kind.claim().attempt == 2


def test_renewed_lease_cannot_be_claimed(world, kind):
    kind.create()
    lease = kind.claim(lease_seconds=-1)
    world.write(kind.module.renew_lease, lease, 60)

    assert kind.claim() is None


def test_three_worker_losses_fail_the_upload(kind):
    object_id = kind.create()
    for attempt in (1, 2, 3):
        assert kind.claim(lease_seconds=-1) == IngestLeaseToken(object_id, attempt)

    assert kind.claim() is None
    failed = kind.get(object_id)
    assert (failed.status, failed.error["code"], failed.worker_losses) == ("failed", "worker_lost", 3)


def test_release_is_not_a_worker_loss(world, kind):
    object_id = kind.create()
    for _ in range(5):
        world.write(kind.module.release, kind.claim())

    assert kind.get(object_id).worker_losses == 0
    assert kind.claim() is not None


def test_deletion_ends_the_lease(world, kind):
    object_id = kind.create()
    lease = kind.claim()
    assert world.write(kind.module.delete, world.project, object_id) != []

    with pytest.raises(LeaseLost):
        kind.mark_ready(lease)


def test_threads_never_claim_the_same_row(kind):
    object_ids = sorted(kind.create() for _ in range(8))
    claimed = []

    def work():
        while (lease := kind.claim()) is not None:
            claimed.append(lease.object_id)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(claimed) == object_ids

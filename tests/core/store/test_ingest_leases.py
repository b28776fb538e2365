"""Datasets and models are made ready by one worker at a time, and never for ever."""

import threading

import pytest

from core.spec.info import ModelInfo
from core.store import datasets, ingest_leases, models, quotas
from core.store.ingest_leases import IngestLeaseToken
from core.store.job_leases import LeaseLost

FACTS = ModelInfo(
    architecture="vit", arguments={"depth": 1}, num_classes=2, channels=3, image_size=8, parameters=7, size_bytes=28
)


class Kind:
    """Datasets and models, spoken to in the same words."""

    def __init__(self, world, name):
        self.world, self.module = world, {"datasets": datasets, "models": models}[name]

    def create(self, size_bytes=None):
        facts = {"name": "n", "upload_key": f"uploads/{self.world.serial}", "size_bytes": size_bytes}
        self.world.serial += 1
        if self.module is datasets:
            return self.world.write(datasets.create, self.world.project, source={"type": "file"}, **facts).id
        return self.world.write(models.create, self.world.project, architecture="vit", arguments={}, **facts).id

    def claim(self, lease_seconds=60):
        found = self.world.write(self.module.claim, worker_id="w", lease_seconds=lease_seconds)
        return None if found is None else IngestLeaseToken.from_row(found)

    def ready(self, lease):
        facts = {"files": [self.world.file()]}
        if self.module is models:
            return self.world.write(models.mark_ready, lease, info=FACTS, **facts)
        more = {"splits": {}, "num_classes": None, "classes": None, "channels": 3, "image_size": 8}
        return self.world.write(datasets.mark_ready, lease, fingerprint="0" * 64, size_bytes=1, **more, **facts)

    def get(self, wanted):
        return self.world.read(self.module.get, self.world.project, wanted)


@pytest.fixture(params=["datasets", "models"])
def kind(world, request):
    return Kind(world, request.param)


def test_the_oldest_is_claimed_and_made_ready(world, kind):
    first, second = kind.create(), kind.create()
    assert world.read(kind.module.waiting) == 2

    lease = kind.claim()

    assert lease == IngestLeaseToken(first, 1)
    assert world.read(kind.module.waiting) == 1
    done = kind.ready(lease)
    assert (done.status, done.worker_id, done.upload_key, done.files[0]["size_bytes"]) == ("ready", None, None, 10)
    assert done.finished_at is not None
    assert kind.claim().object_id == second
    assert kind.claim() is None


def test_what_failed_as_its_worker_was_lost_too_often_holds_neither_its_upload_nor_its_room(world, kind):
    wanted = kind.create(size_bytes=100)
    before = world.read(quotas.get_stored_bytes, world.project)
    for _ in range(ingest_leases.MAX_WORKER_LOSSES):
        kind.claim(lease_seconds=-1)
    assert kind.claim() is None

    failed = kind.get(wanted)
    assert (failed.status, failed.error["code"]) == ("failed", "worker_lost")
    assert (failed.upload_key, failed.size_bytes) == (None, None)
    assert world.read(quotas.get_stored_bytes, world.project) == before - 100


def test_a_failure_says_why(world, kind):
    wanted = kind.create()
    world.write(kind.module.fail, kind.claim(), {"code": "dataset_rejected", "message": "no images"})

    failed = kind.get(wanted)
    assert (failed.status, failed.error["message"]) == ("failed", "no images")
    assert kind.claim() is None


def test_a_stale_attempt_can_write_nothing(world, kind):
    kind.create()
    stale = kind.claim(lease_seconds=-1)
    kind.claim()
    before = world.rows()

    for write in (
        lambda: world.write(kind.module.beat, stale, 60),
        lambda: world.write(kind.module.hand_back, stale),
        lambda: world.write(kind.module.fail, stale, {"code": "x", "message": "x"}),
        lambda: kind.ready(stale),
    ):
        with pytest.raises(LeaseLost):
            write()
    assert world.rows() == before


def test_what_was_handed_back_can_be_written_by_nobody(world, kind):
    kind.create()
    lease = kind.claim()
    world.write(kind.module.hand_back, lease)

    with pytest.raises(LeaseLost):
        kind.ready(lease)
    assert kind.claim().attempt == 2


def test_a_beat_keeps_it(world, kind):
    kind.create()
    lease = kind.claim(lease_seconds=-1)
    world.write(kind.module.beat, lease, 60)

    assert kind.claim() is None


def test_an_upload_that_takes_its_worker_down_three_times_fails(kind):
    wanted = kind.create()
    for attempt in (1, 2, 3):
        assert kind.claim(lease_seconds=-1) == IngestLeaseToken(wanted, attempt)

    assert kind.claim() is None
    failed = kind.get(wanted)
    assert (failed.status, failed.error["code"], failed.worker_losses) == ("failed", "worker_lost", 3)


def test_handing_back_is_no_loss(world, kind):
    wanted = kind.create()
    for _ in range(5):
        world.write(kind.module.hand_back, kind.claim())

    assert kind.get(wanted).worker_losses == 0
    assert kind.claim() is not None


def test_a_deletion_takes_it_from_its_worker(world, kind):
    wanted = kind.create()
    lease = kind.claim()
    assert world.write(kind.module.delete, world.project, wanted) != []

    with pytest.raises(LeaseLost):
        kind.ready(lease)


def test_threads_never_claim_the_same(kind):
    wanted = sorted(kind.create() for _ in range(8))
    found = []

    def work():
        while (lease := kind.claim()) is not None:
            found.append(lease.object_id)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(found) == wanted

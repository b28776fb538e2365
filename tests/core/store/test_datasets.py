"""Datasets as their owner sees them."""

import pytest

from core.errors import NotFound
from core.store import datasets
from core.store.ingest_leases import IngestLeaseToken


def test_a_ready_dataset_has_its_facts(world):
    found = world.read(datasets.get, world.project, world.dataset)

    assert (found.status, found.num_classes, found.classes, found.channels) == ("ready", 2, ["a", "b"], 1)
    assert found.splits == {"train": {"num_samples": 80}, "test": {"num_samples": 20}}
    assert (found.rejected, found.error) == ([], None)


def test_an_unlabelled_dataset_has_no_classes(world):
    made = world.write(datasets.create, world.project, name="u", source={})
    lease = IngestLeaseToken.from_row(world.write(datasets.claim, worker_id="w", lease_seconds=60))
    facts = {"splits": {"train": {"num_samples": 1}}, "channels": 3, "image_size": 8, "fingerprint": "f"}
    rejected = [{"path": "a.png", "reason": "broken"}]
    world.write(
        datasets.mark_ready, lease, files=[], num_classes=None, classes=None, size_bytes=1, rejected=rejected, **facts
    )

    found = world.read(datasets.get, world.project, made.id)
    assert (found.classes, found.num_classes, found.rejected) == (None, None, rejected)


@pytest.mark.parametrize("wanted", ["ds_nothing", "mdl_1", "ds_\x00", "ds_01m85jzb7r4z265qka2x1zqddn"])
def test_a_dataset_that_is_not_there(world, wanted):
    with pytest.raises(NotFound):
        world.read(datasets.get, world.project, wanted)


def test_a_stranger_sees_nothing(world, other_project):
    assert world.read(datasets.list_datasets, other_project).items == []
    with pytest.raises(NotFound):
        world.read(datasets.get, other_project, world.dataset)
    with pytest.raises(NotFound):
        world.write(datasets.delete, other_project, world.dataset)


def test_pages_are_newest_first(world):
    made = [world.dataset, *(world.ready_dataset() for _ in range(2))]

    page = world.read(datasets.list_datasets, world.project, limit=2)

    assert ([one.id for one in page.items], page.has_more) == (sorted(made, reverse=True)[:2], True)


def test_a_deleted_dataset_gives_back_its_files(world):
    assert world.write(datasets.delete, world.project, world.dataset) == [f"datasets/{world.dataset}/a1/index.json"]
    with pytest.raises(NotFound):
        world.read(datasets.get, world.project, world.dataset)

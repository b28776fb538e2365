"""Datasets as their owner sees them."""

import pytest

from core.errors import NotFound
from core.store import datasets
from core.store.ingest_leases import IngestLeaseToken


def test_a_ready_dataset_has_its_facts(world):
    found = world.ask(datasets.get, world.project, world.dataset)

    assert (found.status, found.num_classes, found.classes, found.channels) == ("ready", 2, ["a", "b"], 1)
    assert found.splits == {"train": {"num_samples": 80}, "test": {"num_samples": 20}}
    assert (found.rejected, found.error) == ([], None)


def test_an_unlabelled_dataset_has_no_classes(world):
    made = world.do(datasets.create, world.project, name="u", source={})
    holding = IngestLeaseToken.of(world.do(datasets.claim, worker_id="w", lease_seconds=60))
    facts = {"splits": {"train": {"num_samples": 1}}, "channels": 3, "image_size": 8, "fingerprint": "f"}
    rejected = [{"path": "a.png", "reason": "broken"}]
    world.do(
        datasets.ready, holding, files=[], num_classes=None, classes=None, size_bytes=1, rejected=rejected, **facts
    )

    found = world.ask(datasets.get, world.project, made.id)
    assert (found.classes, found.num_classes, found.rejected) == (None, None, rejected)


@pytest.mark.parametrize("wanted", ["ds_nothing", "mdl_1", "ds_\x00", "ds_01m85jzb7r4z265qka2x1zqddn"])
def test_a_dataset_that_is_not_there(world, wanted):
    with pytest.raises(NotFound):
        world.ask(datasets.get, world.project, wanted)


def test_a_stranger_sees_nothing(world, stranger):
    assert world.ask(datasets.list_datasets, stranger).items == []
    with pytest.raises(NotFound):
        world.ask(datasets.get, stranger, world.dataset)
    with pytest.raises(NotFound):
        world.do(datasets.delete, stranger, world.dataset)


def test_pages_are_newest_first(world):
    made = [world.dataset, *(world.ready_dataset() for _ in range(2))]

    page = world.ask(datasets.list_datasets, world.project, limit=2)

    assert ([one.id for one in page.items], page.has_more) == (sorted(made, reverse=True)[:2], True)


def test_a_deleted_dataset_gives_back_its_files(world):
    assert world.do(datasets.delete, world.project, world.dataset) == [f"datasets/{world.dataset}/a1/index.json"]
    with pytest.raises(NotFound):
        world.ask(datasets.get, world.project, world.dataset)

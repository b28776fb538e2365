"""Datasets of a project."""

import pytest

from core.errors import NotFound
from core.store import datasets
from core.store.ingest_leases import IngestLeaseToken


def test_ready_dataset_has_its_fields(world):
    dataset = world.read(datasets.get, world.project, world.dataset)

    assert (dataset.status, dataset.num_classes, dataset.classes, dataset.channels) == ("ready", 2, ["a", "b"], 1)
    assert dataset.splits == {"train": {"num_samples": 80}, "test": {"num_samples": 20}}
    assert (dataset.rejected, dataset.error) == ([], None)


def test_unlabeled_dataset_has_no_classes(world):
    dataset = world.write(datasets.create, world.project, name="u", source={})
    lease = IngestLeaseToken.from_row(world.write(datasets.claim, worker_id="w", lease_seconds=60))
    fields = {"splits": {"train": {"num_samples": 1}}, "channels": 3, "image_size": 8, "fingerprint": "f"}
    rejected = [{"path": "a.png", "reason": "broken"}]
    world.write(
        datasets.mark_ready, lease, files=[], num_classes=None, classes=None, size_bytes=1, rejected=rejected, **fields
    )

    loaded = world.read(datasets.get, world.project, dataset.id)
    assert (loaded.classes, loaded.num_classes, loaded.rejected) == (None, None, rejected)


@pytest.mark.parametrize("dataset_id", ["ds_nothing", "mdl_1", "ds_\x00", "ds_01m85jzb7r4z265qka2x1zqddn"])
def test_unknown_dataset_is_not_found(world, dataset_id):
    with pytest.raises(NotFound):
        world.read(datasets.get, world.project, dataset_id)


def test_datasets_of_another_project_are_hidden(world, other_project):
    assert world.read(datasets.list_datasets, other_project).items == []
    with pytest.raises(NotFound):
        world.read(datasets.get, other_project, world.dataset)
    with pytest.raises(NotFound):
        world.write(datasets.delete, other_project, world.dataset)


def test_pages_are_newest_first(world):
    dataset_ids = [world.dataset, *(world.ready_dataset() for _ in range(2))]

    page = world.read(datasets.list_datasets, world.project, limit=2)

    assert ([dataset.id for dataset in page.items], page.has_more) == (sorted(dataset_ids, reverse=True)[:2], True)


def test_datasets_are_found_by_words_of_name_and_id(world):
    found = [world.ready_dataset(name=name) for name in ("Street signs", "street_scenes", "100% cats")]

    def search(text):
        return [dataset.id for dataset in world.read(datasets.list_datasets, world.project, search=text).items]

    assert search("SIGNS street") == [found[0]]
    assert search("100%") == [found[2]]
    assert search("t_s") == [found[1]]
    assert search(found[1][-8:]) == [found[1]]
    assert search("dogs") == []


def test_delete_returns_files(world):
    assert world.write(datasets.delete, world.project, world.dataset) == [f"datasets/{world.dataset}/a1/index.json"]
    with pytest.raises(NotFound):
        world.read(datasets.get, world.project, world.dataset)

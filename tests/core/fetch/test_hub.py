"""Configs and splits of a hub's dataset, from the paths of its Parquet files."""

import pytest

from core.fetch.hub import HubListing, _parse_listing, select_files
from core.ingest_errors import DownloadFailed, DownloadTooLarge, HubDatasetUnclear

COMMIT = "a" * 40


def listing(*paths, size=10):
    siblings = [{"rfilename": path, "size": size, "lfs": {"sha256": "0" * 64}} for path in paths]
    return _parse_listing("o/n", {"sha": COMMIT, "siblings": siblings})


@pytest.mark.parametrize(
    ("path", "config", "split"),
    [
        ("data/train-00000-of-00002.parquet", "default", "train"),
        ("data/train-00000-of-00001-1a2b3c4d5e6f7a8b.parquet", "default", "train"),
        ("test.parquet", "default", "test"),
        ("plain_text/test-00000-of-00001.parquet", "plain_text", "test"),
        ("default/train/0000.parquet", "default", "train"),
        ("cifar/partial-train/0003.parquet", "cifar", "train"),
        ("a/b/validation.parquet", "a/b", "validation"),
        ("data/train-000001.tar", "default", "train"),
        ("cifar/train/000001.tar", "cifar", "train"),
    ],
)
def test_a_path_names_config_and_split(path, config, split):
    (file,) = listing("README.md", path).files

    assert (file.config, file.split, file.path) == (config, split, path)


def test_one_split_or_all_splits_of_a_config_are_selected():
    found = listing("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test.parquet")

    assert len(select_files(found, config=None, split=None, max_bytes=100)) == 3
    assert [f.split for f in select_files(found, config="default", split="train", max_bytes=100)] == ["train"] * 2


@pytest.mark.parametrize(
    ("config", "split", "message"),
    [
        (None, None, "several configs; choose one of big, small"),
        ("huge", None, "no config huge; choose one of big, small"),
        ("big", "dev", "no split dev; choose one of test, train"),
    ],
)
def test_an_unclear_choice_names_what_there_is(config, split, message):
    found = listing("big/train.parquet", "big/test.parquet", "small/train.parquet")
    with pytest.raises(HubDatasetUnclear, match=message):
        select_files(found, config=config, split=split, max_bytes=100)


def test_a_dataset_beyond_the_limit_is_refused_before_the_download():
    with pytest.raises(DownloadTooLarge, match="20 bytes"):
        select_files(listing("train.parquet", "test.parquet"), config=None, split=None, max_bytes=19)


@pytest.mark.parametrize(
    "document",
    [None, [], {}, {"sha": COMMIT}, {"sha": "main", "siblings": []}, {"sha": COMMIT, "siblings": [{"x": 1}]}],
)
def test_a_description_of_another_form_is_refused(document):
    with pytest.raises(DownloadFailed):
        _parse_listing("o/n", document)


def test_other_files_are_ignored():
    assert listing("README.md", "train.zip") == HubListing(COMMIT, ())

"""WebDataset: samples with the same key, in one tar or in several shards."""

import io
import json
import tarfile

import pytest

from core.data.stored import StoredDataset
from core.ingest.dataset import LayoutOptions
from core.ingest_errors import ArchiveUnreadable


@pytest.fixture
def shard(encoded, tarred):
    """Make a shard from labels; keys restart in each one. ``label_of`` gives the label file of a sample."""

    def make(labels, *, first=0, suffix="png", kind="PNG", label_of=None):
        files = {}
        for index, label in enumerate(labels):
            key = f"{index:06d}"
            files[f"{key}.{suffix}"] = encoded(seed=first + index, kind=kind)
            name, content = label_of(key, label) if label_of else (f"{key}.cls", str(label).encode())
            files[name] = content
        return tarred(files)

    return make


def as_json(key, label):
    return f"{key}.json", json.dumps({"label": label, "class_name": ["cat", "dog"][label], "caption": "x"}).encode()


def labels_of(path, split):
    with StoredDataset.open(path) as stored:
        return stored.split(split).labels.tolist()


@pytest.mark.parametrize("pack", ["zipped", "tarred"])
def test_shards_with_the_same_keys_are_one_dataset(ingest, shard, tmp_path, pack, request):
    shards = {
        "data/train-000000.tar": shard([0, 1] * 3),
        "data/train-000001.tar": shard([1, 0], first=10, suffix="webp", kind="WEBP"),
        "data/test-000000.tar": shard([1, 0, 0], first=20),
        "data/classes.txt": b"cat\ndog\n",
    }
    if pack == "tarred":
        shards = dict(sorted(shards.items()))
    report = ingest(request.getfixturevalue(pack)(shards))

    assert (report.classes, report.rejected) == (("cat", "dog"), ())
    assert report.splits == {"train": {"num_samples": 8}, "test": {"num_samples": 3}}
    assert labels_of(tmp_path / "stored", "train") == [0, 1] * 3 + [1, 0]
    assert labels_of(tmp_path / "stored", "test") == [1, 0, 0]


def test_json_files_give_labels_and_the_names_of_classes(ingest, shard, tmp_path):
    report = ingest(shard([0, 1] * 5, label_of=as_json))

    assert (report.classes, report.rejected) == (("cat", "dog"), ())
    assert sum(split["num_samples"] for split in report.splits.values()) == 10
    assert [warning.code for warning in report.warnings] == ["labels_from_files"]


def test_without_names_the_classes_are_numbered(ingest, shard):
    assert ingest(shard([0, 2, 10] * 3)).classes == ("0", "2", "10")


def test_unusable_samples_are_named_with_the_reason(ingest, tarred, encoded):
    files = {"classes.txt": b"a\nb\n"}
    for index in range(8):
        files |= {f"{index}.png": encoded(seed=index), f"{index}.cls": b"%d" % (index % 2)}
    files |= {"8.png": encoded(seed=8), "9.png": encoded(seed=9), "9.cls": b"7", "7.json": b"{", "list.json": b"[]"}
    report = ingest(tarred(files))

    assert report.classes == ("a", "b")
    rejected = {each.path: each.reason for each in report.rejected}
    assert rejected.keys() == {"8.png", "9.png", "7.json", "list.json"}
    assert "no .cls file with its name" in rejected["8.png"]
    assert rejected["9.png"] == "the label 7 is not one of the 2 classes of classes.txt"
    assert "cannot be read" in rejected["7.json"]
    assert "no image suffix" in rejected["list.json"]


def test_a_repeated_key_of_a_shard_is_rejected(ingest, encoded, shard, tmp_path):
    path = tmp_path / "twice.tar"
    path.write_bytes(shard([0, 1] * 4))
    with tarfile.open(path, "a") as archive:
        for name, content in {"000000.png": encoded(seed=50), "000000.cls": b"1"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    report = ingest(path.read_bytes())

    expected = {("000000.cls", "duplicate_path"), ("000000.png", "duplicate_path")}
    assert {(each.path, each.code) for each in report.rejected} == expected
    assert sum(split["num_samples"] for split in report.splits.values()) == 8


def test_a_tar_after_images_or_in_a_shard_is_not_opened(ingest, shard, tarred, tree):
    beside = tree() | {"backup.tar": shard([0, 1])}
    inner = tarred({"0.cls": b"0", "inner.tar": shard([0, 1])})

    assert [each.code for each in ingest(tarred(beside), "a").rejected] == ["nested_archive"]
    report = ingest(tarred({"x.tar": shard([0, 1] * 4), "y.tar": inner}), "b")
    assert [(each.path, each.code) for each in report.rejected] == [("y/inner.tar", "nested_archive")]


def test_a_damaged_shard_is_named(ingest, shard, tarred):
    whole = shard([0, 1] * 4)

    with pytest.raises(ArchiveUnreadable, match=r"train-1\.tar: the tar archive is damaged"):
        ingest(tarred({"train-0.tar": whole, "train-1.tar": whole[:700]}))


def test_labels_can_be_ignored(ingest, shard):
    report = ingest(shard([0, 1] * 4, label_of=as_json), options=LayoutOptions(labels="none"))

    assert (report.classes, report.rejected) == (None, ())

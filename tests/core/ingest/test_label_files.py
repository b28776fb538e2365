"""Labels beside the images: read where they follow the hub or WebDataset, else named in a warning."""

import json

import pytest

from core.data.stored import StoredDataset
from core.ingest.dataset import LayoutOptions


@pytest.fixture
def photos(encoded):
    """Image files by name: ``make("train/", 6)`` has ``train/0.png`` to ``train/5.png``."""

    def make(prefix, count, first=0):
        return {f"{prefix}{i}.png": encoded(seed=first + i) for i in range(count)}

    return make


def csv_text(labels, columns="file_name,label"):
    return "\n".join([columns, *(f"{name},{label}" for name, label in labels.items())]).encode()


def codes(report):
    return [warning.code for warning in report.warnings]


def test_metadata_of_the_hub_labels_the_images_of_its_folder(ingest, zipped, photos, tmp_path):
    files = photos("train/", 6) | photos("test/", 2, first=10)
    files["train/metadata.csv"] = csv_text({f"{i}.png": "cat" if i % 2 else "dog" for i in range(6)})
    files["test/metadata.csv"] = csv_text({"0.png": "dog", "1.png": "cat"})

    report = ingest(zipped(files))

    assert (report.classes, report.splits["train"]) == (("cat", "dog"), {"num_samples": 6})
    assert codes(report) == ["labels_from_files"]
    assert report.rejected == ()
    with StoredDataset.open(tmp_path / "stored") as stored:
        assert stored.split("train").labels.tolist() == [1, 0] * 3
        assert stored.split("test").labels.tolist() == [1, 0]


@pytest.mark.parametrize("pack", ["zipped", "tarred"])
def test_metadata_may_be_json_lines_and_list_nested_images(ingest, photos, request, pack):
    lines = [json.dumps({"file_name": f"images/{i}.png", "caption": "x", "label": i % 2}) for i in range(10)]
    files = {"pets/metadata.jsonl": "\n".join(lines).encode()} | photos("pets/images/", 10)

    report = ingest(request.getfixturevalue(pack)(files))

    assert (report.classes, report.splits) == (("0", "1"), {"train": {"num_samples": 8}, "test": {"num_samples": 2}})


def test_integer_labels_are_sorted_as_numbers_and_other_text_is_not(ingest, zipped, photos):
    numbers = {f"{i}.png": ["2", "10.0"][i % 2] for i in range(8)}
    codes_of_places = {f"{i}.png": ["007", "10"][i % 2] for i in range(8)}

    assert ingest(zipped(photos("", 8) | {"metadata.csv": csv_text(numbers)}), "a").classes == ("2", "10")
    assert ingest(zipped(photos("", 8) | {"metadata.csv": csv_text(codes_of_places)}), "b").classes == ("007", "10")


def test_images_without_a_label_are_rejected_by_name(ingest, zipped, photos):
    labels = {f"{i}.png": ["a", "b"][i % 2] for i in range(8)} | {"8.png": "", "nowhere.png": "a"}

    report = ingest(zipped(photos("", 10) | {"metadata.csv": csv_text(labels)}))

    assert {r.path: r.reason for r in report.rejected} == {
        f"{i}.png": "the image has no label in the label files" for i in (8, 9)
    }


def test_a_webdataset_is_labeled_by_its_cls_files(ingest, tarred, photos):
    files = photos("shard/", 10) | {f"shard/{i}.cls": b"%d\n" % (i % 2) for i in range(10)}

    report = ingest(tarred(files))

    assert (report.classes, report.splits["train"]) == (("0", "1"), {"num_samples": 8})
    assert codes(report) == ["labels_from_files"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"file_name,text\n0.png,x", "no columns file_name and label; its columns are file_name, text"),
        (b"\xff\xfe", "not UTF-8"),
        (b"file_name,label\n../0.png,x", "leads outside"),
        (b"file_name,label\n0.png," + b"x" * 300, "longer than"),
    ],
)
def test_an_unusable_label_file_is_rejected_with_the_reason(ingest, zipped, photos, content, words):
    report = ingest(zipped(photos("a/", 4) | photos("b/", 4, first=9) | {"metadata.csv": content}))

    assert report.classes == ("a", "b")
    assert [(r.path, words in r.reason) for r in report.rejected] == [("metadata.csv", True)]


@pytest.mark.parametrize(
    "line", ["[1]", "{", '{"file_name": "0.png", "label": [1]}', '{"file_name": "0.png", "label": 0.5}']
)
def test_unusable_json_lines_are_rejected(ingest, zipped, photos, line):
    report = ingest(zipped(photos("a/", 4) | photos("b/", 4, first=9) | {"metadata.jsonl": line.encode()}))

    assert [r.path for r in report.rejected] == ["metadata.jsonl"]


@pytest.mark.parametrize(
    "name",
    [
        "labels.csv",
        "train.csv",
        "annotations/instances_train.json",
        "_annotations.coco.json",
        "labels/0.txt",
        "Annotations/0.xml",
        "val_annotations.txt",
    ],
)
def test_label_files_that_are_not_read_are_named_in_a_warning(ingest, zipped, photos, name):
    report = ingest(zipped(photos("images/", 8) | {name: b"0 0.5 0.5 1 1"}))

    (warning,) = report.warnings
    assert warning.code == "label_files_not_read"
    assert name in warning.message
    assert [r.path for r in report.rejected] == [name]


@pytest.mark.parametrize("name", ["README.txt", "LICENSE", "config.json", "notes.md"])
def test_other_files_cause_no_warning(ingest, zipped, photos, name):
    assert ingest(zipped(photos("images/", 8) | {name: b"text"})).warnings == ()


def test_labels_none_reads_no_label_files(ingest, zipped, photos):
    files = photos("", 8) | {"metadata.csv": csv_text({f"{i}.png": "a" for i in range(8)}), "labels.csv": b"x"}

    report = ingest(zipped(files), options=LayoutOptions(labels="none"))

    assert (report.classes, report.warnings) == (None, ())


def test_named_splits_apply_to_images_with_listed_labels(ingest, zipped, photos):
    files = photos("fit/", 6) | photos("score/", 4, first=10)
    for folder, count in (("fit", 6), ("score", 4)):
        files[f"{folder}/metadata.csv"] = csv_text({f"{i}.png": ["a", "b"][i % 2] for i in range(count)})

    report = ingest(zipped(files), options=LayoutOptions(splits={"train": "fit", "test": "score"}))

    assert report.splits == {"train": {"num_samples": 6}, "test": {"num_samples": 4}}

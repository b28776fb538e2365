import io
import random
import subprocess
import sys
import zipfile

import pytest

from core.data.ingest import MAX_LISTED, ingest_builtin, ingest_folder
from core.data.stored import StoredDataset
from core.errors import DatasetRejected, InvalidRequest


def test_an_archive_becomes_a_stored_dataset(ingest, zipped, tree, tmp_path):
    report = ingest(zipped(tree()))

    assert report.classes == ("cat", "dog")
    assert report.num_classes == 2
    assert report.splits == {"train": {"num_samples": 10}, "test": {"num_samples": 4}}
    assert (report.channels, report.image_size) == (3, 8)
    assert report.rejected == ()
    assert report.size_bytes == sum(file.stat().st_size for file in (tmp_path / "stored").iterdir())
    with StoredDataset.open(tmp_path / "stored") as stored:
        assert stored.fingerprint == report.fingerprint


def test_broken_images_are_reported_and_left_out(ingest, zipped, tree):
    report = ingest(zipped(tree() | {"train/cat/broken.png": b"\x89PNG\r\n\x1a\nnot an image", "notes.txt": b"hello"}))

    assert [rejected.path for rejected in report.rejected] == ["train/cat/broken.png", "notes.txt"]
    assert "not an image" in report.rejected[0].reason
    assert report.splits["train"] == {"num_samples": 10}


def test_rejected_files_do_not_change_the_fingerprint(ingest, zipped, tree):
    whole = ingest(zipped(tree()), "one")
    more = ingest(zipped({"../outside.png": b"x"} | tree() | {"train/cat/broken.png": b"no"}), "two")

    assert more.fingerprint == whole.fingerprint


def test_the_same_content_packed_otherwise_has_the_same_fingerprint(ingest, zipped, tarred, tree, tmp_path):
    files = tree()
    shuffled = random.Random(0).sample(sorted(files.items()), len(files))
    for name, content in files.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(content)

    reports = [
        ingest(zipped(files), "a"),
        ingest(zipped(dict(shuffled), zipfile.ZIP_DEFLATED), "b"),
        ingest(tarred(dict(shuffled), "w:gz"), "c"),
        ingest(tarred({f"download/pets/{name}": content for name, content in files.items()}, "w:xz"), "d"),
        ingest_folder(tmp_path / "folder", tmp_path / "e"),
    ]

    assert len({report.fingerprint for report in reports}) == 1


def test_other_encoding_of_the_same_pixels_has_the_same_fingerprint(ingest, zipped, encoded):
    def dataset(kind):
        return zipped({f"{c}/{i}.png": encoded(seed=i, kind=kind) for c in "ab" for i in range(5)})

    assert ingest(dataset("PNG"), "png").fingerprint == ingest(dataset("BMP"), "bmp").fingerprint


@pytest.mark.parametrize("change", ["pixel", "label", "split", "class", "missing"])
def test_any_other_content_has_another_fingerprint(ingest, tree, zipped, encoded, change):
    files = tree()
    path = max(files)
    content = files.pop(path)
    if change == "pixel":
        files[path] = encoded(seed=999)
    elif change == "label":
        files[path.replace("dog", "cat")] = content
    elif change == "split":
        files[path.replace("train", "test")] = content
    elif change == "class":
        files = {name.replace("dog", "wolf"): data for name, data in (files | {path: content}).items()}

    one = ingest(zipped(tree()), "one")
    other = ingest(zipped(files), "other")

    assert one.fingerprint != other.fingerprint


def test_a_dataset_is_greyscale_only_if_every_image_is(ingest, zipped, encoded):
    grey = {f"{c}/{i}.png": encoded(seed=i, mode="L") for c in "ab" for i in range(5)}

    assert ingest(zipped(grey), "grey").channels == 1
    assert ingest(zipped(grey | {"a/0.png": encoded()}), "mixed").channels == 3


@pytest.mark.parametrize(
    ("sizes", "expected"), [([(20, 10), (12, 30), (40, 16)], 12), ([(500, 400)] * 3, 224), ([(2, 2)] * 3, 4)]
)
def test_the_usual_size_is_the_median_shorter_side_within_bounds(ingest, zipped, encoded, sizes, expected):
    files = {f"train/{c}/{i}.png": encoded(size=size) for c in "ab" for i, size in enumerate(sizes)}

    assert ingest(zipped(files | {"test/a/1.png": encoded(size=(900, 900))})).image_size == expected


def test_a_path_that_comes_twice_is_taken_once(ingest, tree, zipped, encoded):
    with pytest.warns(UserWarning, match="Duplicate name"):
        content = _with_twin(zipped(tree()), "train/cat/00.png", encoded(seed=77))

    report = ingest(content)

    assert [(r.path, r.reason) for r in report.rejected] == [
        ("train/cat/00.png", "there is another file with this path, which was taken")
    ]


def _with_twin(archive, name, content):
    out = io.BytesIO(archive)
    with zipfile.ZipFile(out, "a") as more:
        more.writestr(name, content)
    return out.getvalue()


def test_an_archive_without_images_is_refused_with_what_was_left_out(ingest, zipped):
    with pytest.raises(DatasetRejected, match="none of the 1 files is an image") as error:
        ingest(zipped({"a.txt": b"x"}))

    assert error.value.extra["rejected"][0]["path"] == "a.txt"


def test_an_empty_archive_is_refused(ingest, zipped):
    with pytest.raises(DatasetRejected, match="there are no files in it"):
        ingest(zipped({}))


def test_one_class_left_by_broken_images_names_them(ingest, zipped, encoded):
    files = {f"train/a/{i}.png": encoded(seed=i) for i in range(5)} | {"train/b/1.png": b"broken"}

    with pytest.raises(DatasetRejected, match="one class only") as error:
        ingest(zipped(files))

    assert [r["path"] for r in error.value.extra["rejected"]] == ["train/b/1.png"]


def test_nothing_is_left_of_a_refused_dataset(ingest, zipped, tmp_path):
    bomb = {f"train/a/{i}.png": b"\0" * 20_000_000 for i in range(4)}

    with pytest.raises(DatasetRejected, match="bomb"):
        ingest(zipped(bomb, zipfile.ZIP_DEFLATED))

    assert [path.name for path in tmp_path.iterdir()] == ["upload"]


def test_an_existing_dataset_is_not_overwritten(ingest, zipped, tree):
    ingest(zipped(tree()))

    with pytest.raises(FileExistsError):
        ingest(zipped(tree()))


def test_an_empty_folder_may_stand_where_the_dataset_goes(ingest, zipped, tree, tmp_path):
    (tmp_path / "stored").mkdir()

    assert ingest(zipped(tree())).num_classes == 2


def test_a_caller_can_end_the_work(ingest, zipped, tree, tmp_path):
    def stop(count):
        raise KeyboardInterrupt(count)

    with pytest.raises(KeyboardInterrupt, match="8"):
        ingest(zipped(tree(train=40)), progress=stop)

    assert not (tmp_path / "stored").exists()


def test_a_million_rejections_are_counted_and_the_first_listed(ingest, zipped, tree):
    report = ingest(zipped(tree() | {f"x{i}.txt": b"" for i in range(MAX_LISTED + 5)}))

    assert len(report.rejected) == MAX_LISTED + 1
    assert report.rejected[-1].reason == "5 more files are left out"
    assert report.num_rejected == MAX_LISTED + 5


def test_digits_are_built_in(tmp_path):
    report = ingest_builtin("digits", tmp_path / "digits")

    assert report.classes == tuple("0123456789")
    assert report.splits == {"train": {"num_samples": 1438}, "test": {"num_samples": 359}}
    assert (report.channels, report.image_size, report.num_rejected) == (1, 8, 0)


def test_an_unknown_built_in_dataset_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(InvalidRequest, match="digits and mnist-5k"):
        ingest_builtin("imagenet", tmp_path / "x")


def test_ingestion_needs_no_torch():
    code = (
        "import sys, core.data.ingest, core.data.stored; print([m for m in ('torch', 'sklearn') if m in sys.modules])"
    )

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"

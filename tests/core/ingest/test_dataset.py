import io
import json
import random
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from core.data.stored import StoredDataset
from core.errors import DatasetRejected, InvalidRequest
from core.ingest.dataset import MAX_LISTED_REJECTIONS, IngestReport, LayoutOptions, ingest_builtin, ingest_folder
from core.ingest_errors import TableUnclear


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


def test_broken_images_are_rejected(ingest, zipped, tree):
    report = ingest(zipped(tree() | {"train/cat/broken.png": b"\x89PNG\r\n\x1a\nnot an image", "notes.txt": b"hello"}))

    assert [rejected.path for rejected in report.rejected] == ["train/cat/broken.png", "notes.txt"]
    assert "not an image" in report.rejected[0].reason
    assert report.splits["train"] == {"num_samples": 10}


def test_rejected_files_do_not_change_the_fingerprint(ingest, zipped, tree):
    complete = ingest(zipped(tree()), "one")
    with_rejected = ingest(zipped({"../outside.png": b"x"} | tree() | {"train/cat/broken.png": b"no"}), "two")

    assert with_rejected.fingerprint == complete.fingerprint


def test_the_fingerprint_does_not_depend_on_the_packing(ingest, zipped, tarred, tree, tmp_path):
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


def test_the_fingerprint_does_not_depend_on_the_image_encoding(ingest, zipped, encoded):
    def dataset(kind):
        return zipped({f"{c}/{i}.png": encoded(seed=i, kind=kind) for c in "ab" for i in range(5)})

    assert ingest(dataset("PNG"), "png").fingerprint == ingest(dataset("BMP"), "bmp").fingerprint


@pytest.mark.parametrize("change", ["pixel", "label", "split", "class", "missing"])
def test_the_fingerprint_depends_on_the_content(ingest, tree, zipped, encoded, change):
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


def test_a_dataset_is_grayscale_only_if_every_image_is(ingest, zipped, encoded):
    gray = {f"{c}/{i}.png": encoded(seed=i, mode="L") for c in "ab" for i in range(5)}

    assert ingest(zipped(gray), "gray").channels == 1
    assert ingest(zipped(gray | {"a/0.png": encoded()}), "mixed").channels == 3


@pytest.mark.parametrize(
    ("sizes", "expected"), [([(20, 10), (12, 30), (40, 16)], 12), ([(500, 400)] * 3, 224), ([(2, 2)] * 3, 4)]
)
def test_the_default_image_size_is_the_clipped_median_shorter_side(ingest, zipped, encoded, sizes, expected):
    files = {f"train/{c}/{i}.png": encoded(size=size) for c in "ab" for i, size in enumerate(sizes)}

    assert ingest(zipped(files | {"test/a/1.png": encoded(size=(900, 900))})).image_size == expected


def test_a_duplicate_path_is_rejected(ingest, tree, zipped, encoded):
    with pytest.warns(UserWarning, match="Duplicate name"):
        content = _with_duplicate(zipped(tree()), "train/cat/00.png", encoded(seed=77))

    report = ingest(content)

    assert [(r.path, r.reason) for r in report.rejected] == [("train/cat/00.png", "an earlier file has the same path")]


def _with_duplicate(archive, name, content):
    out = io.BytesIO(archive)
    with zipfile.ZipFile(out, "a") as archive_file:
        archive_file.writestr(name, content)
    return out.getvalue()


def test_an_archive_without_images_fails_with_the_rejected_files(ingest, zipped):
    with pytest.raises(DatasetRejected, match="none of the 1 files is a readable image") as error:
        ingest(zipped({"a.txt": b"x"}))

    assert error.value.extra["rejected"][0]["path"] == "a.txt"


def test_an_empty_archive_fails(ingest, zipped):
    with pytest.raises(DatasetRejected, match="contains no files"):
        ingest(zipped({}))


def test_a_single_remaining_class_fails_with_the_rejected_files(ingest, zipped, encoded):
    files = {f"train/a/{i}.png": encoded(seed=i) for i in range(5)} | {"train/b/1.png": b"broken"}

    with pytest.raises(DatasetRejected, match="only one class") as error:
        ingest(zipped(files))

    assert [r["path"] for r in error.value.extra["rejected"]] == ["train/b/1.png"]


def test_a_failed_ingestion_leaves_no_files(ingest, zipped, tmp_path):
    bomb = {f"train/a/{i}.png": b"\0" * 20_000_000 for i in range(4)}

    with pytest.raises(DatasetRejected, match="bomb"):
        ingest(zipped(bomb, zipfile.ZIP_DEFLATED))

    assert [path.name for path in tmp_path.iterdir()] == ["upload"]


# --- Parquet ------------------------------------------------------------------------------------


@pytest.fixture
def shards(parquet, encoded):
    """The files of a hub dataset whose class names are not in alphabetical order."""
    names = ("wolf", "cat", "dog")

    def samples(first, count):
        return [(encoded(seed=first + k), k % 3) for k in range(count)]

    return {
        "data/train-00000-of-00002.parquet": parquet(samples(0, 6), names),
        "data/train-00001-of-00002.parquet": parquet(samples(6, 3), names),
        "data/test-00000-of-00001.parquet": parquet(samples(9, 3), names),
    }


def test_parquet_shards_define_splits_and_class_order(ingest, zipped, shards, tmp_path):
    report = ingest(zipped({"pets/README.md": b"#"} | {f"pets/{name}": content for name, content in shards.items()}))

    assert report.classes == ("wolf", "cat", "dog")
    assert report.splits == {"train": {"num_samples": 9}, "test": {"num_samples": 3}}
    assert [rejected.path for rejected in report.rejected] == ["pets/README.md"]
    with StoredDataset.open(tmp_path / "stored") as stored:
        train = stored.split("train")
        assert train.paths[0] == "train-00000-of-00002.parquet#0"
        assert train.labels.tolist() == [0, 1, 2] * 3


def test_the_fingerprint_of_shards_does_not_depend_on_the_packing(ingest, zipped, tarred, shards, tmp_path):
    for name, content in shards.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(content)

    reports = [
        ingest(zipped(shards), "a"),
        ingest(tarred(dict(reversed(shards.items())), "w:gz"), "b"),
        ingest_folder(tmp_path / "folder", tmp_path / "c"),
    ]

    assert len({report.fingerprint for report in reports}) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c", "folder", "upload"]


def test_one_parquet_file_gets_a_stratified_test_split(ingest, parquet, encoded):
    samples = [(encoded(seed=k), k % 2 + 5) for k in range(20)]

    report = ingest(parquet(samples))

    assert report.classes == ("5", "6")
    assert report.splits == {"train": {"num_samples": 16}, "test": {"num_samples": 4}}


def test_a_broken_row_is_rejected(ingest, parquet, encoded):
    samples = [(encoded(seed=k), k % 2) for k in range(20)]

    report = ingest(parquet([*samples, (b"not an image", 0)], ("a", "b")))

    assert [rejected.path for rejected in report.rejected] == ["data.parquet#20"]
    assert "not an image" in report.rejected[0].reason


@pytest.mark.parametrize("gap", [None, float("nan")])
def test_rows_without_a_label_are_rejected_by_name(ingest, parquet, encoded, gap):
    samples = [(encoded(seed=k), float(k % 2)) for k in range(20)]

    report = ingest(parquet([*samples, (encoded(seed=99), gap)]))

    assert report.classes == ("0", "1")
    assert [(r.path, r.reason) for r in report.rejected] == [("data.parquet#20", "the row has no label")]


def test_a_list_of_labels_is_unclear(ingest, parquet, encoded):
    with pytest.raises(TableUnclear, match="one whole number, text or boolean per image"):
        ingest(parquet([(encoded(seed=k), [k % 2, 1]) for k in range(4)]))


def test_string_labels_are_matched_between_splits(ingest, zipped, parquet, encoded):
    train, test = ([(encoded(seed=9 * n + k), name[k % 2]) for k in range(6)] for n, name in enumerate(["CD", "cd"]))

    report = ingest(zipped({"train.parquet": parquet(train), "test.parquet": parquet(test)}))

    assert (report.classes, report.splits["test"]) == (("C", "D"), {"num_samples": 6})
    assert [warning.code for warning in report.warnings] == ["class_names_matched"]


def test_a_damaged_shard_is_rejected_and_the_others_are_read(ingest, zipped, shards):
    shards["data/train-00001-of-00002.parquet"] = b"PAR1 nothing PAR1"

    report = ingest(zipped(shards))

    assert [rejected.path for rejected in report.rejected] == ["data/train-00001-of-00002.parquet"]
    assert report.splits["train"] == {"num_samples": 6}


def test_a_damaged_parquet_file_fails(ingest):
    with pytest.raises(DatasetRejected, match="Parquet file is damaged"):
        ingest(b"PAR1 nothing PAR1")


def test_labels_none_makes_an_unlabeled_dataset_from_parquet(ingest, parquet, encoded):
    report = ingest(
        parquet([(encoded(seed=k), k % 2) for k in range(10)], ("a", "b")), options=LayoutOptions(labels="none")
    )

    assert (report.classes, report.num_classes) == (None, None)
    assert report.splits == {"train": {"num_samples": 8}, "test": {"num_samples": 2}}


# --- without classes ----------------------------------------------------------------------------


@pytest.mark.parametrize("labels", ["auto", "none"])
def test_a_flat_folder_of_images_has_no_classes(ingest, zipped, encoded, labels, tmp_path):
    report = ingest(
        zipped({f"photos/{k}.png": encoded(seed=k) for k in range(10)}), options=LayoutOptions(labels=labels)
    )

    assert (report.classes, report.num_classes) == (None, None)
    assert report.splits == {"train": {"num_samples": 8}, "test": {"num_samples": 2}}
    with StoredDataset.open(tmp_path / "stored") as stored:
        assert stored.split("train").labels.tolist() == [-1] * 8


def test_labels_none_makes_an_unlabeled_dataset_from_folders(ingest, zipped, tree, tmp_path):
    files = tree()
    for name, content in files.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(content)

    report = ingest(zipped(files), options=LayoutOptions(labels="none"))

    assert report.classes is None
    assert report.splits == {"train": {"num_samples": 10}, "test": {"num_samples": 4}}
    assert report.fingerprint != ingest(zipped(files), "labeled").fingerprint
    assert (
        report.fingerprint
        == ingest_folder(tmp_path / "folder", tmp_path / "again", options=LayoutOptions(labels="none")).fingerprint
    )


@pytest.mark.parametrize("pack", ["zipped", "tarred"])
def test_composed_and_decomposed_names_are_one_class(ingest, encoded, request, pack):
    """macOS writes é as two characters, other systems as one; names beyond ASCII are pax headers in a tar."""
    names = ["caf\u00e9", "cafe\u0301", "th\u00e9", "the\u0301"]
    files = {f"{name}/{k}-{i}.png": encoded(seed=10 * k + i) for k, name in enumerate(names) for i in range(3)}

    report = ingest(request.getfixturevalue(pack)(files))

    assert report.classes == ("caf\u00e9", "th\u00e9")
    assert (report.splits["train"], report.splits["test"]) == ({"num_samples": 10}, {"num_samples": 2})
    assert report.rejected == ()


# --- duplicates ---------------------------------------------------------------------------------


def test_distinct_images_have_no_warnings(ingest, zipped, tree):
    assert ingest(zipped(tree())).warnings == ()


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_the_same_image_in_both_splits_is_a_warning(ingest, zipped, tree, encoded, kind):
    files = tree() | {"train/cat/same.png": encoded(seed=50), "test/cat/again.png": encoded(seed=50, kind=kind)}

    (warning,) = ingest(zipped(files)).warnings

    assert warning.code == "duplicate_across_splits"
    assert "1 of 5 test images" in warning.message
    assert "test/cat/again.png, train/cat/same.png" in warning.message


def test_the_same_image_in_two_classes_is_a_warning(ingest, zipped, tree, encoded):
    files = tree() | {f"train/{name}/same.png": encoded(seed=50) for name in ("cat", "dog")}

    (warning,) = ingest(zipped(files)).warnings

    assert warning.code == "duplicate_across_classes"
    assert "2 images occur in more than one class" in warning.message
    assert "train/cat/same.png (cat), train/dog/same.png (dog)" in warning.message


def test_duplicates_in_one_class_of_one_split_are_accepted(ingest, zipped, tree, encoded):
    assert ingest(zipped(tree() | {f"train/cat/x{i}.png": encoded(seed=50) for i in range(3)})).warnings == ()


def test_an_unlabeled_dataset_warns_of_duplicates_across_splits_only(ingest, zipped, encoded):
    files = {f"train/{i}.png": encoded(seed=i) for i in range(4)} | {"test/0.png": encoded(seed=0)}

    assert [warning.code for warning in ingest(zipped(files)).warnings] == ["duplicate_across_splits"]


def test_warnings_name_the_layout_that_was_chosen(ingest, zipped, encoded):
    names = [f"{split}/{name}/{i}.png" for split in ("val", "test") for name in ("cat", "dog") for i in range(3)]

    report = ingest(zipped({name: encoded(seed=seed) for seed, name in enumerate(names)}))

    assert [warning.code for warning in report.warnings] == ["split_chosen"]
    assert report.splits == {"train": {"num_samples": 6}, "test": {"num_samples": 6}}


# --- ingestion ----------------------------------------------------------------------------------


def test_an_existing_dataset_is_not_overwritten(ingest, zipped, tree):
    ingest(zipped(tree()))

    with pytest.raises(FileExistsError):
        ingest(zipped(tree()))


def test_the_dataset_replaces_an_empty_folder(ingest, zipped, tree, tmp_path):
    (tmp_path / "stored").mkdir()

    assert ingest(zipped(tree())).num_classes == 2


def test_an_exception_from_progress_ends_the_ingestion(ingest, zipped, tree, tmp_path):
    def stop(count, total):
        raise KeyboardInterrupt(count, total)

    with pytest.raises(KeyboardInterrupt, match=r"\(8, 84\)"):
        ingest(zipped(tree(train=40)), progress=stop)

    assert not (tmp_path / "stored").exists()


def test_all_rejections_are_counted_and_the_first_listed(ingest, zipped, tree):
    report = ingest(zipped(tree() | {f"x{i}.txt": b"" for i in range(MAX_LISTED_REJECTIONS + 5)}))

    assert len(report.rejected) == MAX_LISTED_REJECTIONS + 1
    assert report.rejected[-1].reason == "5 more files are left out"
    assert report.num_rejected == MAX_LISTED_REJECTIONS + 5


def test_digits_are_built_in(tmp_path):
    report = ingest_builtin("digits", tmp_path / "digits")

    assert report.classes == tuple("0123456789")
    assert report.splits == {"train": {"num_samples": 1438}, "test": {"num_samples": 359}}
    assert (report.channels, report.image_size, report.num_rejected) == (1, 8, 0)


def test_an_unknown_built_in_dataset_fails_with_the_available_ones(tmp_path):
    with pytest.raises(InvalidRequest, match="digits, mnist-5k, mnist-300"):
        ingest_builtin("imagenet", tmp_path / "x")


def test_ingestion_imports_neither_torch_nor_pyarrow():
    code = (
        "import sys, core.ingest.dataset, core.data.stored; "
        "print([m for m in ('torch', 'sklearn', 'pyarrow') if m in sys.modules])"
    )

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


# --- bit depth and shape ------------------------------------------------------------------------


def deep_files(encoded, values, kind="TIFF"):
    """Files of two classes with a 16-bit ramp from 0 to each value; the second class has descending ramps."""
    files = {}
    for index, value in enumerate(values):
        ramp = np.linspace(0, value, 64, dtype=np.uint16).reshape(8, 8)
        split = "test" if index == 0 else "train"
        for name, pixels in (("a", ramp), ("b", ramp[::-1].copy())):
            files[f"{split}/{name}/{index}.{kind.lower()}"] = encoded(Image.fromarray(pixels), kind=kind)
    return files


def test_twelve_bit_images_keep_their_gray_levels(ingest, zipped, encoded, tmp_path):
    report = ingest(zipped(deep_files(encoded, [4000, 4095, 3000, 4080, 2000])))

    assert (report.value_range.bits, report.value_range.max) == (12, 4095)
    with StoredDataset.open(tmp_path / "stored") as stored:
        assert stored.value_range == report.value_range
        levels = [len(set(stored.split("train").read(k).tobytes())) for k in range(8)]
    assert min(levels) == 64
    assert report.warnings == ()


def test_the_range_does_not_depend_on_the_order_of_the_files(ingest, zipped, encoded, tmp_path):
    files = deep_files(encoded, [100, 900, 4095, 30, 2000])
    one = ingest(zipped(files), "one")
    other = ingest(zipped(dict(reversed(files.items()))), "other")

    assert (one.fingerprint, one.value_range) == (other.fingerprint, other.value_range)
    with StoredDataset.open(tmp_path / "one") as first, StoredDataset.open(tmp_path / "other") as second:
        for index in range(len(first.split("train"))):
            assert first.split("train").read(index).tobytes() == second.split("train").read(index).tobytes()


def test_the_fingerprint_depends_on_the_low_bits(ingest, zipped, encoded):
    one = deep_files(encoded, [4000, 3000, 3500, 3900, 3950])
    other = one | {"train/a/1.tiff": encoded(Image.fromarray(np.full((8, 8), 4000, np.uint16)), kind="TIFF")}
    close = one | {"train/a/1.tiff": encoded(Image.fromarray(np.full((8, 8), 4001, np.uint16)), kind="TIFF")}

    assert ingest(zipped(other), "one").fingerprint != ingest(zipped(close), "two").fingerprint


def test_only_images_of_the_splits_decide_the_range(ingest, zipped, encoded):
    outside = {"train/a/1.tiff": 900, "train/b/1.tiff": 800, "test/a/1.tiff": 700, "test/b/1.tiff": 600}
    files = {name: encoded(Image.fromarray(np.full((4, 4), v, np.uint16)), kind="TIFF") for name, v in outside.items()}
    files["test/unknown/1.tiff"] = encoded(Image.fromarray(np.full((4, 4), 60_000, np.uint16)), kind="TIFF")

    assert ingest(zipped(files)).value_range.bits == 10


def test_the_same_values_in_png_and_tiff_have_one_fingerprint(ingest, zipped, encoded):
    values = [4000, 3000, 3500, 3900, 3950]

    assert (
        ingest(zipped(deep_files(encoded, values, "PNG")), "png").fingerprint
        == ingest(zipped(deep_files(encoded, values)), "tiff").fingerprint
    )


def test_an_eight_bit_dataset_has_no_range(ingest, zipped, tree):
    assert ingest(zipped(tree())).value_range is None


def test_mixed_bit_depths_are_a_warning(ingest, zipped, encoded, tmp_path):
    eight_bit = {f"train/{c}/x{i}.png": encoded(mode="L", seed=5) for c in "ab" for i in "12"}
    files = deep_files(encoded, [4000, 4095, 3000]) | eight_bit
    report = ingest(zipped(files))

    (warning,) = [warning for warning in report.warnings if warning.code == "mixed_bit_depths"]
    assert "60 % of the images" in warning.message
    assert "0…4,095" in warning.message
    with StoredDataset.open(tmp_path / "stored") as stored:
        split = stored.split("train")
        decoded = split.read(next(k for k, path in enumerate(split.paths) if "x1" in path))
    assert decoded.tobytes() == Image.open(io.BytesIO(encoded(mode="L", seed=5))).tobytes()


@pytest.mark.parametrize(
    ("sizes", "fraction", "warns"),
    [
        ([(30, 20)] * 5, 0.0, False),  # exactly a third
        ([(31, 20)] * 5, 1.0, True),
        ([(20, 31)] * 5, 1.0, True),
        ([(64, 36)] * 3 + [(8, 8)] * 2, 0.6, True),
        ([(64, 36)] * 2 + [(8, 8)] * 3, 0.4, False),
    ],
)
def test_images_that_lose_much_by_the_square_are_a_warning(ingest, zipped, encoded, sizes, fraction, warns):
    files = {f"{c}/{i}.png": encoded(seed=i + 9 * (c == "b"), size=s) for c in "ab" for i, s in enumerate(sizes)}
    report = ingest(zipped(files))

    assert report.cropped_fraction == pytest.approx(fraction)
    found = [warning for warning in report.warnings if warning.code == "aspect_ratio_cropped"]
    assert len(found) == warns
    if warns:
        assert found[0].field is None
        assert "pad the images to squares" in found[0].fix


def test_the_report_is_a_json_document(ingest, zipped, encoded):
    files = deep_files(encoded, [4000, 4095, 3000]) | {"train/a/x.png": encoded(size=(90, 9)), "b/y.txt": b""}
    report = ingest(zipped(files))

    assert IngestReport.from_document(json.loads(json.dumps(report.document()))) == report


# --- progress -----------------------------------------------------------------------------------


def test_progress_has_the_total_of_a_zip_and_a_table_but_not_of_a_tar(ingest, zipped, tarred, parquet, tree, encoded):
    counts = {}

    def record(kind):
        return lambda processed, total: counts.setdefault(kind, []).append((processed, total))

    files = tree(train=10) | {"notes.txt": b"", "__MACOSX/._00.png": b"x"}
    ingest(zipped(files), "zip", progress=record("zip"))
    ingest(tarred(files), "tar", progress=record("tar"))
    ingest(parquet([(encoded(seed=k), k % 2) for k in range(30)]), "table", progress=record("table"))

    assert counts["zip"] == [(8, 25), (16, 25), (24, 25)]
    assert counts["tar"] == [(8, None), (16, None), (24, None)]
    assert counts["table"] == [(8, 30), (16, 30), (24, 30)]

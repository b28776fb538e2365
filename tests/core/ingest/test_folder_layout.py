import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import DatasetRejected
from core.ingest.folder_layout import infer_layout
from core.ingest.source_files import TableRow
from core.spec.dataset_layout import LayoutOptions


def names(*folders, count=5, suffix=".png"):
    return [f"{folder}{i}{suffix}" for folder in folders for i in range(count)]


def sources(layout, split):
    return [sample.source for sample in layout.splits[split]]


def test_train_and_test_folders_are_the_splits():
    layout = infer_layout([*names("train/b/", "train/a/"), *names("test/a/", "test/b/", count=2)], seed=0)

    assert layout.classes == ("a", "b")
    assert sources(layout, "train") == names("train/a/", "train/b/")
    assert [sample.label for sample in layout.splits["test"]] == [0, 0, 1, 1]
    assert layout.rejected == []


@pytest.mark.parametrize("name", ["val", "Test", "validation", "VALID", "testing"])
def test_the_test_folder_may_have_several_names(name):
    layout = infer_layout([*names("Train/a/", "Train/b/"), *names(f"{name}/a/", count=2)], seed=0)

    assert sources(layout, "test") == names(f"{name}/a/", count=2)


def test_test_is_preferred_to_val_which_is_rejected_once():
    layout = infer_layout([*names("train/a/", "train/b/"), *names("val/a/", "test/b/", count=3)], seed=0)

    assert sources(layout, "test") == names("test/b/", count=3)
    assert [(r.path, r.reason) for r in layout.rejected] == [("val/", "3 images are not used: the test split is test/")]


def test_val_replaces_a_test_folder_without_labels():
    layout = infer_layout([*names("train/a/", "train/b/"), *names("val/a/", count=3), *names("test/", count=4)], seed=0)

    assert sources(layout, "test") == names("val/a/", count=3)
    assert [r.path for r in layout.rejected] == ["test/"]


def test_one_level_of_folders_gets_a_stratified_test_split():
    layout = infer_layout([*names("a/", count=10), *names("b/", count=20), *names("c/", count=1)], seed=0)

    assert layout.classes == ("a", "b", "c")
    assert [sample.label for sample in layout.splits["test"]] == [0] * 2 + [1] * 4
    assert not set(sources(layout, "train")) & set(sources(layout, "test"))


def test_a_missing_test_split_is_split_off_train():
    layout = infer_layout(names("train/a/", "train/b/", count=10), seed=0)

    assert len(layout.splits["train"]) == 16
    assert len(layout.splits["test"]) == 4


def test_the_generated_test_split_depends_on_the_seed_only():
    paths = names("a/", "b/", count=20)

    assert sources(infer_layout(paths, seed=1), "test") == sources(infer_layout(reversed(paths), seed=1), "test")
    assert sources(infer_layout(paths, seed=1), "test") != sources(infer_layout(paths, seed=2), "test")


def test_common_folders_are_dropped():
    inner = [*names("train/a/", "train/b/"), *names("test/a/", count=2)]
    layout = infer_layout([f"download/pets/{name}" for name in inner], seed=0)

    assert layout.classes == ("a", "b")
    assert [sample.path for sample in layout.splits["test"]] == names("test/a/", count=2)


def test_a_flat_folder_is_unlabeled():
    layout = infer_layout(names("photos/", count=10), seed=0)

    assert layout.classes is None
    assert {sample.label for sample in layout.splits["train"]} == {-1}
    assert len(layout.splits["test"]) == 2


def test_flat_train_and_test_folders_are_unlabeled_splits():
    layout = infer_layout([*names("train/"), *names("test/", count=2)], seed=0)

    assert layout.classes is None
    assert sources(layout, "test") == names("test/", count=2)


def test_a_class_may_be_named_train():
    layout = infer_layout(names("train/", "car/", "ship/"), seed=0)

    assert layout.classes == ("car", "ship", "train")


def test_nested_folders_belong_to_their_class():
    layout = infer_layout([*names("a/x/", "a/y/z/"), *names("b/")], seed=0)

    assert layout.classes == ("a", "b")
    assert len(layout.splits["train"]) + len(layout.splits["test"]) == 15


def test_images_outside_the_layout_are_rejected():
    layout = infer_layout(
        [
            *names("train/a/", "train/b/"),
            *names("test/a/", "test/zebra/", count=1),
            "train/stray.png",
            "extra/x.png",
            "y.png",
        ],
        seed=0,
    )

    reasons = {r.path: r.reason for r in layout.rejected}
    assert reasons == {
        "test/zebra/0.png": "class zebra is not among the training classes",
        "train/stray.png": "the image is not in a class folder",
        "extra/x.png": "the image is outside train/ and the test split",
        "y.png": "the image is outside train/ and the test split",
    }


def test_a_single_class_fails_with_the_expected_layouts():
    with pytest.raises(DatasetRejected, match=r"only one class \(a\).*train/CLASS/image"):
        infer_layout(names("train/a/"), seed=0)


def test_too_few_images_fail():
    with pytest.raises(DatasetRejected, match="too few images"):
        infer_layout(["a/1.png", "b/1.png"], seed=0)


# --- without classes ----------------------------------------------------------------------------


@pytest.mark.parametrize("folders", [("a/", "b/"), ("a/b/", "a/c/", ""), ("photos/",)])
def test_labels_none_ignores_class_folders(folders):
    layout = infer_layout(names(*folders), seed=0, options=LayoutOptions(labels="none"))

    assert layout.classes is None
    assert sorted(sources(layout, "train") + sources(layout, "test")) == sorted(names(*folders))
    assert len(layout.splits["test"]) == len(folders)
    assert layout.rejected == []


def test_labels_none_keeps_the_splits():
    found = [*names("x/train/a/b/", "x/train/"), *names("x/val/c/", "x/other/", count=2)]

    layout = infer_layout(found, seed=0, options=LayoutOptions(labels="none"))

    assert sources(layout, "train") == sorted(names("x/train/a/b/", "x/train/"))
    assert sources(layout, "test") == names("x/val/c/", count=2)
    assert [r.path for r in layout.rejected] == names("x/other/", count=2)


def test_labels_none_accepts_a_single_folder():
    layout = infer_layout(names("train/a/"), seed=0, options=LayoutOptions(labels="none"))

    assert (layout.classes, len(layout.splits["train"])) == (None, 4)


# --- rows of tables -----------------------------------------------------------------------------


def rows(*groups, names=None):
    """Make rows from (split, label, count)."""
    table = [TableRow(split, label, names) for split, label, count in groups for _ in range(count)]
    return {f"t.parquet#{index}": row for index, row in enumerate(table)}


def layout_of_rows(table, other_images=()):
    return infer_layout([*table, *other_images], seed=0, rows=table)


def labels_of(layout, split):
    return sorted(sample.label for sample in layout.splits[split])


def test_rows_define_splits_and_classes():
    layout = layout_of_rows(rows(("train", 0, 3), ("train", 2, 2), ("test", 2, 1), names=("z", "y", "x")))

    assert layout.classes == ("z", "y", "x")
    assert labels_of(layout, "train") == [0, 0, 0, 2, 2]
    assert labels_of(layout, "test") == [2]


def test_integer_labels_are_sorted_numerically():
    layout = layout_of_rows(rows(("", 2, 5), ("", 10, 5), ("", -1, 5)))

    assert layout.classes == ("-1", "2", "10")
    assert labels_of(layout, "test") == [0, 1, 2]


def test_validation_replaces_a_test_split_with_hidden_labels():
    layout = layout_of_rows(rows(("train", "a", 2), ("train", "b", 2), ("test", None, 3), ("validation", "b", 2)))

    assert labels_of(layout, "test") == [1, 1]
    assert [(r.path, r.reason) for r in layout.rejected] == [
        ("test", "3 rows are not used: the test split is validation")
    ]


def test_unusable_rows_are_rejected():
    table = rows(("train", "a", 5), ("train", "b", 5), ("train", None, 1), ("test", "a", 1), ("test", "c", 1))

    layout = layout_of_rows(table, other_images=["extra.png"])

    assert {r.path: r.reason for r in layout.rejected} == {
        "extra.png": "the image is outside the Parquet files; only their rows are read",
        "t.parquet#10": "the row has no label",
        "t.parquet#12": "class c is not among the training classes",
    }
    assert layout.classes == ("a", "b")


def test_a_single_split_is_divided():
    layout = layout_of_rows(rows(("validation", "a", 5), ("validation", "b", 5)))

    assert labels_of(layout, "train") == [0] * 4 + [1] * 4
    assert labels_of(layout, "test") == [0, 1]


def test_rows_without_labels_are_unlabeled():
    layout = layout_of_rows(rows(("train", None, 4), ("test", None, 2)))

    assert layout.classes is None
    assert labels_of(layout, "test") == [-1, -1]


def test_rows_of_a_single_class_fail_even_with_more_declared_classes():
    with pytest.raises(DatasetRejected, match=r"only one class \(a\)"):
        layout_of_rows(rows(("train", 0, 5), names=("a", "b")))


# --- properties ---------------------------------------------------------------------------------


part = st.sampled_from(["train", "test", "val", "a", "b", "Train", "x y"])
tree = st.sets(st.lists(part, max_size=3).map(lambda parts: "/".join([*parts, ""])), max_size=6)


@given(tree, st.integers(1, 6), st.integers(0, 3), st.sampled_from(["auto", "none"]))
def test_every_image_is_in_one_split_or_rejected(folders, count, seed, labels):
    paths = names(*folders, count=count)
    try:
        layout = infer_layout(paths, seed=seed, options=LayoutOptions(labels=labels))
    except DatasetRejected:
        return

    train, test = sources(layout, "train"), sources(layout, "test")
    assert train
    assert test
    assert len({*train, *test}) == len(train) + len(test)
    unused = set(paths) - {*train, *test}
    reported = {r.path for r in layout.rejected}
    assert all(path in reported or any(r.endswith("/") and r in path for r in reported) for path in unused)
    assert layout.classes is None or {p.label for p in layout.splits["train"]} <= set(range(len(layout.classes)))

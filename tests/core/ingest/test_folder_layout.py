import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import DatasetRejected
from core.ingest.folder_layout import arrange
from core.ingest.source_files import Row


def names(*folders, count=5, suffix=".png"):
    return [f"{folder}{i}{suffix}" for folder in folders for i in range(count)]


def sources(layout, split):
    return [placed.source for placed in layout.splits[split]]


def test_train_and_test_folders_are_the_splits():
    layout = arrange([*names("train/b/", "train/a/"), *names("test/a/", "test/b/", count=2)], seed=0)

    assert layout.classes == ("a", "b")
    assert sources(layout, "train") == names("train/a/", "train/b/")
    assert [placed.label for placed in layout.splits["test"]] == [0, 0, 1, 1]
    assert layout.rejected == []


@pytest.mark.parametrize("name", ["val", "Test", "validation", "VALID", "testing"])
def test_the_test_split_has_many_names(name):
    layout = arrange([*names("Train/a/", "Train/b/"), *names(f"{name}/a/", count=2)], seed=0)

    assert sources(layout, "test") == names(f"{name}/a/", count=2)


def test_of_test_and_val_test_is_taken_and_the_other_is_reported_once():
    layout = arrange([*names("train/a/", "train/b/"), *names("val/a/", "test/b/", count=3)], seed=0)

    assert sources(layout, "test") == names("test/b/", count=3)
    assert [(r.path, r.reason) for r in layout.rejected] == [
        ("val/", "3 images are not used: the test split is read from test/")
    ]


def test_a_test_folder_without_labels_gives_way_to_val():
    layout = arrange([*names("train/a/", "train/b/"), *names("val/a/", count=3), *names("test/", count=4)], seed=0)

    assert sources(layout, "test") == names("val/a/", count=3)
    assert [r.path for r in layout.rejected] == ["test/"]


def test_one_level_of_folders_gets_a_stratified_test_split():
    layout = arrange([*names("a/", count=10), *names("b/", count=20), *names("c/", count=1)], seed=0)

    assert layout.classes == ("a", "b", "c")
    assert [placed.label for placed in layout.splits["test"]] == [0] * 2 + [1] * 4
    assert not set(sources(layout, "train")) & set(sources(layout, "test"))


def test_train_without_test_gets_one_made():
    layout = arrange(names("train/a/", "train/b/", count=10), seed=0)

    assert len(layout.splits["train"]) == 16
    assert len(layout.splits["test"]) == 4


def test_the_made_split_depends_on_the_seed_and_not_on_other_images_order():
    paths = names("a/", "b/", count=20)

    assert sources(arrange(paths, seed=1), "test") == sources(arrange(reversed(paths), seed=1), "test")
    assert sources(arrange(paths, seed=1), "test") != sources(arrange(paths, seed=2), "test")


def test_folders_that_all_have_in_common_do_not_count():
    inner = [*names("train/a/", "train/b/"), *names("test/a/", count=2)]
    layout = arrange([f"download/pets/{name}" for name in inner], seed=0)

    assert layout.classes == ("a", "b")
    assert [placed.path for placed in layout.splits["test"]] == names("test/a/", count=2)


def test_a_flat_folder_is_unlabelled():
    layout = arrange(names("photos/", count=10), seed=0)

    assert layout.classes is None
    assert {placed.label for placed in layout.splits["train"]} == {-1}
    assert len(layout.splits["test"]) == 2


def test_flat_train_and_test_folders_are_unlabelled_splits():
    layout = arrange([*names("train/"), *names("test/", count=2)], seed=0)

    assert layout.classes is None
    assert sources(layout, "test") == names("test/", count=2)


def test_a_class_may_be_called_train():
    layout = arrange(names("train/", "car/", "ship/"), seed=0)

    assert layout.classes == ("car", "ship", "train")


def test_deeper_folders_belong_to_their_class():
    layout = arrange([*names("a/x/", "a/y/z/"), *names("b/")], seed=0)

    assert layout.classes == ("a", "b")
    assert len(layout.splits["train"]) + len(layout.splits["test"]) == 15


def test_what_has_no_place_is_reported():
    layout = arrange(
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
        "train/stray.png": "the image is not in the folder of a class",
        "extra/x.png": "the image is outside train/ and the test split",
        "y.png": "the image is outside train/ and the test split",
    }


def test_one_class_is_refused_and_the_layouts_are_named():
    with pytest.raises(DatasetRejected, match=r"one class only \(a\).*train/CLASS/image"):
        arrange(names("train/a/"), seed=0)


def test_too_few_images_are_refused():
    with pytest.raises(DatasetRejected, match="too few images"):
        arrange(["a/1.png", "b/1.png"], seed=0)


# --- without classes ----------------------------------------------------------------------------


@pytest.mark.parametrize("folders", [("a/", "b/"), ("a/b/", "a/c/", ""), ("photos/",)])
def test_folders_are_not_classes_where_none_are_wanted(folders):
    layout = arrange(names(*folders), seed=0, labels="none")

    assert layout.classes is None
    assert sorted(sources(layout, "train") + sources(layout, "test")) == sorted(names(*folders))
    assert len(layout.splits["test"]) == len(folders)
    assert layout.rejected == []


def test_splits_are_still_splits_where_no_classes_are_wanted():
    found = [*names("x/train/a/b/", "x/train/"), *names("x/val/c/", "x/other/", count=2)]

    layout = arrange(found, seed=0, labels="none")

    assert sources(layout, "train") == sorted(names("x/train/a/b/", "x/train/"))
    assert sources(layout, "test") == names("x/val/c/", count=2)
    assert [r.path for r in layout.rejected] == names("x/other/", count=2)


def test_one_class_alone_is_fine_where_none_are_wanted():
    layout = arrange(names("train/a/"), seed=0, labels="none")

    assert (layout.classes, len(layout.splits["train"])) == (None, 4)


# --- rows of tables -----------------------------------------------------------------------------


def rows(*groups, names=None):
    """Rows from (split, label, count)."""
    table = [Row(split, label, names) for split, label, count in groups for _ in range(count)]
    return {f"t.parquet#{number}": row for number, row in enumerate(table)}


def arranged(table, beside=()):
    return arrange([*table, *beside], seed=0, rows=table)


def labels_of(layout, split):
    return sorted(placed.label for placed in layout.splits[split])


def test_rows_say_their_splits_and_classes():
    layout = arranged(rows(("train", 0, 3), ("train", 2, 2), ("test", 2, 1), names=("z", "y", "x")))

    assert layout.classes == ("z", "y", "x")
    assert labels_of(layout, "train") == [0, 0, 0, 2, 2]
    assert labels_of(layout, "test") == [2]


def test_numbers_are_classes_in_their_own_order():
    layout = arranged(rows(("", 2, 5), ("", 10, 5), ("", -1, 5)))

    assert layout.classes == ("-1", "2", "10")
    assert labels_of(layout, "test") == [0, 1, 2]


def test_a_test_split_with_hidden_labels_gives_way_to_validation():
    layout = arranged(rows(("train", "a", 2), ("train", "b", 2), ("test", None, 3), ("validation", "b", 2)))

    assert labels_of(layout, "test") == [1, 1]
    assert [(r.path, r.reason) for r in layout.rejected] == [
        ("test", "3 rows are not used: the test split is read from validation")
    ]


def test_rows_that_have_no_place_are_reported():
    table = rows(("train", "a", 5), ("train", "b", 5), ("train", None, 1), ("test", "a", 1), ("test", "c", 1))

    layout = arranged(table, beside=["extra.png"])

    assert {r.path: r.reason for r in layout.rejected} == {
        "extra.png": "the image lies beside Parquet files, which are what is read",
        "t.parquet#10": "the row has no label",
        "t.parquet#12": "class c is not among the training classes",
    }
    assert layout.classes == ("a", "b")


def test_the_only_split_is_divided_whatever_it_is_called():
    layout = arranged(rows(("validation", "a", 5), ("validation", "b", 5)))

    assert labels_of(layout, "train") == [0] * 4 + [1] * 4
    assert labels_of(layout, "test") == [0, 1]


def test_rows_without_labels_are_unlabelled():
    layout = arranged(rows(("train", None, 4), ("test", None, 2)))

    assert layout.classes is None
    assert labels_of(layout, "test") == [-1, -1]


def test_rows_of_one_class_are_refused_also_where_more_are_declared():
    with pytest.raises(DatasetRejected, match=r"one class only \(a\)"):
        arranged(rows(("train", 0, 5), names=("a", "b")))


# --- whatever comes -----------------------------------------------------------------------------


part = st.sampled_from(["train", "test", "val", "a", "b", "Train", "x y"])
tree = st.sets(st.lists(part, max_size=3).map(lambda parts: "/".join([*parts, ""])), max_size=6)


@given(tree, st.integers(1, 6), st.integers(0, 3), st.sampled_from(["auto", "none"]))
def test_every_image_is_placed_once_or_reported(folders, count, seed, labels):
    paths = names(*folders, count=count)
    try:
        layout = arrange(paths, seed=seed, labels=labels)
    except DatasetRejected:
        return

    train, test = sources(layout, "train"), sources(layout, "test")
    assert train
    assert test
    assert len({*train, *test}) == len(train) + len(test)
    left_out = set(paths) - {*train, *test}
    reported = {r.path for r in layout.rejected}
    assert all(path in reported or any(r.endswith("/") and r in path for r in reported) for path in left_out)
    assert layout.classes is None or {p.label for p in layout.splits["train"]} <= set(range(len(layout.classes)))

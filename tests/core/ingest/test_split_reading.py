"""Folders are read as splits or classes where names and sub-folders agree; else the error names both readings."""

import pytest

from core.errors import DatasetRejected
from core.ingest.folder_layout import infer_layout
from core.ingest_errors import LayoutUnclear
from core.spec.dataset_layout import LayoutOptions


def names(*folders, count=5):
    return [f"{folder}{i}.png" for folder in folders for i in range(count)]


def layout_of(*paths, **options):
    return infer_layout(paths, seed=0, options=LayoutOptions(**options))


def sizes(layout):
    return len(layout.splits["train"]), len(layout.splits["test"])


def codes(layout):
    return [warning.code for warning in layout.warnings]


def rejections(layout):
    return {rejected.path: rejected.reason for rejected in layout.rejected}


# --- splits outermost ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("seg_train", "seg_test"),
        ("train2017", "val2017"),
        ("images_train", "images_val"),
        ("my-train-set", "my-test-set"),
        ("Training", "Testing"),
        ("TrainSet", "TestSet"),
        ("trainval", "test"),
        ("train", "evaluation"),
        ("train", "dev"),
        ("pets train", "holiday test"),
    ],
)
def test_folders_whose_names_contain_a_split_are_splits(train, test):
    layout = layout_of(*names(f"{train}/a/", f"{train}/b/"), *names(f"{test}/a/", f"{test}/b/", count=2))

    assert layout.classes == ("a", "b")
    assert sizes(layout) == (10, 4)
    assert (layout.rejected, codes(layout)) == ([], [])


def test_doubled_folders_collapse_and_predictions_are_left_out_once():
    layout = layout_of(
        *names("seg_train/seg_train/a/", "seg_train/seg_train/b/"),
        *names("seg_test/seg_test/a/", "seg_test/seg_test/b/", count=2),
        *names("seg_pred/seg_pred/", count=6),
    )

    assert layout.classes == ("a", "b")
    assert sizes(layout) == (10, 4)
    assert rejections(layout) == {"seg_pred/": "6 images are not used: images to predict on have no labels"}


@pytest.mark.parametrize("prefix", ["data/data/", "data/Data/data/", "x/y/y/"])
def test_doubled_folders_collapse_at_any_level(prefix):
    inner = [*names("train/train/a/a/", "train/train/b/"), *names("test/a/", "test/b/", count=2)]
    plain = [*names("train/a/", "train/b/"), *names("test/a/", "test/b/", count=2)]

    layout = layout_of(*(prefix + name for name in inner))

    assert [sample.path for sample in layout.splits["train"]] == names("train/a/", "train/b/")
    assert (layout.classes, sizes(layout)) == (layout_of(*plain).classes, (10, 4))


@pytest.mark.parametrize(
    ("train", "test"), [("train/images/", "test/images/"), ("train/", "test/data/v2/"), ("train/a/b/c/", "test/")]
)
def test_folders_around_the_classes_of_a_split_are_dropped(train, test):
    layout = layout_of(*names(f"{train}cat/", f"{train}dog/"), *names(f"{test}cat/", f"{test}dog/", count=2))

    assert (layout.classes, sizes(layout)) == (("cat", "dog"), (10, 4))


@pytest.mark.parametrize("prefix", ["dataset/images/", "x/cats_and_dogs_train_test/", "train_test_split/"])
def test_wrapped_splits_are_found(prefix):
    layout = layout_of(*(prefix + name for name in [*names("train/a/", "train/b/"), *names("val/a/", "val/b/")]))

    assert (layout.classes, sizes(layout)) == (("a", "b"), (10, 10))


def test_a_stray_image_does_not_hide_the_wrapper():
    layout = layout_of(*names("data/a/", "data/b/"), "logo.png")

    assert layout.classes == ("a", "b")
    assert rejections(layout) == {"logo.png": "the image is not in a class folder"}


@pytest.mark.parametrize(
    ("folders", "train", "test"),
    [
        (("val", "test"), "val", "test"),
        (("dev", "eval"), "dev", "eval"),
        (("test", "validation"), "validation", "test"),
    ],
)
def test_without_train_the_first_other_split_is_trained_on_with_a_warning(folders, train, test):
    layout = layout_of(*names(*(f"{folder}/{name}/" for folder in folders for name in ("a", "b"))))

    assert layout.classes == ("a", "b")
    assert {sample.source.split("/")[0] for sample in layout.splits["train"]} == {train}
    assert {sample.source.split("/")[0] for sample in layout.splits["test"]} == {test}
    (warning,) = layout.warnings
    assert (warning.code, warning.field) == ("split_chosen", "/splits")
    assert f"{train}/ is the training split, and {test}/ the test split" in warning.message


def test_a_test_folder_without_class_folders_is_replaced_with_a_warning():
    layout = layout_of(*names("train/a/", "train/b/"), *names("test/", count=3))

    assert sizes(layout) == (8, 2)
    assert rejections(layout) == {"test/": "3 images are not used: its images are not in class folders"}
    assert codes(layout) == ["split_chosen"]


def test_labeled_test_images_do_not_fit_unlabeled_training_images():
    layout = layout_of(*names("train/"), *names("test/a/", "test/b/"))

    assert (layout.classes, sizes(layout)) == (None, (4, 1))
    assert rejections(layout) == {
        "test/": "10 images are not used: only its images are in class folders, not those of train/"
    }
    assert codes(layout) == ["split_chosen"]


def test_a_second_copy_of_the_splits_is_left_out_by_name():
    """A popular archive of chest radiographs has its folders twice."""
    copy = [f"{prefix}{split}/{name}/" for prefix in ("", "copy/") for split in ("train", "test") for name in "ab"]

    layout = layout_of(*names(*(f"xray/{folder}" for folder in copy)))

    assert (layout.classes, sizes(layout)) == (("a", "b"), (10, 10))
    assert list(rejections(layout)) == ["copy/"]


def test_of_two_test_folders_one_is_left_out_by_name():
    layout = layout_of(*names("train/a/", "train/b/", "test1/a/", "test2/a/", "test2/b/"))

    assert {sample.source.split("/")[0] for sample in layout.splits["test"]} == {"test1"}
    assert rejections(layout) == {"test2/": "10 images are not used: the test split is test1/"}


def test_another_folder_with_the_classes_is_left_out_by_name():
    layout = layout_of(*names("train/a/", "train/b/", "test/a/", "test/b/", "more/a/", "more/b/"))

    assert list(rejections(layout)) == ["more/"]


@pytest.mark.parametrize("name", ["pred", "predict", "Inference", "my_pred", "unlabeled"])
def test_images_to_predict_on_are_left_out_by_name(name):
    layout = layout_of(*names("train/a/", "train/b/", "test/a/", "test/b/"), *names(f"{name}/x/", f"{name}/"))

    assert layout.classes == ("a", "b")
    assert list(rejections(layout)) == [f"{name}/"]


def test_images_to_predict_on_may_be_next_to_classes():
    layout = layout_of(*names("cat/", "dog/", "inference/"))

    assert layout.classes == ("cat", "dog")
    assert list(rejections(layout)) == ["inference/"]


# --- classes outermost --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "folders",
    [
        ("cat/train/", "dog/train/", "cat/test/", "dog/test/"),
        ("cat/Train/", "dog/train/", "cat/test/", "dog/Test/"),
        ("pets/cat/cat_train/", "pets/dog/dog_train/", "pets/cat/cat_val/", "pets/dog/dog_val/"),
        ("cat/train/images/", "dog/train/images/", "cat/test/images/", "dog/test/images/"),
    ],
)
def test_classes_may_be_divided_into_splits(folders):
    layout = layout_of(*names(*folders))

    assert (layout.classes, sizes(layout)) == (("cat", "dog"), (10, 10))
    assert layout.rejected == []


def test_a_class_divided_into_splits_may_lack_one():
    layout = layout_of(*names("cat/train/", "dog/train/", "cat/test/", "dog/pred/"))

    assert (layout.classes, sizes(layout)) == (("cat", "dog"), (10, 5))
    assert list(rejections(layout)) == ["pred/"]


@pytest.mark.parametrize(
    "folders",
    [
        ("valid/", "invalid/"),
        ("bullet train/", "car/", "ship/"),
        ("bullet train/", "test tube/"),
        ("train/", "bus/", "car/"),
        ("train/", "bus/old/", "car/new/"),
        ("control/", "test/"),
        ("cat/2019/", "cat/2020/", "dog/2021/"),
    ],
)
def test_classes_may_have_the_names_of_splits(folders):
    layout = layout_of(*names(*folders))

    assert layout.classes == tuple(sorted({folder.split("/")[0] for folder in folders}))


# --- unclear ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folders", "options"),
    [
        (("train/", "test/", "car/"), [{"splits": "none"}, {"splits": {"train": "train", "test": "test"}}]),
        (("train/cat/", "test/cat/"), [{"splits": "none"}, {"labels": "none"}]),
        (("part1/a/", "part1/b/", "part2/a/", "part2/b/"), [
            {"class_from": "first"}, {"class_from": "parent"}, {"splits": {"train": "part1", "test": "part2"}},
        ]),
        (("train/a/", "train/b/", "holdout/a/", "holdout/b/"), [
            {"splits": {"train": "train", "test": "holdout"}}, {"splits": {"train": "train"}}, {"splits": "none"},
        ]),
        (("train_1/a/", "train_1/b/", "train_2/a/", "test/a/"), [{"splits": {"train": "train_1", "test": "test"}}]),
        (("images/", "masks/"), [{"class_from": "first"}, {"labels": "none"}]),
        (("art/train/a/", "art/train/b/", "clip/train/a/", "art/test/a/", "clip/test/b/"), [
            {"class_from": "first"}, {"class_from": "parent"},
        ]),
        (("cat/train/", "cat/test/", "dog/"), [{"splits": "none"}]),
        (("cat_train/", "cat_test/", "dog_train/", "dog_test/"), [{"splits": "none"}]),
        (("train/train/", "train/test/", "test/train/", "test/test/"), [{"class_from": "first"}]),
    ],
)  # fmt: skip
def test_two_possible_readings_are_an_error_that_names_the_fields_to_choose(folders, options):
    with pytest.raises(LayoutUnclear) as error:
        layout_of(*names(*folders))

    assert error.value.code == "layout_unclear"
    assert "(1)" in error.value.detail
    assert "(2)" in error.value.detail
    for choice in options:
        assert any(field in error.value.detail for field in choice)
        assert sizes(layout_of(*names(*folders), **choice))[1] > 0


def test_the_choice_decides_the_reading():
    parts = names("part1/a/", "part1/b/", "part2/a/", "part2/b/")

    assert layout_of(*parts, class_from="first").classes == ("part1", "part2")
    assert layout_of(*parts, class_from="parent").classes == ("a", "b")
    assert sizes(layout_of(*parts, splits={"train": "part2", "test": "part1"})) == (10, 10)
    assert layout_of(*names("train/", "test/", "car/"), splits="none").classes == ("car", "test", "train")


# --- names of classes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (("Cat", "Dog"), ("cat", "dog")),
        (("hot dog", "ice cream"), ("hot_dog", "Ice-Cream")),
        (("cat", "Dog"), ("cat", "DOG")),
    ],
)
def test_class_names_that_differ_slightly_are_matched_with_a_warning(train, test):
    layout = layout_of(*names(*(f"train/{c}/" for c in train)), *names(*(f"test/{c}/" for c in test), count=4))

    assert layout.classes == tuple(sorted(train))
    assert sizes(layout) == (10, 8)
    (warning,) = layout.warnings
    assert warning.code == "class_names_matched"
    assert all(f"{b} as {a}" in warning.message for a, b in zip(train, test, strict=True) if a != b)


def test_an_ambiguous_class_name_is_not_matched():
    layout = layout_of(*names("train/Cat/", "train/cat/", "test/CAT/", "test/cat/"))

    assert sizes(layout) == (10, 5)
    assert set(rejections(layout)) == set(names("test/CAT/"))
    assert codes(layout) == ["class_names_similar"]


def test_a_class_that_only_the_test_split_has_is_left_out_with_the_nearest_name():
    layout = layout_of(*names("train/cat/", "train/dog/", "test/cat/", "test/dgo/"))

    assert rejections(layout)["test/dgo/0.png"] == "class dgo is not among the training classes; the nearest is dog"


def test_a_test_split_of_other_classes_is_an_error_with_the_nearest_class():
    with pytest.raises(LayoutUnclear, match="nearest to dgo is dog") as error:
        layout_of(*names("train/cat/", "train/dog/", "test/kat/", "test/dgo/"))

    assert 'splits to {"train": "train"}' in error.value.detail


# --- splits named by the user -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "test"), [("fit", "score"), ("x/fit", "x/score"), ("FIT", "score"), ("./x/fit/", "x\\score")]
)
def test_folders_of_any_name_may_be_the_splits(train, test):
    files = names("x/fit/a/", "x/fit/b/", "x/score/a/", "x/rest/a/")

    layout = layout_of(*files, splits={"train": train, "test": test})

    assert (layout.classes, sizes(layout)) == (("a", "b"), (10, 5))
    assert list(rejections(layout)) == ["x/rest/"]


def test_named_splits_may_be_inside_of_the_classes():
    layout = layout_of(*names("cat/fit/", "dog/fit/", "cat/score/"), splits={"train": "fit", "test": "score"})

    assert (layout.classes, sizes(layout)) == (("cat", "dog"), (10, 5))


def test_without_a_named_test_folder_the_test_split_is_drawn():
    layout = layout_of(*names("train/a/", "train/b/", "test/a/"), splits={"train": "train"})

    assert sizes(layout) == (8, 2)
    assert list(rejections(layout)) == ["test/"]


def test_a_named_folder_that_does_not_exist_is_an_error_with_the_nearest():
    with pytest.raises(LayoutUnclear, match=r"/splits/test: the dataset has no folder scroe; did you mean score\?"):
        layout_of(*names("fit/a/", "fit/b/", "score/a/"), splits={"train": "fit", "test": "scroe"})


def test_labels_none_reads_splits_in_names():
    layout = layout_of(*names("seg_train/a/", "seg_test/b/", "seg_pred/"), labels="none")

    assert (layout.classes, sizes(layout)) == (None, (5, 5))


@pytest.mark.parametrize("folders", [("train/a/",), ("a/",), ("val/a/", "pred/")])
def test_a_single_class_is_an_error(folders):
    with pytest.raises(DatasetRejected, match=r"only one class|too few"):
        layout_of(*names(*folders, count=1))

"""Split names are found as words of folder names."""

import pytest

from core.ingest.split_names import split_name


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("seg_train", "train"),
        ("train2017", "train"),
        ("images_val", "val"),
        ("my-test-set", "test"),
        ("TestSet", "test"),
        ("trainset", "train"),
        ("VALID", "val"),
        ("validation.data", "val"),
        ("eval", "eval"),
        ("Evaluation images", "eval"),
        ("dev", "dev"),
        ("train_val", "train"),
        ("trainval", "train"),
        ("seg_pred", "predict"),
        ("inference", "predict"),
        ("unlabeled", "predict"),
    ],
)
def test_the_role_of_a_name_is_its_split_word(name, role):
    assert split_name(name).role == role


@pytest.mark.parametrize(
    "name",
    ["trainer", "contest", "attest", "latest", "device", "invalid", "strain", "cat", "2017", "", "train_test_split"],
)
def test_other_words_name_no_split(name):
    assert split_name(name) is None


@pytest.mark.parametrize(
    ("name", "exact", "rest"),
    [
        ("Train", True, ()),
        ("train_images", False, ()),
        ("train2017", False, ()),
        ("seg_train", False, ("seg",)),
        ("bullet train", False, ("bullet",)),
    ],
)
def test_the_rest_of_a_name_has_no_numbers_and_fillers(name, exact, rest):
    found = split_name(name)

    assert (found.exact, found.rest) == (exact, rest)

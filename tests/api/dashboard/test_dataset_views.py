"""Presentation of datasets, without HTTP."""

import csv
import io

import pytest

from api.dashboard import dataset_views as views
from api.dashboard.csv_files import csv_lines
from api.dashboard.dataset_form import DatasetForm
from api.datasets.profile import ImageSizes, SampleImage, SplitProfile
from core.errors import FieldError, InvalidRequest, UnsupportedMedia

ONE_SIZE = ImageSizes((8, 8, 8), (8, 8, 8), 1, {8: 10})


@pytest.fixture
def dataset():
    return {"id": "ds_1", "classes": ["cat", "dog", "eel"]}


def profile(counts, sizes=ONE_SIZE):
    samples = {
        label: [SampleImage(index, 8, 8, 2000) for index in range(min(count, 24))] for label, count in counts.items()
    }
    return SplitProfile(sum(counts.values()), 100, counts, samples, sizes)


class TestClasses:
    def test_each_split_has_its_own_scale(self, dataset):
        rows = views.class_rows(dataset, {"train": profile({0: 50, 1: 100}), "test": profile({0: 5, 2: 10})})

        assert [row.name for row in rows] == ["cat", "dog", "eel"]
        assert [[(bar.count, bar.length) for bar in row.bars] for row in rows] == [
            [(50, 50.0), (5, 50.0)],
            [(100, 100.0), (0, 0.0)],
            [(0, 0.0), (10, 100.0)],
        ]

    def test_they_are_ordered_by_number(self, dataset):
        profiles = {"train": profile({0: 2, 1: 3, 2: 1})}

        assert [row.name for row in views.class_rows(dataset, profiles, "most")] == ["dog", "cat", "eel"]
        assert [row.name for row in views.class_rows(dataset, profiles, "fewest")] == ["eel", "cat", "dog"]

    def test_imbalance_is_a_ratio_of_training_images(self):
        assert views.imbalance({"train": profile({0: 10, 1: 40})}) == 4
        assert views.imbalance({"train": profile({-1: 10})}) is None


class TestGallery:
    def test_several_classes_show_a_few_images_each(self, dataset):
        found = views.gallery(dataset, {"train": profile({0: 9, 1: 2})}, split="train", label=None, first=0)

        assert [(each.name, each.num_images, len(each.images)) for each in found.classes] == [
            ("cat", 9, 6),
            ("dog", 2, 2),
        ]
        assert found.classes[0].images[0].url == "/datasets/ds_1/thumbnails/train/0"
        assert found.classes[1].url == "/datasets/ds_1?split=train&label=1#images"
        assert (found.previous, found.next) == (None, None)

    def test_one_class_shows_all_that_were_drawn(self, dataset):
        found = views.gallery(dataset, {"train": profile({0: 90, 1: 2})}, split="train", label=0, first=0)

        assert [len(each.images) for each in found.classes] == [24]
        assert found.all_url == "/datasets/ds_1?split=train#images"

    def test_many_classes_have_pages(self):
        dataset = {"id": "ds_1", "classes": [f"c{index}" for index in range(30)]}
        profiles = {"test": profile(dict.fromkeys(range(30), 1))}
        found = views.gallery(dataset, profiles, split="test", label=None, first=12)

        assert [each.name for each in found.classes] == [f"c{index}" for index in range(12, 24)]
        assert found.previous == "/datasets/ds_1?split=test#images"
        assert found.next == "/datasets/ds_1?split=test&first=24#images"

    def test_a_split_without_images_has_none(self, dataset):
        assert views.gallery(dataset, {}, split="train", label=None, first=0) is None


class TestSizes:
    def test_one_size_is_a_sentence(self):
        assert views.size_summary({"train": profile({0: 3})}) == "All images have 8 × 8 pixels."
        assert views.size_summary({}) is None

    def test_many_sizes_have_ranges_of_both_splits(self):
        sizes = ImageSizes((20, 64, 500), (10, 48, 375), 12, {32: 1, 64: 4})
        profiles = {
            "train": profile({0: 5}, sizes),
            "test": profile({0: 4}, ImageSizes((60,) * 3, (60,) * 3, 1, {64: 4})),
        }

        assert views.size_summary(profiles).startswith("Width 20–500 (median 64), height 10–375 (median 48)")
        rows = [(row.text, row.bar.count, row.bar.length) for row in views.size_rows(profiles)]
        assert rows == [("17–32 px", 1, 12.5), ("33–64 px", 8, 100.0)]


def test_the_csv_of_rejected_files_runs_no_formula():
    rejected = [{"path": "=cmd()", "reason": 'a "b", c', "code": None}, {"path": "x.png", "reason": "r", "code": "c"}]
    rows = list(csv.reader(io.StringIO("".join(csv_lines(views.rejected_rows(rejected))))))

    assert rows == [["path", "reason", "code"], ["'=cmd()", 'a "b", c', ""], ["x.png", "r", "c"]]
    assert views.rejected_reasons([{"code": "a"}, {"code": "b"}, {"code": "b"}]) == [("b", 2), ("a", 1)]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ({"type": "builtin", "name": "digits"}, "Built-in digits"),
        ({"type": "huggingface", "repo": "o/n", "revision": "main", "commit": "abc"}, "Hugging Face o/n, abc"),
        ({"type": "url", "url": "https://x/y.zip"}, "https://x/y.zip"),
        ({"type": "file", "filename": "y.zip"}, "File y.zip"),
        ({"type": "upload", "upload": "up_1", "filename": "z.zip"}, "File z.zip"),
        ({"type": "upload", "upload": "up_1"}, "Uploaded file"),
    ],
)
def test_each_source_is_described(source, text):
    assert views.source_text(source) == text


def test_options_are_described():
    options = {"labels": "none", "splits": {"train": "a", "test": None}, "class_from": "parent"}

    assert views.layout_text(options) == "labels ignored; train from a; class from the parent folder"
    assert views.layout_text({"type": "url"}) is None


class TestForm:
    @pytest.mark.parametrize(
        ("fields", "source"),
        [
            ({"source": "builtin", "builtin": "digits"}, {"type": "builtin", "name": "digits"}),
            ({"source": "huggingface", "repo": "o/n"}, {"type": "huggingface", "repo": "o/n"}),
            ({"source": "s3", "s3_url": "s3://b/k", "url": "x"}, {"type": "s3", "url": "s3://b/k"}),
            ({"source": "upload", "upload": "up_1"}, {"type": "upload", "upload": "up_1"}),
        ],
    )
    def test_only_the_fields_of_the_source_count(self, fields, source):
        found = DatasetForm(**fields).document()["source"]
        options = {} if source["type"] == "builtin" else {"labels": "auto", "splits": "auto", "class_from": "auto"}

        assert found == {**source, **options}

    def test_problems_are_those_of_its_fields(self):
        form = DatasetForm(source="s3")
        errors = [("/source/url", "a"), ("/name", "b"), ("/source/splits", "c"), ("/source/type", "d")]
        error = InvalidRequest("x", errors=tuple(FieldError(*each) for each in errors))

        assert form.problems(error) == {"s3_url": "a", "name": "b", "splits": "c", "": "d"}
        assert DatasetForm().problems(UnsupportedMedia("no zip")) == {"upload": "no zip"}

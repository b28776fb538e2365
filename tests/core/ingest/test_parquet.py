"""Parquet rows become files with a label and a split."""

import io
import json
from contextlib import suppress
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import DatasetRejected
from core.ingest.limits import IngestLimits
from core.ingest.parquet import ParquetReader, split_from_path
from core.ingest.paths import NotAccepted
from core.ingest.source_files import TableRow
from core.ingest_errors import TableUnclear

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def parquet(columns, features=None, **options):
    table = pa.table(columns)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    out = io.BytesIO()
    pq.write_table(table, out, **options)
    return out.getvalue()


def images(*contents):
    return pa.array([None if c is None else {"bytes": c, "path": "a.png"} for c in contents], IMAGE)


def read_rows(content, path="t.parquet", *, labels="auto", packed_bytes=None, **limits):
    reader = ParquetReader(IngestLimits(**limits), packed_bytes=packed_bytes, labels=labels)
    return list(reader.files(path, io.BytesIO(content)))


def test_rows_contain_content_label_and_split():
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["wolf", "cat"]}}
    content = parquet({"image": images(b"one", b"two"), "label": [1, 0]}, features)

    one, two = read_rows(content, "data/train-00000-of-00001.parquet")

    assert (one.path, one.content) == ("data/train-00000-of-00001.parquet#0", b"one")
    assert one.row == TableRow("train", 1, ("wolf", "cat"))
    assert (one.row.class_name, two.row.class_name) == ("cat", "wolf")


@pytest.mark.parametrize(
    "labels",
    [[3, 7], ["x", "y"], pa.array(["x", "y"]).dictionary_encode(), pa.array([3, 7], pa.uint8())],
    ids=["integers", "strings", "dictionary", "bytes"],
)
def test_labels_are_integers_or_strings(labels):
    found = [file.row.label for file in read_rows(parquet({"image": [b"1", b"2"], "label": labels}))]

    assert found in ([3, 7], ["x", "y"])


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_an_image_may_be_plain_bytes(kind):
    (file,) = read_rows(parquet({"photo": pa.array([b"content"], kind), "label": [0]}))

    assert file.content == b"content"


def test_a_split_column_defines_the_split():
    files = read_rows(parquet({"image": [b"1", b"2", b"3"], "label": [0, 1, 2], "split": ["Train", "test", None]}))

    assert [file.row.split for file in files] == ["train", "test", ""]


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train-00000-of-00002.parquet", "train"),
        ("data/validation-00000-of-00001-ab12.parquet", "validation"),
        ("default/test/0000.parquet", "test"),
        ("Train.parquet", "train"),
        ("training_set/0000.parquet", "training"),
        ("pets_val-00000.parquet", "val"),
        ("train_test.parquet", ""),
        ("test/train-0.parquet", "train"),
        ("data.parquet", ""),
    ],
)
def test_the_file_name_defines_the_split(path, split):
    assert split_from_path(path) == split


def test_unusable_rows_are_rejected_by_row_path():
    features = {"label": {"_type": "ClassLabel", "names": ["a", "b"]}}
    cells = pa.array([{"bytes": b"1"}, None, {"bytes": None}, {"bytes": b"2"}, {"bytes": b"long"}], IMAGE)
    content = parquet({"image": cells, "label": [0, 0, 0, 2, 0]}, features)

    reasons = {file.path: file.reason for file in read_rows(content, max_file_bytes=3) if file.reason}

    assert list(reasons) == ["t.parquet#1", "t.parquet#2", "t.parquet#3", "t.parquet#4"]
    assert "has no image" in reasons["t.parquet#1"]
    assert "embed the images" in reasons["t.parquet#2"]
    assert "label 2 is not one of the 2 classes" in reasons["t.parquet#3"]
    assert "at most 3 bytes" in reasons["t.parquet#4"]


def test_hidden_labels_are_none():
    features = {"label": {"_type": "ClassLabel", "names": ["a", "b"]}}

    files = read_rows(parquet({"image": images(b"1", b"2"), "label": [-1, None]}, features))

    assert [file.row.label for file in files] == [None, None]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (pa.array([3.0, 7.0]), [3, 7]),
        (pa.array([3.0, float("nan")]), [3, None]),
        (pa.array([3.0, None], pa.float32()), [3, None]),
        (pa.array([Decimal("3.00"), None], pa.decimal128(10, 2)), [3, None]),
        (pa.array([True, False]), ["true", "false"]),
        (pa.array([True, None]), ["true", None]),
        (pa.array([3, None], pa.int16()), [3, None]),
        (pa.array([2**64 - 1, 0], pa.uint64()), [2**64 - 1, 0]),
        (pa.array([3, 7]).dictionary_encode(), [3, 7]),
        (pa.array(["x", None], pa.large_string()), ["x", None]),
        (pa.array([None, None]), [None, None]),
    ],
    ids=str,
)
def test_whole_numbers_booleans_and_text_are_labels_and_gaps_are_none(labels, expected):
    content = parquet({"image": [b"1", b"2"], "label": labels})

    assert [file.row.label for file in read_rows(content)] == expected


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (pa.array([[1, 2]]), "type list"),
        (pa.array([{"a": 1}]), "type struct"),
        (pa.array([0.5]), "holds 0.5"),
        (pa.array([float("inf")]), "holds inf"),
        (pa.array([Decimal("0.5")]), "holds 0.5"),
    ],
    ids=str,
)
def test_other_labels_are_unclear(labels, words):
    content = parquet({"image": [b"1"], "label": labels})

    with pytest.raises(TableUnclear, match=words):
        read_rows(content)
    assert read_rows(content, labels="none")[0].row.label is None


def test_a_column_of_floats_without_the_name_of_a_label_is_no_label():
    assert [file.row.label for file in read_rows(parquet({"image": [b"1"], "score": [0.7]}))] == [None]


def test_declared_class_names_apply_to_whole_floats():
    features = {"label": {"_type": "ClassLabel", "names": ["a", "b"]}}

    files = read_rows(parquet({"image": images(b"1", b"2"), "label": [1.0, float("nan")]}, features))

    assert [(file.row.label, file.row.class_name) for file in files] == [(1, "b"), (None, None)]


def test_labels_that_cannot_be_stored_are_rejected():
    (file,) = read_rows(parquet({"image": [b"1"], "label": ["a\0b"]}))

    assert "control characters" in file.reason


def test_without_a_label_column_rows_have_no_label():
    assert [file.row.label for file in read_rows(parquet({"image": images(b"1")}))] == [None]


def test_an_ambiguous_label_column_fails_unless_labels_is_none():
    content = parquet({"image": images(b"1"), "digit": [4]})

    with pytest.raises(DatasetRejected, match=r"columns may be the label \(digit\).*labels to none"):
        read_rows(content)
    assert read_rows(content, labels="none")[0].row.label is None


def test_the_common_name_decides_between_two_label_columns():
    features = {name: {"_type": "ClassLabel", "names": ["a", "b"]} for name in ("coarse_label", "fine_label")}

    (file,) = read_rows(parquet({"img": images(b"1"), "coarse_label": [0], "fine_label": [1]}, features))

    assert file.row.label == 1


def test_two_image_columns_without_a_common_name_are_ambiguous():
    with pytest.raises(DatasetRejected, match="columns may be the image"):
        read_rows(parquet({"left": images(b"1"), "right": images(b"2"), "label": [0]}))


def test_a_table_without_images_is_rejected_with_its_columns():
    with pytest.raises(NotAccepted, match="its columns are text, label"):
        read_rows(parquet({"text": ["a"], "label": [0]}))


def test_files_with_different_classes_are_inconsistent():
    def content(names):
        features = {"label": {"_type": "ClassLabel", "names": names}}
        return parquet({"image": images(b"1"), "label": [0]}, features)

    reader = ParquetReader(IngestLimits(), packed_bytes=None, labels="auto")
    list(reader.files("a.parquet", io.BytesIO(content(["x", "y"]))))
    list(reader.files("b.parquet", io.BytesIO(parquet({"image": images(b"1")}))))

    with pytest.raises(DatasetRejected, match=r"c\.parquet has other classes"):
        list(reader.files("c.parquet", io.BytesIO(content(["y", "x"]))))


@pytest.mark.parametrize("names", [["a", "a"], ["a", ""], [1, 2], "ab"])
def test_invalid_class_names_fail(names):
    with pytest.raises(DatasetRejected, match="class"):
        read_rows(parquet({"image": images(b"1"), "label": [0]}, {"label": {"_type": "ClassLabel", "names": names}}))


@pytest.mark.parametrize("metadata", [b"no json", b"[]", b'{"info": 3}', b'{"info": {"features": [1]}}'])
def test_invalid_metadata_is_ignored(metadata):
    out = io.BytesIO()
    table = pa.table({"image": images(b"1"), "label": [5]}).replace_schema_metadata({b"huggingface": metadata})
    pq.write_table(table, out)

    assert read_rows(out.getvalue())[0].row == TableRow("", 5, None)


def test_a_bomb_is_rejected_by_its_footer():
    content = parquet({"image": [b"\0" * 2_000_000], "label": [1]}, use_dictionary=False, compression="zstd")

    with pytest.raises(DatasetRejected, match="unpacked"):
        next(
            ParquetReader(IngestLimits(max_unpacked_bytes=1_000_000), packed_bytes=len(content), labels="auto").files(
                "t.parquet", io.BytesIO(content)
            )
        )


def test_a_value_repeated_by_a_dictionary_hits_the_limit_while_reading():
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 500), pa.array([b"\0" * 10_000]))
    content = parquet({"image": repeated.cast(pa.binary()), "label": [1] * 500})
    assert len(content) < 50_000
    reader = ParquetReader(IngestLimits(max_unpacked_bytes=1_000_000), packed_bytes=len(content), labels="auto")
    files = reader.files("t.parquet", io.BytesIO(content))
    accepted = [next(files) for _ in range(100)]

    with pytest.raises(DatasetRejected, match="unpacked"):
        next(files)
    assert sum(len(file.content) for file in accepted) == 1_000_000


def test_the_number_of_rows_is_checked_before_reading():
    with pytest.raises(DatasetRejected, match="more than 2 rows"):
        read_rows(parquet({"image": images(b"1", b"2", b"3"), "label": [1, 2, 3]}), max_archive_files=2)


def test_the_row_limit_applies_to_all_files_together():
    content = parquet({"image": images(b"1", b"2"), "label": [1, 2]})
    reader = ParquetReader(IngestLimits(max_archive_files=3), packed_bytes=None, labels="auto")
    list(reader.files("a.parquet", io.BytesIO(content)))

    with pytest.raises(DatasetRejected, match="more than 3 files"):
        list(reader.files("b.parquet", io.BytesIO(content)))


COMPLETE = parquet(
    {"image": images(*[bytes([i]) * 50 for i in range(40)]), "label": list(range(40))}, row_group_size=10
)


@settings(derandomize=True)  # a damaged byte may crash Arrow; only the ingest worker's sandbox survives that
@given(
    st.lists(st.tuples(st.integers(0, len(COMPLETE) - 1), st.integers(0, 255)), min_size=1, max_size=4), st.booleans()
)
def test_a_damaged_file_is_read_or_rejected(changes, cut):
    damaged = bytearray(COMPLETE)
    for offset, value in changes:
        damaged[offset] = value
    if cut:
        del damaged[changes[0][0] :]

    with suppress(NotAccepted, DatasetRejected):
        read_rows(bytes(damaged))

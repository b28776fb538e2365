"""Columns are found by declared features, then by types and names."""

import json

import pyarrow as pa
import pytest

from core.ingest.columns import Columns, find_columns

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def schema(features=None, **columns):
    metadata = None if features is None else {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(list(columns.items()), metadata)


def test_the_layout_of_the_hub_is_recognized():
    features = {"img": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["a", "b"]}}

    found = find_columns(schema(features, img=IMAGE, label=pa.int64()), labels="auto")

    assert found == Columns("img", True, "label", "number", ("a", "b"), None)
    assert found.leaf_paths == ["img.bytes", "label"]


def test_a_declared_image_column_is_preferred():
    features = {"scan": {"_type": "Image"}}

    assert find_columns(schema(features, image=pa.binary(), scan=IMAGE), labels="auto").image == "scan"


def test_class_names_apply_only_to_integer_labels():
    features = {"label": {"_type": "ClassLabel", "names": ["a", "b"]}}

    found = find_columns(schema(features, image=pa.binary(), label=pa.string()), labels="auto")

    assert (found.label_kind, found.class_names) == ("string", None)


@pytest.mark.parametrize(("kind", "found"), [(pa.string(), "split"), (pa.int64(), None)])
def test_a_split_column_contains_strings(kind, found):
    assert find_columns(schema(image=pa.binary(), label=pa.int8(), split=kind), labels="auto").split == found


def test_labels_none_ignores_the_label_column():
    found = find_columns(schema(image=pa.binary(), label=pa.int64()), labels="none")

    assert (found.label, found.leaf_paths) == (None, ["image"])

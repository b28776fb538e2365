"""Guarantees of all artifact stores: local folder and bucket."""

import io

import pytest

from core.errors import StorageFailed
from core.store.storage_url import open_store
from tests.core.store.content import CONTENT, DIGEST, KEY


@pytest.fixture(params=["folder", "bucket"])
def store(request, tmp_path):
    if request.param == "folder":
        return open_store(f"file://{tmp_path}/artifacts")
    return open_store(f"s3://{request.getfixturevalue('bucket')}/potstill")


def test_stream_is_published(store):
    assert store.put(KEY, io.BytesIO(CONTENT)).sha256 == DIGEST
    assert store.put(KEY, io.BytesIO(b"")).size_bytes == 0
    assert b"".join(store.open(KEY)) == b""


@pytest.mark.parametrize(("start", "length"), [(0, 8), (5, 2_000_000), (2_999_999, 10), (3_000_000, None), (7, None)])
def test_ranges(store, source, start, length):
    store.put(KEY, source)

    expected = CONTENT[start:] if length is None else CONTENT[start : start + length]
    assert b"".join(store.open(KEY, start, length)) == expected


def test_missing_file(store, tmp_path):
    assert store.size(KEY) is None
    assert store.local_path(KEY) is None
    for read in (store.open, store.measure, lambda key: store.fetch(key, tmp_path / "x")):
        with pytest.raises(StorageFailed, match="is missing"):
            read(KEY)
    store.delete(KEY)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../x",
        "a/./x",
        "a//x",
        "a/",
        ".hidden",
        ".partial/x",
        "a/.hidden",
        "a\\..\\x",
        "a\x00b",
        "a/\nb",
        "a b",
        "é",
        "x" * 600,
    ],
)
def test_invalid_key_is_refused(store, source, key):
    for use in (
        lambda: store.put(key, source),
        lambda: store.open(key),
        lambda: store.delete(key),
        lambda: store.size(key),
    ):
        with pytest.raises(ValueError, match="is not a valid key"):
            use()

"""Local artifact store: atomic files, hashes, invalid keys."""

import io
import os
import threading

import pytest

from core.errors import StorageFailed
from core.store.artifact_store import LocalArtifactStore, StoredFile
from core.store.storage_url import open_store
from tests.core.store.content import CONTENT, DIGEST, KEY


@pytest.fixture
def root(tmp_path):
    return tmp_path / "artifacts"


@pytest.fixture
def store(root):
    return open_store(f"file://{root}")


def test_published_file_is_read_back(store, source):
    stored = store.put(KEY, source)

    assert stored == StoredFile(KEY, len(CONTENT), DIGEST) == store.measure(KEY)
    assert StoredFile.from_json(stored.to_json()) == stored
    assert stored.name == "model.safetensors"
    assert b"".join(store.open(KEY)) == CONTENT
    assert store.size(KEY) == len(CONTENT)
    assert store.local_path(KEY).read_bytes() == CONTENT


def test_fetch_verifies_the_hash(store, source, tmp_path):
    store.put(KEY, source)
    target = tmp_path / "deep" / "copy"
    store.fetch(KEY, target, sha256=DIGEST)
    assert target.read_bytes() == CONTENT

    store.local_path(KEY).write_bytes(b"damaged")
    with pytest.raises(StorageFailed, match="sha256 differs"):
        store.fetch(KEY, tmp_path / "other" / "copy", sha256=DIGEST)
    assert list((tmp_path / "other").iterdir()) == []
    assert store.measure(KEY).sha256 != DIGEST


def test_interrupted_publication_leaves_nothing(store, root):
    class Broken(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > 1_000_000:
                raise OSError(28, "No space left on device")
            return super().read(size)

    with pytest.raises(StorageFailed, match="the disk is full"):
        store.put(KEY, Broken(CONTENT))

    assert store.size(KEY) is None
    assert list(store.list_prefix()) == []
    assert list((root / ".partial").iterdir()) == []


def test_list_and_delete(store, source, root):
    for key in ("jobs/a/1", "jobs/a/b/2", "jobs/ab/3", "models/4"):
        store.put(key, source)

    assert [listed.key for listed in store.list_prefix()] == ["jobs/a/1", "jobs/a/b/2", "jobs/ab/3", "models/4"]
    assert [(listed.key, listed.size_bytes) for listed in store.list_prefix("jobs/ab")] == [("jobs/ab/3", len(CONTENT))]
    assert store.delete_prefix("jobs/a") == 2
    assert [listed.key for listed in store.list_prefix()] == ["jobs/ab/3", "models/4"]
    store.delete("jobs/ab/3")
    assert sorted(path.name for path in root.iterdir()) == [".partial", "models"]


def test_put_survives_concurrent_deletes_in_the_same_folder(store, source):
    """A delete removes empty folders, even the target folder of a concurrent put."""
    stop = threading.Event()

    def delete_files():
        while not stop.is_set():
            store.delete("jobs/a/b/other")
            store.delete("jobs/a/b/file")

    thread = threading.Thread(target=delete_files, daemon=True)
    thread.start()
    try:
        for _ in range(50):
            store.put("jobs/a/b/file", io.BytesIO(b"x"))
    finally:
        stop.set()
        thread.join()

    assert store.put("jobs/a/b/file", source).sha256 == DIGEST


def test_old_partial_files_are_removed(store, root):
    (root / ".partial" / "old").write_bytes(b"half")
    os.utime(root / ".partial" / "old", (0, 0))
    (root / ".partial" / "young").write_bytes(b"half")

    assert list(store.list_prefix()) == []
    assert store.remove_partials(60) == 1
    assert [path.name for path in (root / ".partial").iterdir()] == ["young"]


@pytest.mark.parametrize("url", ["gs://bucket", "artifacts", "file://host/x", "s3:///prefix", "s3://bucket?a=b", ""])
def test_unsupported_url_is_refused(url):
    with pytest.raises(ValueError, match="file:///"):
        open_store(url)


def test_url_with_percent_encoding(tmp_path):
    store = open_store(f"file://{tmp_path}/a%20b")
    store.put("x", io.BytesIO(b"x"))

    assert isinstance(store, LocalArtifactStore)
    assert (tmp_path / "a b" / "x").read_bytes() == b"x"

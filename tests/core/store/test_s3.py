"""Artifact store in a bucket: the guarantees of the local store, over the S3 protocol."""

import io
from datetime import timedelta

import obstore
import pytest
from obstore.store import S3Store

from core.errors import StorageFailed
from core.store.artifact_store import StoredFile
from core.store.s3 import S3ArtifactStore
from core.store.storage_url import open_store
from core.system.fault_injection import Fault, arm
from tests.core.store.content import CONTENT, DIGEST, KEY


@pytest.fixture
def store(bucket):
    return open_store(f"s3://{bucket}/potstill")


def test_published_file_is_read_back(store, source, bucket):
    stored = store.put(KEY, source)

    assert stored == StoredFile(KEY, len(CONTENT), DIGEST) == store.measure(KEY)
    assert b"".join(store.open(KEY)) == CONTENT
    assert store.size(KEY) == len(CONTENT)
    assert store.local_path(KEY) is None
    assert (
        bytes(obstore.get(S3Store(bucket, client_options={"allow_http": True}), f"potstill/{KEY}").bytes()) == CONTENT
    )


def test_bytes_in_memory_are_stored_with_their_size(store):
    assert store.put(KEY, io.BytesIO(CONTENT)) == StoredFile(KEY, len(CONTENT), DIGEST) == store.measure(KEY)


def test_large_file_is_uploaded_in_parts(store, tmp_path):
    path = tmp_path / "large"
    path.write_bytes(CONTENT * 12)

    assert store.put(KEY, path) == store.measure(KEY)


def test_fetch_verifies_the_hash(store, source, tmp_path):
    store.put(KEY, source)
    target = tmp_path / "deep" / "copy"
    store.fetch(KEY, target, sha256=DIGEST)
    assert target.read_bytes() == CONTENT

    store.put(KEY, io.BytesIO(b"damaged"))
    with pytest.raises(StorageFailed, match="sha256 differs"):
        store.fetch(KEY, tmp_path / "other" / "copy", sha256=DIGEST)
    assert list((tmp_path / "other").iterdir()) == []


def test_fetch_to_a_full_disk_fails_without_a_file(store, source, tmp_path):
    store.put(KEY, source)
    arm(Fault("store.fetched", "ENOSPC", tmp_path / "once"))
    try:
        with pytest.raises(StorageFailed, match="the disk is full; make room"):
            store.fetch(KEY, tmp_path / "deep" / "copy", sha256=DIGEST)
    finally:
        arm(None)
    assert list((tmp_path / "deep").iterdir()) == []


def test_list_and_delete(store, source):
    for key in ("jobs/a/1", "jobs/a/b/2", "jobs/ab/3", "models/4"):
        store.put(key, source)

    assert [listed.key for listed in store.list_prefix()] == ["jobs/a/1", "jobs/a/b/2", "jobs/ab/3", "models/4"]
    assert [(listed.key, listed.size_bytes) for listed in store.list_prefix("jobs/ab")] == [("jobs/ab/3", len(CONTENT))]
    assert store.delete_prefix("jobs/a") == 2
    assert [listed.key for listed in store.list_prefix()] == ["jobs/ab/3", "models/4"]
    assert store.delete_prefix("jobs/a") == 0
    assert store.remove_partials(0) == 0


def test_missing_bucket_is_named_in_one_line(endpoint, source):
    store = S3ArtifactStore("missing-bucket", retry_seconds=0.1)

    with pytest.raises(StorageFailed, match="there is no bucket missing-bucket") as failed:
        store.put(KEY, source)
    assert "\n" not in failed.value.detail
    with pytest.raises(StorageFailed):
        list(store.list_prefix())


def test_an_outage_is_retried_as_long_as_the_time_for_retries(bucket):
    retries = open_store(f"s3://{bucket}/potstill")._store.retry_config
    first, longest = (retries["backoff"][name] for name in ("init_backoff", "max_backoff"))
    pauses = [min(first * retries["backoff"]["base"] ** number, longest) for number in range(retries["max_retries"])]

    assert sum(pauses, timedelta()) > retries["retry_timeout"] == timedelta(minutes=1)


def test_unreachable_server_times_out(endpoint, source, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    store = S3ArtifactStore("bucket", retry_seconds=0.1)

    for use in (lambda: store.put(KEY, source), lambda: store.size(KEY), lambda: store.delete(KEY)):
        with pytest.raises(StorageFailed, match="the bucket") as failed:
            use()
        assert "127.0.0.1" not in failed.value.detail, "the address is internal"

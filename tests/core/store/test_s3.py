"""The artefact store in a bucket: what the local one promises, over the wire of S3."""

import hashlib
import io
import os

import obstore
import pytest
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

from core.errors import StorageFailed
from core.store.artifacts import StoredFile, open_store
from core.store.s3 import S3ArtifactStore

CONTENT = os.urandom(3_000_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
KEY = "jobs/job_1/a1/model.safetensors"


@pytest.fixture(scope="module")
def endpoint():
    """The address of a server that speaks S3, with the environment that names it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "tests")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_REGION", "us-east-1")
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint, request):
    """A new bucket's name."""
    import boto3

    name = "b" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:30]
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=name)
    return name


@pytest.fixture
def store(bucket):
    return open_store(f"s3://{bucket}/potstill")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    return path


def test_what_is_published_is_read_back(store, source, bucket):
    stored = store.put(KEY, source)

    assert stored == StoredFile(KEY, len(CONTENT), DIGEST) == store.measure(KEY)
    assert b"".join(store.open(KEY)) == CONTENT
    assert store.size(KEY) == len(CONTENT)
    assert store.local_path(KEY) is None
    assert (
        bytes(obstore.get(S3Store(bucket, client_options={"allow_http": True}), f"potstill/{KEY}").bytes()) == CONTENT
    )


def test_a_large_file_goes_in_parts(store, tmp_path):
    path = tmp_path / "large"
    path.write_bytes(CONTENT * 12)

    assert store.put(KEY, path) == store.measure(KEY)


def test_a_stream_can_be_published(store):
    assert store.put(KEY, io.BytesIO(CONTENT)).sha256 == DIGEST
    assert store.put(KEY, io.BytesIO(b"")).size_bytes == 0
    assert b"".join(store.open(KEY)) == b""


@pytest.mark.parametrize(("start", "length"), [(0, 8), (5, 2_000_000), (2_999_999, 10), (3_000_000, None), (7, None)])
def test_ranges(store, source, start, length):
    store.put(KEY, source)

    wanted = CONTENT[start:] if length is None else CONTENT[start : start + length]
    assert b"".join(store.open(KEY, start, length)) == wanted


def test_a_copy_is_checked(store, source, tmp_path):
    store.put(KEY, source)
    target = tmp_path / "deep" / "copy"
    store.fetch(KEY, target, sha256=DIGEST)
    assert target.read_bytes() == CONTENT

    store.put(KEY, io.BytesIO(b"damaged"))
    with pytest.raises(StorageFailed, match="sha256 differs"):
        store.fetch(KEY, tmp_path / "other" / "copy", sha256=DIGEST)
    assert list((tmp_path / "other").iterdir()) == []


def test_a_file_that_is_not_there(store, tmp_path):
    assert store.size(KEY) is None
    for read in (store.open, store.measure, lambda key: store.fetch(key, tmp_path / "x")):
        with pytest.raises(StorageFailed, match="is not there"):
            read(KEY)
    store.delete(KEY)


def test_listing_and_deleting(store, source):
    for key in ("jobs/a/1", "jobs/a/b/2", "jobs/ab/3", "models/4"):
        store.put(key, source)

    assert [one.key for one in store.list_prefix()] == ["jobs/a/1", "jobs/a/b/2", "jobs/ab/3", "models/4"]
    assert [(one.key, one.size_bytes) for one in store.list_prefix("jobs/ab")] == [("jobs/ab/3", len(CONTENT))]
    assert store.delete_prefix("jobs/a") == 2
    assert [one.key for one in store.list_prefix()] == ["jobs/ab/3", "models/4"]
    assert store.delete_prefix("jobs/a") == 0
    assert store.remove_partials(0) == 0


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a//x", ".hidden", "a\x00b", "x" * 600])
def test_no_key_leaves_the_prefix(store, source, key):
    for use in (lambda: store.put(key, source), lambda: store.open(key), lambda: store.delete(key)):
        with pytest.raises(ValueError, match="is not a key"):
            use()


def test_a_bucket_that_is_not_there_is_named_in_one_line(endpoint, source):
    store = S3ArtifactStore("nobody-made-this", retry_seconds=0.1)

    with pytest.raises(StorageFailed, match="there is no bucket nobody-made-this") as failed:
        store.put(KEY, source)
    assert "\n" not in failed.value.detail
    with pytest.raises(StorageFailed):
        list(store.list_prefix())


def test_a_server_that_is_away_is_given_up_after_a_while(endpoint, source, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    store = S3ArtifactStore("bucket", retry_seconds=0.1)

    for use in (lambda: store.put(KEY, source), lambda: store.size(KEY), lambda: store.delete(KEY)):
        with pytest.raises(StorageFailed):
            use()

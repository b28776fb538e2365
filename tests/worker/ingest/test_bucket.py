"""Datasets from a bucket: a file, or all files below a prefix.

The tests call the code of the forked process in this one: a process that has used a bucket must not fork.
"""

import boto3
import pytest
from PIL import Image

from core.ingest_errors import DownloadFailed, DownloadTooLarge
from core.reporting import Control
from core.store import datasets
from tests.support.archives import encode_image, make_color_dataset
from worker.ingest.bucket import fetch_from_bucket
from worker.ingest.child import ingest_dataset

IMAGES = {
    f"pets/{split}/{name}/{level}.png": encode_image(Image.new("L", (8, 8), level))
    for split, start in (("train", 0), ("test", 100))
    for name in ("cat", "dog")
    for level in range(start, start + 3)
}


@pytest.fixture
def put(endpoint, bucket):
    """Put objects into a bucket; return the URL of the bucket."""
    client = boto3.client("s3", endpoint_url=endpoint)

    def run(objects):
        for key, content in objects.items():
            client.put_object(Bucket=bucket, Key=key, Body=content)
        return f"s3://{bucket}"

    return run


@pytest.fixture
def fetch(tmp_path):
    def run(url, max_bytes=10**6, max_files=100):
        limits = {"max_bytes": max_bytes, "max_files": max_files}
        return fetch_from_bucket(url, tmp_path / "upload", on_chunk=lambda: None, **limits)

    return run


def test_a_file_is_fetched_whatever_its_name(put, fetch):
    archive = make_color_dataset(3)

    assert fetch(put({"in/a pets.zip": archive}) + "/in/a pets.zip").read_bytes() == archive


def test_a_folder_of_a_bucket_becomes_a_dataset(service, put, tmp_path):
    url = put({**IMAGES, "petshop/train/cat/0.png": b"not below the prefix"})
    source = {"type": "s3", "url": f"{url}/pets/", "labels": "auto"}
    created = service.write(datasets.create, service.project, name="d", source=source)
    row = service.write(datasets.claim, worker_id="wrk_test", lease_seconds=60)
    ingest_dataset(service.context, row, tmp_path / "scratch", lambda: Control.GO)
    dataset = service.read(datasets.get, service.project, created.id)

    assert (dataset.status, dataset.error, dataset.classes) == ("ready", None, ["cat", "dog"])
    assert dataset.rejected == []


@pytest.mark.parametrize("path", ["gone.zip", "gone/"])
def test_what_is_not_there_fails(put, fetch, path):
    with pytest.raises(DownloadFailed):
        fetch(f"{put(IMAGES)}/{path}")


@pytest.mark.parametrize(
    ("path", "limits"),
    [("pets/", {"max_files": 11}), ("pets/", {"max_bytes": 500}), ("pets/train/cat/0.png", {"max_bytes": 10})],
)
def test_limits_apply_before_the_download(put, fetch, path, limits):
    with pytest.raises(DownloadTooLarge):
        fetch(f"{put(IMAGES)}/{path}", **limits)

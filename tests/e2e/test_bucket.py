"""A stack whose files are all in a bucket: another place, the same service."""

import hashlib

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.e2e.conftest import start_stack, stop_stack
from tests.e2e.test_service import finished, small_job, submit
from tests.support.waiting import until_resource


@pytest.fixture
def bucket():
    """The environment of a server that speaks S3 and has an empty bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "POTSTILL_STORAGE_URL": "s3://artefacts/here",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="artefacts")
        yield environment
    server.stop()


def forget(prefix):
    """Delete what the bucket has below a prefix."""
    bucket = boto3.resource("s3").Bucket("artefacts")
    assert len(list(bucket.objects.filter(Prefix=prefix))) > 0
    bucket.objects.filter(Prefix=prefix).delete()


def test_a_job_leaves_nothing_on_the_machine_but_its_dataset_and_all_in_the_bucket(bucket, tmp_path):
    stack = start_stack(tmp_path, **bucket)
    try:
        with stack.client() as http:
            made = http.post("/v1/datasets", json={"name": "d", "source": {"type": "builtin", "name": "digits"}}).json()
            dataset = until_resource(http, f"/v1/datasets/{made['id']}", lambda d: d["status"] != "processing")
            assert dataset["status"] == "ready", dataset
            job = submit(http, small_job(dataset["id"], epochs=2))
            done = until_resource(http, f"/v1/jobs/{job}", finished)
            assert done["status"] == "succeeded", done["error"]
            listed = http.get(f"/v1/jobs/{job}/artifacts").json()["data"]
            for artifact in listed:
                content = http.get(f"/v1/jobs/{job}/artifacts/{artifact['name']}").content
                assert hashlib.sha256(content).hexdigest() == artifact["sha256"]
            forget(f"here/datasets/{dataset['id']}/")  # from here on this machine alone has it
            second = submit(http, small_job(dataset["id"], epochs=1))
            done = until_resource(http, f"/v1/jobs/{second}", finished)
            assert done["status"] == "succeeded", done["error"]
    finally:
        stop_stack(stack)

    stored = {one["Key"] for one in boto3.client("s3").list_objects_v2(Bucket="artefacts")["Contents"]}
    assert {f"here/jobs/{job}/a1/artifacts/{artifact['name']}" for artifact in listed} <= stored
    assert not (tmp_path / "artifacts").exists()
    assert list((tmp_path / "work").iterdir()) == []

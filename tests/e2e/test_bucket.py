"""A stack with its artifact store in an S3 bucket."""

import hashlib

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.e2e.conftest import start_stack, stop_stack
from tests.support.api import artifacts_by_name, create_digits, is_terminal, submit_job
from tests.support.specs import kd_job
from tests.support.waiting import until_resource

pytestmark = pytest.mark.slow


@pytest.fixture
def bucket():
    """Environment variables of an S3 server with an empty bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "POTSTILL_STORAGE_URL": "s3://artifacts/prefix",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="artifacts")
        yield environment
    server.stop()


def delete_objects(prefix):
    """Delete all objects of the bucket with a prefix."""
    bucket = boto3.resource("s3").Bucket("artifacts")
    assert len(list(bucket.objects.filter(Prefix=prefix))) > 0
    bucket.objects.filter(Prefix=prefix).delete()


def test_all_artifacts_are_in_the_bucket_and_only_the_dataset_is_cached_locally(bucket, tmp_path):
    stack = start_stack(tmp_path, **bucket)
    try:
        with stack.client() as http:
            dataset_id = create_digits(http)
            job_id = submit_job(http, kd_job(dataset_id, epochs=2, teacher_epochs=6))
            job = until_resource(http, f"/v1/jobs/{job_id}", is_terminal)
            assert job["status"] == "succeeded", job["error"]
            artifacts = artifacts_by_name(http, job_id)
            for name, artifact in artifacts.items():
                content = http.get(f"/v1/jobs/{job_id}/artifacts/{name}").content
                assert hashlib.sha256(content).hexdigest() == artifact["sha256"]
            delete_objects(f"prefix/datasets/{dataset_id}/")  # the second job must use this machine's copy
            second = submit_job(http, kd_job(dataset_id, epochs=1, teacher_epochs=6))
            job = until_resource(http, f"/v1/jobs/{second}", is_terminal)
            assert job["status"] == "succeeded", job["error"]
    finally:
        stop_stack(stack)

    keys = {stored["Key"] for stored in boto3.client("s3").list_objects_v2(Bucket="artifacts")["Contents"]}
    assert {f"prefix/jobs/{job_id}/a1/artifacts/{name}" for name in artifacts} <= keys
    assert not (tmp_path / "artifacts").exists()
    assert list((tmp_path / "work").iterdir()) == []

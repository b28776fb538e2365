"""The pipeline of docs/deploy.md as its reader runs it: submit, webhook, a real MLflow server, deployment."""

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from potstill import Potstill
from tests.support.api import create_digits
from tests.support.mlflow_process import call_mlflow, run_mlflow
from tests.support.ports import free_port
from tests.support.specs import kd_job

PIPELINE = Path(__file__).parents[2] / "examples" / "pipeline.py"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def forward_to(port):
    """Return a handler of `tls_server` that forwards each request to a port, as the proxy of a receiver does."""

    def handle(connection, request):
        head, _, body = request.partition(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", head, re.IGNORECASE)[1])
        while len(body) < length:
            body += connection.recv(4096)
        with socket.create_connection(("127.0.0.1", port)) as receiver:
            receiver.sendall(head + b"\r\n\r\n" + body)
            while part := receiver.recv(4096):
                connection.sendall(part)

    return handle


@pytest.fixture
def mlflow_url(tmp_path):
    folder = tmp_path / "mlflow"
    folder.mkdir()
    with run_mlflow(folder) as url:
        yield url


def test_a_submitted_job_is_deployed_without_polling(start_second_stack, mlflow_url, tls_server, authority, tmp_path):
    port = free_port()
    proxy = tls_server(forward_to(port))
    (tmp_path / "home").mkdir()
    stack = start_second_stack(
        tmp_path / "home",
        POTSTILL_MLFLOW_TRACKING_URI=mlflow_url,
        POTSTILL_FETCH_ALLOW="localhost",
        POTSTILL_FETCH_PORTS=f"443,{proxy.port}",
        SSL_CERT_FILE=str(authority.certificate),
    )
    environment = {**os.environ, "POTSTILL_URL": stack.url, "POTSTILL_API_KEY": stack.key}
    with stack.client() as http:
        dataset = create_digits(http)
    (tmp_path / "spec.json").write_text(json.dumps(kd_job(dataset, epochs=3, teacher_epochs=1)))
    submit = ["submit", "spec.json", "--url", f"https://localhost:{proxy.port}/potstill", "--name", "digits tiny"]
    receive = ["receive", "deployed", "--mlflow", mlflow_url, "--min-top1", "0.05", "--port", str(port)]

    submitted = [
        subprocess.run(
            [sys.executable, str(PIPELINE), *submit, "--key", "commit"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for _ in range(2)
    ]
    with (tmp_path / "receiver.log").open("w") as log:
        receiver = subprocess.Popen(
            [sys.executable, str(PIPELINE), *receive], cwd=tmp_path, env=environment, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 400
        while not (current := tmp_path / "deployed" / "current").exists():
            assert receiver.poll() is None, (tmp_path / "receiver.log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "receiver.log").read_text()
            time.sleep(0.5)
    finally:
        receiver.terminate()
        receiver.wait(30)

    job_id = submitted[0].split()[0]
    assert submitted[1].split()[0] == job_id, "the same key creates no second job"
    assert current.resolve().name == job_id
    alias = "mlflow/registered-models/alias?name=digits%20tiny&alias=production"
    version = call_mlflow(mlflow_url, alias)["model_version"]
    tags = {tag["key"]: tag["value"] for tag in version["tags"]}
    assert tags["potstill.job_id"] == job_id
    assert tags["potstill.sha256"] == hashlib.sha256((current / "model.safetensors").read_bytes()).hexdigest()
    with Potstill(stack.url, stack.key) as client:
        (webhook,) = client.webhooks.list()
        (delivery,) = client.webhooks.deliveries(webhook.id)
    assert (delivery.status, delivery.type) == ("succeeded", "tracking.finished")

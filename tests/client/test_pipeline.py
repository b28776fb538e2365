"""The pipeline of docs/deploy.md: webhooks that the official library signs, an MLflow stand-in, files of the service.

``tests/worker/scheduler`` tests what the service sends; ``tests/e2e/test_pipeline.py`` runs the whole pipeline with a
real MLflow server.
"""

import importlib.util
import json
import sys
import threading
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
import yaml
from standardwebhooks.webhooks import Webhook

from core.spec import parse_job_spec
from potstill import Potstill
from tests.client.test_routes import DocumentedService
from tests.support.mlflow_server import MlflowStandIn
from tests.test_documents import ROOT

SECRET = "whsec_" + "c2VjcmV0LXNlY3JldC1zZWNyZXQ="


@pytest.fixture(scope="module")
def pipeline():
    found = importlib.util.spec_from_file_location("pipeline_example", ROOT / "examples" / "pipeline.py")
    module = importlib.util.module_from_spec(found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, found.name, module)  # for its data class
        found.loader.exec_module(module)
        yield module


@pytest.fixture
def client():
    service = DocumentedService()
    with Potstill("http://service", "ps_1", transport=httpx.MockTransport(service.answer)) as client:
        client.sent = service.routes
        yield client


@pytest.fixture
def mlflow():
    server = MlflowStandIn()
    server.models["pets"] = {}
    yield server
    server.close()


def finished(**changes):
    registered = {"run_id": "r1", "status": "FINISHED", "registered_model": "pets", "model_version": "3", **changes}
    job = {"id": "job_1", "error": None, "result": {"student": {"top1": 0.91}}}
    return {"event": {"data": registered}, "job": job}


def signed(event_type, data, webhook_id="whd_1", secret=SECRET):
    body, now = json.dumps({"type": event_type, "data": data}), datetime.now(UTC)
    return body, {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(webhook_id, now, body),
    }


@pytest.fixture
def receiver(pipeline, tmp_path):
    """Serve an inbox; return its URL, the inbox, and a new inbox of the same file."""
    inbox = pipeline.Inbox(tmp_path / "inbox.db")
    server = pipeline.make_server(("127.0.0.1", 0), SECRET, inbox)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield partial(httpx.post, f"http://127.0.0.1:{server.server_port}", trust_env=False), inbox
    server.shutdown()
    server.server_close()


def handle_all(inbox, handle=lambda event_type, data: None):
    handled = []

    def record(event_type, data):
        handled.append(event_type)
        handle(event_type, data)

    inbox.close()
    inbox.run(record)
    return handled


def test_a_signed_event_is_stored_once_and_others_are_refused(receiver):
    post, inbox = receiver
    body, headers = signed("tracking.finished", finished())
    _, forged = signed("tracking.finished", finished(), secret="whsec_" + "Zm9yZ2VkLWZvcmdlZC1mb3JnZWQ=")

    assert [post(content=body, headers=each).status_code for each in (headers, headers, forged)] == [204, 204, 400]
    assert handle_all(inbox) == ["tracking.finished"]


def test_an_event_that_was_not_handled_is_handled_after_a_restart(pipeline, receiver, tmp_path, capsys):
    post, inbox = receiver
    for number, event_type in enumerate(("tracking.finished", "job.failed")):
        body, headers = signed(event_type, finished(), f"whd_{number}")
        post(content=body, headers=headers)

    def fail_first(event_type, data):
        assert event_type == "job.failed", "MLflow is down"

    assert handle_all(inbox, fail_first) == ["tracking.finished", "job.failed"]
    assert "MLflow is down" in capsys.readouterr().out
    restarted = partial(pipeline.Inbox, tmp_path / "inbox.db")
    assert handle_all(restarted()) == ["tracking.finished"]
    assert handle_all(restarted()) == []


def test_a_good_student_is_deployed_with_its_version(pipeline, client, mlflow, tmp_path):
    deployment = pipeline.Deployment(tmp_path, mlflow.url, min_top1=0.9)

    assert deployment.deploy(client, finished())
    assert deployment.deploy(client, finished(model_version="4"))  # the link is replaced

    assert (tmp_path / "current").resolve().name == "job_1"
    assert list((tmp_path / "current").iterdir())
    assert mlflow.aliases == {("pets", "production"): "4"}


@pytest.mark.parametrize(("changes", "min_top1"), [({}, 0.95), ({"model_version": None}, 0.0)])
def test_a_student_that_is_missing_or_not_good_enough_is_not_deployed(
    pipeline, client, mlflow, tmp_path, changes, min_top1
):
    assert not pipeline.Deployment(tmp_path, mlflow.url, min_top1=min_top1).deploy(client, finished(**changes))

    assert list(tmp_path.iterdir()) == []
    assert mlflow.aliases == {}


def test_submit_creates_the_webhook_and_a_job_with_its_registered_model(pipeline, client, tmp_path):
    secret = tmp_path / "secret"
    pipeline.subscribe(client, "https://hooks.example.com/potstill", secret)
    job = pipeline.submit(client, {"dataset": "pets", "metadata": {"team": "search"}}, "pets", key="commit")

    assert secret.read_text()
    assert secret.stat().st_mode & 0o777 == 0o600
    assert job.id
    assert {"POST /v1/webhooks", "POST /v1/jobs"} <= set(client.sent)


def test_a_webhook_starts_the_workflow_that_listens_to_it(pipeline, monkeypatch):
    received = []

    class Hub(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            received.append((self.path, self.headers["Authorization"], body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.handle_request, daemon=True).start()
    monkeypatch.setenv("GITHUB_API_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("GITHUB_TOKEN", "ghp_1")
    pipeline.dispatch("acme/pets", "tracking.finished", finished())
    server.server_close()

    ((path, authorization, body),) = received
    assert (path, authorization) == ("/repos/acme/pets/dispatches", "Bearer ghp_1")
    workflow = yaml.load((ROOT / "examples/github/deploy.yml").read_text(), yaml.BaseLoader)  # `on` is no boolean
    assert body["event_type"] in workflow["on"]["repository_dispatch"]["types"]
    environment = workflow["jobs"]["deploy"]["env"]
    for name in ("JOB", "TOP1", "MODEL", "VERSION"):
        value = {"client_payload": body["client_payload"]}
        for part in environment[name].removeprefix("${{ github.event.").removesuffix(" }}").split("."):
            value = value[part]
        assert value


def test_the_job_of_the_skill_is_a_spec():
    text = (Path(ROOT) / "docs" / "skill" / "SKILL.md").read_text()
    (block,) = text.split("```json\n")[1:]

    assert parse_job_spec(json.loads(block.partition("```")[0])).baseline

"""Requests of pushes to a hub. `tests/worker/scheduler/test_hub_push.py` has the pushes themselves."""

import re

import httpx
import pytest

from core.store import jobs, outbound, pushes
from core.store.db import utc_now

TOKEN = "hf_abcdefghijklmnop123"
BODY = {"repo": "acme/pets", "token": TOKEN}
NAMES = ("model.safetensors", "config.json", "README.md", "predictions.npz")


@pytest.fixture
def path(tenant, tmp_path):
    """Path of a job that has succeeded."""
    lease = tenant.running_job()
    tenant.succeed(lease, tmp_path, names=NAMES)
    return f"/v1/jobs/{lease.job_id}"


def test_a_push_is_queued_and_its_token_never_returned(server, tenant, http, path):
    response = http.post(f"{path}/push", json=BODY)
    created = response.json()

    assert response.status_code == 202, response.text
    assert (created["object"], created["status"], created["private"]) == ("push", "pending", True)
    assert created["files"] == ["README.md", "config.json", "model.safetensors"], "without the predictions"
    assert http.get(f"{path}/pushes/{created['id']}").json() == created
    assert http.get(f"{path}/pushes").json()["data"] == [created]
    with server.database.read() as session:
        row = pushes.get(session, tenant.project_id, created["job"], created["id"])
        assert TOKEN not in str(vars(row))
    assert http.get(path).json()["status"] == "succeeded"
    texts = [response.text, http.get(f"{path}/pushes").text, http.get(f"{path}/events").text, http.get(path).text]
    assert not any(TOKEN in text for text in texts)
    assert http.get(f"{path}/events", params={"limit": 100}).json()["data"][-1]["type"] == "push.created"


def test_a_repeated_request_queues_one_push(http, path):
    first, second = (http.post(f"{path}/push", json=BODY, headers={"Idempotency-Key": path}) for _ in range(2))

    assert second.json() == first.json()
    assert second.headers["idempotent-replayed"] == "true"
    assert len(http.get(f"{path}/pushes").json()["data"]) == 1


def test_a_failed_push_shows_its_error(server, tenant, http, path):
    push = http.post(f"{path}/push", json=BODY).json()
    with server.database.write() as session:
        row = pushes.get(session, tenant.project_id, push["job"], push["id"])
        job = jobs.get(session, tenant.project_id, push["job"])
        error = {"code": "push_unauthorized", "message": "refused"}
        outbound.finish(session, row, utc_now(session), error=error)
        pushes.record_end(session, job, row)
    shown = http.get(f"{path}/pushes/{push['id']}").json()

    assert (shown["status"], shown["error"]) == ("failed", {"code": "push_unauthorized", "message": "refused"})


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"repo": "pets"}, "/repo"),
        ({"repo": "acme/../pets"}, "/repo"),
        ({"token": "short"}, "/token"),
        ({"token": ["hf_secretsecretsecret"]}, "/token"),
        ({"files": ["model.safetensor"]}, "/files/0"),
        ({"license": "my license"}, "/license"),
        ({"branch": "x"}, "/branch"),
    ],
)
def test_an_invalid_push_names_the_field_and_no_secret(http, path, changes, pointer):
    response = http.post(f"{path}/push", json=BODY | changes)

    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
    assert [error["pointer"] for error in response.json()["errors"]] == [pointer]
    assert "secret" not in response.text
    assert "entries" not in response.text, "a token has characters"
    assert "pattern" not in response.text, "a message has words"


def test_the_metrics_count_pending_pushes(server, http, path):
    http.post(f"{path}/push", json=BODY)
    text = httpx.get(f"{server.url}/metrics", trust_env=False).text

    assert re.search(r'^potstill_outbound_tasks{kind="push",state="waiting"} [1-9]', text, re.MULTILINE)


def test_a_job_without_artifacts_cannot_be_pushed(tenant, http):
    response = http.post(f"/v1/jobs/{tenant.queued_job()}/push", json=BODY)

    assert (response.status_code, response.json()["code"]) == (409, "no_artifacts")
    assert "queued" in response.json()["detail"]


def test_a_read_key_pushes_nothing(make_tenant, tmp_path):
    tenant = make_tenant("read")
    lease = tenant.running_job()
    tenant.succeed(lease, tmp_path)

    assert tenant.http.post(f"/v1/jobs/{lease.job_id}/push", json=BODY).status_code == 403

"""Every change leaves an entry in the audit log: the tests make every unsafe route of the app change something.

A new route fails the test until `DRIVES` says how to make it change something, or `CHANGES_NOTHING` why it does not.
"""

import io
import json
import tempfile
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import save

from api.session_cookie import COOKIE_NAME, issue_cookie
from core.job_failure import FailureCause
from core.store import audit, jobs
from core.store.keys import Caller

UNSAFE = {"POST", "PUT", "PATCH", "DELETE"}
CHANGES_NOTHING = {
    ("POST", "/v1/estimates"): "an estimate",
    ("POST", "/v1/sweeps/estimate"): "an estimate",
    ("POST", "/v1/jobs/{job_id}/predictions"): "a prediction, which is not stored",
    ("POST", "/v1/uploads/{upload_id}/direct"): "a URL; the file counts when it is complete",
}
TUS = {"Tus-Resumable": "1.0.0"}
HOOK = "https://example.com/hook"
FORM = "0123456789abcdef" * 2  # the token of a form
SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}
WEIGHTS = save({"weight": torch.zeros(2, 2)})


def job(tenant, *, status):
    """Create a job with this status."""
    job_id = tenant.queued_job()
    with tenant.database.write() as session:
        if status == "paused":
            jobs.pause(session, tenant.project_id, job_id)
        elif status == "cancelled":
            jobs.cancel(session, tenant.project_id, job_id)
    return job_id


def succeeded_job(tenant):
    """Create a job that has artifacts."""
    lease = tenant.running_job()
    with tempfile.TemporaryDirectory() as folder:
        tenant.succeed(lease, Path(folder))
    return lease.job_id


# How to make each unsafe route change something: the request, and the action and object of its audit log entry.
# None: the object is the response's `id`.
DRIVES = {
    ("POST", "/v1/datasets"): lambda t: (
        {"url": "/v1/datasets", "json": {"source": {"type": "builtin", "name": "digits"}}},
        "dataset.create",
        None,
    ),
    ("DELETE", "/v1/datasets/{dataset_id}"): lambda t: deletion("dataset", "/v1/datasets", t.ready_dataset()),
    ("POST", "/v1/models"): lambda t: (
        {
            "url": "/v1/models",
            "files": {"file": ("w.safetensors", io.BytesIO(WEIGHTS))},
            "data": {"architecture": "resnet18"},
        },
        "model.create",
        None,
    ),
    ("DELETE", "/v1/models/{model_id}"): lambda t: deletion("model", "/v1/models", t.processing_model()),
    ("POST", "/v1/jobs"): lambda t: (
        {"url": "/v1/jobs", "json": t.extra["spec_of"](t.ready_dataset())},
        "job.create",
        None,
    ),
    ("DELETE", "/v1/jobs/{job_id}"): lambda t: deletion("job", "/v1/jobs", job(t, status="cancelled")),
    ("POST", "/v1/jobs/{job_id}/cancel"): lambda t: apply_action(t, "cancel", "queued"),
    ("POST", "/v1/jobs/{job_id}/pause"): lambda t: apply_action(t, "pause", "queued"),
    ("POST", "/v1/jobs/{job_id}/resume"): lambda t: apply_action(t, "resume", "paused"),
    ("POST", "/v1/jobs/{job_id}/stop"): lambda t: apply_action(t, "stop", "paused"),
    ("POST", "/v1/jobs/{job_id}/retry"): lambda t: apply_action(t, "retry", "cancelled"),
    ("POST", "/v1/sweeps"): lambda t: ({"url": "/v1/sweeps", "json": sweep_request(t)}, "sweep.create", None),
    ("POST", "/v1/sweeps/{sweep_id}/cancel"): lambda t: cancel_sweep(t, "/v1/sweeps"),
    ("DELETE", "/v1/sweeps/{sweep_id}"): lambda t: deletion("sweep", "/v1/sweeps", sweep(t)),
    ("POST", "/sweeps/{sweep_id}/cancel"): lambda t: cancel_sweep(t, "/sweeps"),
    ("POST", "/v1/jobs/{job_id}/push"): lambda t: (
        {"url": f"/v1/jobs/{succeeded_job(t)}/push", "json": {"repo": "acme/pets", "token": "hf_0123456789"}},
        "push.create",
        None,
    ),
    ("POST", "/v1/api-keys"): lambda t: ({"url": "/v1/api-keys", "json": {"name": "n"}}, "api_key.create", None),
    ("DELETE", "/v1/api-keys/{key_id}"): lambda t: deletion("api_key", "/v1/api-keys", another_key(t), verb="revoke"),
    ("POST", "/v1/api-keys/{key_id}/rotate"): lambda t: (
        {"url": f"/v1/api-keys/{another_key(t)}/rotate"},
        "api_key.rotate",
        None,
    ),
    ("POST", "/v1/webhooks"): lambda t: ({"url": "/v1/webhooks", "json": {"url": HOOK}}, "webhook.create", None),
    ("PATCH", "/v1/webhooks/{webhook_id}"): lambda t: (
        {"url": f"/v1/webhooks/{webhook(t)}", "json": {"status": "disabled"}},
        "webhook.change",
        None,
    ),
    ("DELETE", "/v1/webhooks/{webhook_id}"): lambda t: deletion("webhook", "/v1/webhooks", webhook(t)),
    ("POST", "/v1/webhooks/{webhook_id}/rotate"): lambda t: (
        {"url": f"/v1/webhooks/{webhook(t)}/rotate"},
        "webhook.rotate",
        None,
    ),
    ("POST", "/v1/webhooks/{webhook_id}/test"): lambda t: (
        {"url": f"/v1/webhooks/{webhook(t)}/test"},
        "webhook_delivery.create",
        None,
    ),
    ("POST", "/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver"): lambda t: (
        {"url": f"/v1/webhooks/{redelivery(t)}/redeliver"},
        "webhook_delivery.redeliver",
        None,
    ),
    ("POST", "/v1/uploads"): lambda t: (
        {"url": "/v1/uploads", "headers": {**TUS, "Upload-Length": "4"}},
        "upload.create",
        None,
    ),
    ("PATCH", "/v1/uploads/{upload_id}"): lambda t: completed_upload(t, upload(t)),
    ("POST", "/v1/uploads/{upload_id}/complete"): lambda t: direct_upload(t, upload(t)),
    ("DELETE", "/v1/uploads/{upload_id}"): lambda t: deletion("upload", "/v1/uploads", upload(t)),
    ("POST", "/datasets"): lambda t: (
        {"url": "/datasets", "data": {"source": "url", "url": "https://example.com/images.zip"}},
        "dataset.create",
        newest_dataset,
    ),
    ("POST", "/datasets/{dataset_id}/delete"): lambda t: deletion_in_page("dataset", "/datasets", t.ready_dataset()),
    ("POST", "/models"): lambda t: (
        {"url": "/models", "data": {"upload": weights_upload(t), "architecture": "resnet18"}},
        "model.create",
        newest_model,
    ),
    ("POST", "/models/{model_id}/delete"): lambda t: deletion_in_page("model", "/models", t.processing_model()),
    ("POST", "/jobs/new"): lambda t: (
        {"url": "/jobs/new", "data": {"spec": json.dumps(t.extra["spec_of"](t.ready_dataset()))}},
        "job.create",
        newest_job,
    ),
    ("POST", "/jobs/bulk"): lambda t: bulk_cancel(t, job(t, status="queued")),
    ("POST", "/jobs/{job_id}/retry-fixed"): lambda t: retry_with_a_fix(t),  # noqa: PLW0108 - defined below
    ("POST", "/jobs/{job_id}/{action}"): lambda t: apply_action(t, "cancel", "queued", prefix="/jobs"),
    ("POST", "/keys"): lambda t: (
        {"url": "/keys", "data": {"form": FORM, "name": "n", "scope": "read"}},
        "api_key.create",
        newest_key,
    ),
    ("POST", "/keys/{key_id}/rotate"): lambda t: (
        {"url": f"/keys/{another_key(t)}/rotate", "data": {"form": FORM}},
        "api_key.rotate",
        newest_key,
    ),
    ("POST", "/keys/{key_id}/revoke"): lambda t: page_action(t, "keys", another_key(t), "revoke", "api_key.revoke"),
    ("POST", "/webhooks"): lambda t: (
        {"url": "/webhooks", "data": {"form": FORM, "url": HOOK, "events": ["*"]}},
        "webhook.create",
        newest_webhook,
    ),
    ("POST", "/webhooks/{webhook_id}/change"): lambda t: page_action(
        t, "webhooks", webhook(t), "change", "webhook.change", events=["*"]
    ),
    ("POST", "/webhooks/{webhook_id}/enable"): lambda t: page_action(
        t, "webhooks", webhook(t), "enable", "webhook.change"
    ),
    ("POST", "/webhooks/{webhook_id}/disable"): lambda t: page_action(
        t, "webhooks", webhook(t), "disable", "webhook.change"
    ),
    ("POST", "/webhooks/{webhook_id}/rotate"): lambda t: page_action(
        t, "webhooks", webhook(t), "rotate", "webhook.rotate"
    ),
    ("POST", "/webhooks/{webhook_id}/delete"): lambda t: page_action(
        t, "webhooks", webhook(t), "delete", "webhook.delete"
    ),
    ("POST", "/webhooks/{webhook_id}/test"): lambda t: (
        {"url": f"/webhooks/{webhook(t)}/test", "data": {"form": FORM}},
        "webhook_delivery.create",
        newest_delivery,
    ),
    ("POST", "/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver"): lambda t: page_redelivery(t, redelivery(t)),
    ("POST", "/login"): lambda t: ({"url": "/login", "data": {"key": t.token}}, "session.sign_in", t.key_id),
    ("POST", "/logout"): lambda t: ({"url": "/logout"}, "session.sign_out", t.key_id),
}


def deletion(kind, path, object_id, verb="delete"):
    return {"url": f"{path}/{object_id}"}, f"{kind}.{verb}", object_id


def sweep_request(tenant):
    return {"spec": tenant.extra["spec_of"](tenant.ready_dataset()), "grid": {"training.epochs": [1, 2]}}


def sweep(tenant):
    return tenant.http.post("/v1/sweeps", json=sweep_request(tenant)).json()["id"]


def cancel_sweep(tenant, prefix):
    sweep_id = sweep(tenant)
    return {"url": f"{prefix}/{sweep_id}/cancel"}, "sweep.cancel", sweep_id


def deletion_in_page(kind, path, object_id):
    return {"url": f"{path}/{object_id}/delete"}, f"{kind}.delete", object_id


def weights_upload(tenant):
    headers = {**TUS, "Upload-Length": str(len(WEIGHTS))}
    upload_id = tenant.http.post("/v1/uploads", headers=headers).json()["id"]
    headers = {**TUS, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    tenant.http.patch(f"/v1/uploads/{upload_id}", content=WEIGHTS, headers=headers)
    return upload_id


def webhook(tenant):
    return tenant.http.post("/v1/webhooks", json={"url": HOOK}).json()["id"]


def redelivery(tenant):
    webhook_id = webhook(tenant)
    return f"{webhook_id}/deliveries/{tenant.http.post(f'/v1/webhooks/{webhook_id}/test').json()['id']}"


def upload(tenant):
    return tenant.http.post("/v1/uploads", headers={**TUS, "Upload-Length": "4"}).json()["id"]


def completed_upload(tenant, upload_id):
    headers = {**TUS, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    return {"url": f"/v1/uploads/{upload_id}", "content": b"data", "headers": headers}, "upload.complete", upload_id


def direct_upload(tenant, upload_id):
    tenant.server.store.put(f"uploads/{upload_id}/direct", io.BytesIO(b"data"))  # as a client does in a bucket
    request = {"url": f"/v1/uploads/{upload_id}/complete", "json": {"sha256": "0" * 64}}
    return request, "upload.complete", upload_id


def newest_dataset(tenant):
    return tenant.http.get("/v1/datasets").json()["data"][0]["id"]


def newest_model(tenant):
    return tenant.http.get("/v1/models").json()["data"][0]["id"]


def newest_job(tenant):
    return tenant.http.get("/v1/jobs").json()["data"][0]["id"]


def newest_key(tenant):
    return tenant.http.get("/v1/api-keys").json()["data"][0]["id"]


def newest_webhook(tenant):
    return tenant.http.get("/v1/webhooks").json()["data"][0]["id"]


def newest_delivery(tenant):
    return tenant.http.get(f"/v1/webhooks/{newest_webhook(tenant)}/deliveries").json()["data"][0]["id"]


def page_action(tenant, section, object_id, verb, action, **form):
    return {"url": f"/{section}/{object_id}/{verb}", "data": {"form": FORM, **form}}, action, object_id


def page_redelivery(tenant, path):
    return {"url": f"/webhooks/{path}/redeliver"}, "webhook_delivery.redeliver", path.rpartition("/")[2]


def bulk_cancel(tenant, job_id):
    form = {"action": "cancel", "jobs": [job_id], "confirmed": "yes"}
    return {"url": "/jobs/bulk", "data": form}, "job.cancel", job_id


def apply_action(tenant, name, status, prefix="/v1/jobs"):
    job_id = job(tenant, status=status)
    return {"url": f"{prefix}/{job_id}/{name}"}, f"job.{name}", job_id


def retry_with_a_fix(tenant):
    spec = tenant.extra["spec_of"](tenant.ready_dataset(), priority=100)
    job_id = tenant.http.post("/v1/jobs", json=spec).json()["id"]
    with tenant.database.write() as session:
        while (claimed := jobs.claim(session, worker_id="w", accelerator="cpu", lease_seconds=600)).id != job_id:
            pass  # a job of another test
        error = FailureCause("out_of_memory", "m", "capacity").to_error(
            spec=claimed.spec, stage="distill", fraction=0.0, has_checkpoint=False
        )
        jobs.fail(session, jobs.LeaseToken.from_job(claimed), error)
    return {"url": f"/jobs/{job_id}/retry-fixed"}, "job.retry", job_id


def another_key(tenant):
    return tenant.http.post("/v1/api-keys", json={"name": "another"}).json()["id"]


@pytest.fixture
def browser(server, tenant, spec_of):
    """A client with a session, for the routes of the dashboard."""
    tenant.extra["spec_of"] = spec_of
    cookie = issue_cookie(server.app.state.app_state.cookie_secret, tenant.key_id)
    with httpx.Client(
        base_url=server.url, cookies={COOKIE_NAME: cookie}, headers=SAME_ORIGIN, trust_env=False, timeout=60
    ) as client:
        yield client


def test_every_unsafe_route_is_covered(app_routes):
    unsafe = {(route.method, route.path) for route in app_routes if route.method in UNSAFE}

    assert unsafe == set(DRIVES) | set(CHANGES_NOTHING)


@pytest.mark.parametrize("route", DRIVES, ids=" ".join)
def test_every_change_leaves_an_entry(route, tenant, browser):
    request, action, object_id = DRIVES[route](tenant)
    headers = {**request.pop("headers", {}), "X-Request-Id": "the-change"}
    response = browser.request(route[0], **request, headers=headers)
    assert response.status_code < 400, response.text

    entry = tenant.http.get("/v1/audit-log").json()["data"][0]
    expected_id = object_id(tenant) if callable(object_id) else object_id or response.json()["id"]
    assert (entry["action"], entry["object_id"], entry["outcome"]) == (action, expected_id, "done")
    assert (entry["key"], entry["request_id"], entry["client_address"]) == (tenant.key_id, "the-change", "127.0.0.1")


@pytest.mark.parametrize("route", DRIVES, ids=" ".join)
def test_a_cross_site_request_changes_nothing_and_leaves_no_entry(route, tenant, browser):
    request, _, _ = DRIVES[route](tenant)
    before = tenant.http.get("/v1/audit-log").json()["data"]
    headers = {**request.pop("headers", {}), "Sec-Fetch-Site": "cross-site"}
    response = browser.request(route[0], **request, headers=headers)

    assert response.status_code == 403
    assert "set-cookie" not in response.headers
    assert tenant.http.get("/v1/audit-log").json()["data"] == before


def test_the_client_address_comes_from_a_trusted_proxy(tenant):
    tenant.http.post(f"/v1/jobs/{tenant.queued_job()}/pause", headers={"X-Forwarded-For": "198.51.100.7"})

    assert tenant.http.get("/v1/audit-log").json()["data"][0]["client_address"] == "198.51.100.7"


def test_a_refused_request_leaves_no_entry(tenant):
    done = job(tenant, status="cancelled")
    assert tenant.http.post(f"/v1/jobs/{done}/pause").status_code == 409

    assert tenant.http.get("/v1/audit-log").json()["data"] == []


def test_a_repeated_request_leaves_one_entry(tenant):
    document = {"source": {"type": "builtin", "name": "digits"}}
    for _ in range(2):
        tenant.http.post("/v1/datasets", json=document, headers={"Idempotency-Key": "once"})

    assert len(tenant.http.get("/v1/audit-log").json()["data"]) == 1


def test_the_log_is_filtered_by_key_action_and_object(tenant, server):
    job_id = tenant.queued_job()
    tenant.http.post(f"/v1/jobs/{job_id}/pause")
    tenant.http.post(f"/v1/jobs/{job_id}/resume")
    with server.database.write() as session:
        audit.record(session, Caller("key_other", tenant.project_id, frozenset()), "job.pause", "job_x")

    def found(**filters):
        return [(e["key"], e["action"]) for e in tenant.http.get("/v1/audit-log", params=filters).json()["data"]]

    assert found(object_id=job_id) == [(tenant.key_id, "job.resume"), (tenant.key_id, "job.pause")]
    assert found(action="job.pause") == [("key_other", "job.pause"), (tenant.key_id, "job.pause")]
    assert found(key="key_other") == [("key_other", "job.pause")]
    assert found(key="key_none") == []


class TestRefusedSignIns:
    def sign_in(self, server, key):
        return httpx.post(f"{server.url}/login", data={"key": key}, headers=SAME_ORIGIN, trust_env=False)

    def test_repeated_refusals_leave_one_entry_and_cause_no_further_writes(self, server, tenant, monkeypatch):
        wrong = tenant.token[:-1] + ("0" if tenant.token[-1] != "0" else "1")
        calls, write = [], server.database.write

        def count_calls():
            calls.append(1)
            return write()

        monkeypatch.setattr(server.database, "write", count_calls)
        for key in [wrong] * 5 + ["ps_" + "0" * 26 + "_" + "0" * 64] * 5:
            assert self.sign_in(server, key).status_code == 401

        assert len(calls) == 1
        assert len(tenant.http.get("/v1/audit-log").json()["data"]) == 1

    def test_a_refusal_for_an_existing_key_is_recorded_in_its_project(self, server, tenant):
        wrong = tenant.token[:-1] + ("0" if tenant.token[-1] != "0" else "1")
        assert self.sign_in(server, wrong).status_code == 401

        (entry,) = tenant.http.get("/v1/audit-log").json()["data"]
        assert (entry["action"], entry["outcome"], entry["key"]) == ("session.sign_in", "refused", tenant.key_id)
        assert entry["client_address"] == "127.0.0.1"

    def test_a_refusal_for_an_unknown_key_is_not_recorded(self, server, tenant):
        for key in ("", "ps_x", "ps_" + "0" * 26 + "_" + "0" * 64):
            assert self.sign_in(server, key).status_code == 401

        assert tenant.http.get("/v1/audit-log").json()["data"] == []

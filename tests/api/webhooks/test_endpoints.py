"""``/v1/webhooks``."""

import httpx
import pytest

from core.store import webhooks
from core.store.webhooks import AttemptResult

URL = "https://example.com/hook?token=geheim"


def create(http, **document):
    return http.post("/v1/webhooks", json={"url": URL, **document})


def test_a_webhook_is_created_and_its_secret_returned_once(http):
    response = create(http, name="ci", events=["job.failed", "job.failed", "*"])
    created = response.json()

    assert response.status_code == 201, response.text
    assert created["secret"].startswith("whsec_")
    assert (created["object"], created["status"], created["job"]) == ("webhook", "enabled", None)
    assert (created["url"], created["events"]) == ("https://example.com/hook?[hidden]", ["job.failed", "*"])
    shown = http.get(f"/v1/webhooks/{created['id']}")
    assert shown.json() == {name: value for name, value in created.items() if name != "secret"}
    assert http.get("/v1/webhooks").json()["data"] == [shown.json()]


def test_a_repeated_request_creates_no_second_webhook_and_shows_no_secret(http):
    first, second = (
        http.post("/v1/webhooks", json={"url": URL}, headers={"Idempotency-Key": "once"}) for _ in range(2)
    )

    assert second.json() == {**first.json(), "secret": None}
    assert len(http.get("/v1/webhooks").json()["data"]) == 1


@pytest.mark.parametrize(
    ("document", "pointer", "code"),
    [
        ({"url": "http://example.com/"}, "/url", "url_not_allowed"),
        ({"url": "https://127.0.0.1/"}, "/url", "url_not_allowed"),
        ({"url": "https://169.254.169.254/"}, "/url", "url_not_allowed"),
        ({"url": "https://localhost/"}, "/url", "url_not_allowed"),
        ({"url": "https://example.com:22/"}, "/url", "url_not_allowed"),
        ({"events": []}, "/events", "invalid_request"),
        ({"events": ["job.suceeded"]}, "/events/0", "invalid_request"),
        ({"job": "unknown"}, "/job", "invalid_request"),
        ({"secret": "mine"}, "/secret", "invalid_request"),
    ],
)
def test_an_invalid_webhook_names_the_field(http, document, pointer, code):
    response = create(http, **document)

    assert (response.status_code, response.json()["code"]) == (422, code)
    assert [error["pointer"] for error in response.json()["errors"]] == [pointer]


def test_a_webhook_of_one_job_takes_its_name(tenant, http):
    job_id = tenant.queued_job()

    assert create(http, job="small").json()["job"] == job_id


def test_the_number_of_webhooks_is_limited(make_server, make_tenant):
    tenant = make_tenant(on=make_server(quota_webhooks=1))
    responses = [create(tenant.http) for _ in range(2)]

    assert [response.status_code for response in responses] == [201, 403]
    assert (responses[1].json()["code"], responses[1].json()["quota"]) == ("quota_exceeded", "webhooks")


def test_a_webhook_is_changed_disabled_and_deleted(http):
    path = f"/v1/webhooks/{create(http, name='ci').json()['id']}"
    changed = http.patch(path, json={"url": "https://other.example/", "events": ["*"], "name": None}).json()
    disabled = http.patch(path, json={"status": "disabled"}).json()

    assert (changed["url"], changed["events"], changed["name"]) == ("https://other.example/", ["*"], None)
    assert (disabled["status"], disabled["disabled_reason"]) == ("disabled", "request")
    assert http.patch(path, json={"status": "enabled"}).json()["disabled_reason"] is None
    for document, pointer in (({"url": None}, "/url"), ({"url": "https://10.0.0.1/"}, "/url"), ({"x": 1}, "/x")):
        refused = http.patch(path, json=document)
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, pointer)
    assert http.delete(path).status_code == 204
    assert http.get(path).status_code == 404


def test_a_test_delivery_is_logged_and_repeated(server, tenant, http):
    path = f"/v1/webhooks/{create(http).json()['id']}"
    response = http.post(f"{path}/test")
    delivery = response.json()
    assert (response.status_code, delivery["type"], delivery["status"]) == (202, "webhook.test", "pending")

    with server.database.write() as session:
        row = webhooks.get_delivery(session, tenant.project_id, delivery["webhook"], delivery["id"])
        claimed = webhooks.claim(session, row.next_attempt_at, lease_seconds=60)
        while claimed.id != delivery["id"]:  # a delivery of another test
            claimed = webhooks.claim(session, row.next_attempt_at, lease_seconds=60)
        webhooks.record_attempt(
            session, claimed, AttemptResult(status=204, error=None, seconds=0.1), row.next_attempt_at
        )
    (listed,) = http.get(f"{path}/deliveries", params={"status": "succeeded"}).json()["data"]
    assert listed == http.get(f"{path}/deliveries/{delivery['id']}").json()
    assert [attempt["status"] for attempt in listed["attempts"]] == [204]
    assert http.get(f"{path}/deliveries", params={"status": "failed"}).json()["data"] == []

    again = http.post(f"{path}/deliveries/{delivery['id']}/redeliver").json()
    assert (again["id"], again["status"]) == (delivery["id"], "pending")


def test_a_rotation_returns_the_new_secret_once(http):
    created = create(http).json()
    path = f"/v1/webhooks/{created['id']}"
    rotated = http.post(f"{path}/rotate", json={"overlap_seconds": 60}).json()

    assert rotated["secret"] not in {created["secret"], None}
    assert rotated["previous_secret_expires_at"] is not None
    assert "secret" not in http.get(path).json()


@pytest.mark.parametrize("scopes", [("read",)])
def test_a_read_key_changes_no_webhook(make_tenant, scopes):
    tenant = make_tenant(*scopes)

    assert create(tenant.http).status_code == 403
    assert tenant.http.get("/v1/webhooks").status_code == 200


def test_the_metrics_count_pending_deliveries(server, http):
    path = f"/v1/webhooks/{create(http).json()['id']}"
    http.post(f"{path}/test")
    text = httpx.get(f"{server.url}/metrics", trust_env=False).text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("potstill_webhook"))

    assert float(values['potstill_webhook_deliveries{status="pending"}']) >= 1
    assert float(values['potstill_webhook_due_seconds{status="pending"}']) >= 0

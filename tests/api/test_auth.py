"""Who may do what."""

import httpx
import pytest

from api.session_cookie import COOKIE_NAME, issue_cookie
from core.store import keys


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer nope"},
        {"Authorization": "Bearer ps_" + "0" * 26 + "_" + "0" * 64},
        {"Authorization": "Basic dXNlcjpwYXNz"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer \xff\xfe".encode("latin-1")},
        {"Cookie": "potstill_session=forged"},
    ],
)
def test_without_a_valid_key_nothing_is_answered(server, headers):
    answer = httpx.get(f"{server.url}/v1/jobs", headers=headers, trust_env=False)

    assert answer.status_code == 401
    assert answer.json()["code"] == "not_authenticated"
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_the_key_is_asked_for_before_the_body_or_the_parameters_are_looked_at(server):
    bad_body = httpx.post(f"{server.url}/v1/jobs", content=b"{", headers={"Content-Type": "application/json"})
    bad_limit = httpx.get(f"{server.url}/v1/jobs?limit=0")

    assert (bad_body.status_code, bad_limit.status_code) == (401, 401)


def test_a_revoked_key_ends_at_once(make_tenant, server):
    tenant = make_tenant()
    assert tenant.http.get("/v1/jobs").status_code == 200
    with server.database.write() as session:
        keys.revoke(session, tenant.project_id, tenant.key_id)

    assert tenant.http.get("/v1/jobs").status_code == 401


def test_a_key_that_was_recalled_ends_at_once_too(make_tenant, server):
    tenant = make_tenant()
    path = f"/v1/jobs/{tenant.queued_job()}"
    assert [tenant.http.get(path).status_code for _ in range(3)] == [200] * 3
    with server.database.write() as session:
        keys.revoke(session, tenant.project_id, tenant.key_id)

    assert tenant.http.get(path).status_code == 401


def test_a_recalled_key_opens_nothing_of_others(make_tenant, tenant):
    path = f"/v1/jobs/{make_tenant().queued_job()}"

    assert [tenant.http.get(path).status_code for _ in range(2)] == [404] * 2


def test_a_key_that_may_only_read_cannot_change_anything(make_tenant):
    tenant = make_tenant("read")
    refused = tenant.http.post("/v1/datasets", json={"name": "d", "source": {"type": "builtin", "name": "digits"}})

    assert tenant.http.get("/v1/jobs").status_code == 200
    assert refused.status_code == 403
    assert refused.json()["code"] == "forbidden"
    assert "write" in refused.json()["detail"]


def test_what_belongs_to_another_project_is_not_there(make_tenant, tenant):
    other = make_tenant()
    job, dataset = other.queued_job(), other.ready_dataset()

    for path in (f"/v1/jobs/{job}", f"/v1/jobs/{job}/events", f"/v1/jobs/{job}/metrics", f"/v1/datasets/{dataset}"):
        assert tenant.http.get(path).status_code == 404, path
    assert tenant.http.post(f"/v1/jobs/{job}/cancel").status_code == 404
    assert tenant.http.delete(f"/v1/datasets/{dataset}").status_code == 404
    assert job not in tenant.http.get("/v1/jobs").text


def test_the_use_of_a_key_is_remembered(server, tenant):
    tenant.http.get("/v1/jobs")
    with server.database.read() as session:
        (key,) = keys.list_keys(session, tenant.project_id)

    assert key.last_used_at is not None


class TestDashboardCookie:
    def _client(self, server, tenant):
        cookie = issue_cookie(server.app.state.parts.cookie_secret, tenant.key_id)
        return httpx.Client(base_url=server.url, cookies={COOKIE_NAME: cookie}, trust_env=False)

    def test_it_reads(self, server, tenant):
        with self._client(server, tenant) as client:
            assert client.get("/v1/jobs").status_code == 200

    def test_it_changes_things_only_from_our_own_pages(self, server, tenant):
        job = tenant.queued_job()
        with self._client(server, tenant) as client:
            forged = client.post(f"/v1/jobs/{job}/cancel", headers={"Sec-Fetch-Site": "cross-site"})
            own = client.post(f"/v1/jobs/{job}/cancel", headers={"Sec-Fetch-Site": "same-origin"})

        assert forged.status_code == 403
        assert own.json()["status"] == "cancelled"

"""Authentication and scopes."""

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
def test_a_request_without_a_valid_key_is_401(server, headers):
    response = httpx.get(f"{server.url}/v1/jobs", headers=headers, trust_env=False)

    assert response.status_code == 401
    assert response.json()["code"] == "not_authenticated"
    assert response.headers["WWW-Authenticate"].startswith("Bearer")


def test_authentication_precedes_validation_of_body_and_parameters(server):
    bad_body = httpx.post(f"{server.url}/v1/jobs", content=b"{", headers={"Content-Type": "application/json"})
    bad_limit = httpx.get(f"{server.url}/v1/jobs?limit=0")

    assert (bad_body.status_code, bad_limit.status_code) == (401, 401)


def test_a_revoked_key_fails_at_once(make_tenant, server):
    tenant = make_tenant()
    assert tenant.http.get("/v1/jobs").status_code == 200
    with server.database.write() as session:
        keys.revoke(session, tenant.project_id, tenant.key_id)

    assert tenant.http.get("/v1/jobs").status_code == 401


def test_a_revoked_key_fails_at_once_although_its_caller_is_cached(make_tenant, server):
    tenant = make_tenant()
    path = f"/v1/jobs/{tenant.queued_job()}"
    assert [tenant.http.get(path).status_code for _ in range(3)] == [200] * 3
    with server.database.write() as session:
        keys.revoke(session, tenant.project_id, tenant.key_id)

    assert tenant.http.get(path).status_code == 401


def test_a_cached_caller_has_no_access_to_other_projects(make_tenant, tenant):
    path = f"/v1/jobs/{make_tenant().queued_job()}"

    assert [tenant.http.get(path).status_code for _ in range(2)] == [404] * 2


def test_a_read_only_key_cannot_change_anything(make_tenant):
    tenant = make_tenant("read")
    rejected = tenant.http.post("/v1/datasets", json={"name": "d", "source": {"type": "builtin", "name": "digits"}})

    assert tenant.http.get("/v1/jobs").status_code == 200
    assert rejected.status_code == 403
    assert rejected.json()["code"] == "forbidden"
    assert "write" in rejected.json()["detail"]


def test_objects_of_other_projects_are_404(make_tenant, tenant):
    other = make_tenant()
    job, dataset = other.queued_job(), other.ready_dataset()

    for path in (f"/v1/jobs/{job}", f"/v1/jobs/{job}/events", f"/v1/jobs/{job}/metrics", f"/v1/datasets/{dataset}"):
        assert tenant.http.get(path).status_code == 404, path
    assert tenant.http.post(f"/v1/jobs/{job}/cancel").status_code == 404
    assert tenant.http.delete(f"/v1/datasets/{dataset}").status_code == 404
    assert job not in tenant.http.get("/v1/jobs").text


def test_the_last_use_of_a_key_is_recorded(server, tenant):
    tenant.http.get("/v1/jobs")
    with server.database.read() as session:
        (key,) = keys.list_keys(session, tenant.project_id)

    assert key.last_used_at is not None


class TestDashboardCookie:
    def _client(self, server, tenant):
        cookie = issue_cookie(server.app.state.app_state.cookie_secret, tenant.key_id)
        return httpx.Client(base_url=server.url, cookies={COOKIE_NAME: cookie}, trust_env=False)

    def test_the_cookie_authenticates_reads(self, server, tenant):
        with self._client(server, tenant) as client:
            assert client.get("/v1/jobs").status_code == 200

    def test_the_cookie_authenticates_writes_only_from_the_same_origin(self, server, tenant):
        job = tenant.queued_job()
        with self._client(server, tenant) as client:
            forged = client.post(f"/v1/jobs/{job}/cancel", headers={"Sec-Fetch-Site": "cross-site"})
            own = client.post(f"/v1/jobs/{job}/cancel", headers={"Sec-Fetch-Site": "same-origin"})

        assert forged.status_code == 403
        assert own.json()["status"] == "cancelled"

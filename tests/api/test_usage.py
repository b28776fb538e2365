"""Quotas and usage of a project."""

import pytest

from core.store.project_tables import Project


@pytest.fixture
def limit(server, tenant):
    """Set limits of the tenant's project."""

    def set_limits(**limits):
        with server.database.write() as session:
            project = session.get(Project, tenant.project_id)
            for name, value in limits.items():
                setattr(project, name, value)

    return set_limits


def upload(http, content, name="file"):
    return http.post("/v1/datasets", files={"file": (f"{name}.zip", content)})


def test_usage_reports_usage_and_limits(tenant, http, server, limit):
    assert http.get("/v1/usage").json() == {
        "object": "usage",
        "jobs": {"used": 0, "limit": 10_000},
        "stored_bytes": {"used": 0, "limit": None},
        "max_upload_bytes": server.settings.max_upload_bytes,
        "requests_per_minute": {
            "reads": 60_000,
            "writes": 6_000,
            "jobs": 1_200,
            "uploads": 600,
            "questions": 1_200,
        },
    }

    tenant.queued_job()
    limit(max_jobs=5, max_stored_bytes=9_000, max_upload_bytes=700)
    found = http.get("/v1/usage").json()

    assert (found["jobs"], found["max_upload_bytes"]) == ({"used": 1, "limit": 5}, 700)
    assert found["stored_bytes"] == {"used": 1000, "limit": 9_000}


def test_a_job_beyond_the_quota_is_403_with_a_remedy(tenant, http, limit, spec_of):
    spec = spec_of(tenant.ready_dataset())
    limit(max_jobs=1)
    first, second = (http.post("/v1/jobs", json=spec) for _ in range(2))

    assert (first.status_code, second.status_code) == (201, 403)
    problem = second.json()
    assert (problem["code"], problem["quota"], problem["limit"], problem["used"]) == ("quota_exceeded", "jobs", 1, 1)
    assert "cancel some" in problem["detail"]
    assert "Retry-After" not in second.headers

    http.post(f"/v1/jobs/{first.json()['id']}/cancel")
    assert http.post("/v1/jobs", json=spec).status_code == 201
    retried = http.post(f"/v1/jobs/{first.json()['id']}/retry")
    assert (retried.status_code, retried.json()["code"]) == (403, "quota_exceeded")
    assert http.get(f"/v1/jobs/{first.json()['id']}").json()["status"] == "cancelled"


def test_a_refused_request_can_be_repeated_with_its_idempotency_key(tenant, http, limit, spec_of):
    spec = spec_of(tenant.ready_dataset())
    headers = {"Idempotency-Key": "one-too-many"}
    limit(max_stored_bytes=999)
    assert http.post("/v1/jobs", json=spec, headers=headers).status_code == 403

    limit(max_stored_bytes=1000)
    assert http.post("/v1/jobs", json=spec, headers=headers).status_code == 201


def test_stored_bytes_are_limited(http, limit, zip_of):
    content = zip_of({f"a/{n}.jpg": b"x" * 300 for n in range(3)})
    limit(max_stored_bytes=len(content) + 10)
    first, second = (upload(http, content) for _ in range(2))

    assert (first.status_code, second.status_code) == (202, 403), second.text
    assert first.json()["size_bytes"] == len(content)
    assert second.json()["used"] == 2 * len(content)
    assert http.get("/v1/usage").json()["stored_bytes"]["used"] == len(content)
    assert len(http.get("/v1/datasets").json()["data"]) == 1

    http.delete(f"/v1/datasets/{first.json()['id']}")
    assert http.get("/v1/usage").json()["stored_bytes"]["used"] == 0
    assert upload(http, content).status_code == 202


def test_beyond_the_quota_running_jobs_continue_and_new_jobs_are_refused(tenant, http, limit, spec_of, tmp_path):
    lease = tenant.running_job()
    spec = spec_of(tenant.ready_dataset())
    used = http.get("/v1/usage").json()["stored_bytes"]["used"]
    limit(max_stored_bytes=used)
    assert http.post("/v1/jobs", json=spec).status_code == 201

    saved = sum(file["size_bytes"] for step in (1, 2) for file in tenant.checkpoint(lease, tmp_path, step).files)
    assert http.get("/v1/usage").json()["stored_bytes"] == {"used": used + saved, "limit": used}
    rejected = http.post("/v1/jobs", json=spec)
    assert (rejected.status_code, rejected.json()["quota"]) == (403, "stored_bytes")
    assert "with its checkpoints" in rejected.json()["detail"]

    tenant.succeed(lease, tmp_path)
    assert http.get(f"/v1/jobs/{lease.job_id}").json()["status"] == "succeeded"
    http.delete(f"/v1/jobs/{lease.job_id}")
    assert http.post("/v1/jobs", json=spec).status_code == 201


def test_an_upload_to_a_full_project_is_refused_before_its_body(tenant, http, limit, zip_of):
    tenant.ready_dataset()
    limit(max_stored_bytes=1)

    for path in ("/v1/datasets", "/v1/models"):
        response = http.post(path, files={"file": ("x", b"")})
        assert (response.status_code, response.json()["code"]) == (403, "quota_exceeded")


def test_an_upload_is_limited_by_the_project(http, limit, zip_of):
    content = zip_of({"a/1.jpg": b"x" * 300})
    limit(max_upload_bytes=100)
    response = upload(http, content)

    assert (response.status_code, response.json()["code"]) == (413, "payload_too_large")
    assert "100 bytes" in response.json()["detail"]

"""Cross-origin requests: allowed origins only, without credentials, on every kind of route."""

import httpx
import pytest

ORIGIN = "https://app.example"


@pytest.fixture(scope="module")
def cors_server(make_server):
    return make_server(cors_origins=(ORIGIN, "http://localhost:5173"))


def preflight(server, path, method, *headers, origin=ORIGIN):
    return httpx.options(
        f"{server.url}{path}",
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": ", ".join(headers),
        },
        trust_env=False,
    )


@pytest.mark.parametrize(
    ("path", "method", "headers"),
    [
        ("/v1/jobs", "POST", ["authorization", "content-type", "idempotency-key", "traceparent"]),
        ("/v1/jobs/job_x/events", "GET", ["authorization", "last-event-id"]),
        ("/v1/jobs/job_x/artifacts/model.safetensors", "GET", ["authorization", "range", "if-none-match"]),
        ("/v1/uploads", "POST", ["authorization", "tus-resumable", "upload-length", "upload-metadata"]),
        ("/v1/uploads/up_x", "PATCH", ["content-type", "tus-resumable", "upload-offset", "upload-checksum"]),
        ("/v1/uploads/up_x", "DELETE", ["tus-resumable"]),
    ],
)
def test_a_preflight_needs_no_key(cors_server, path, method, headers):
    response = preflight(cors_server, path, method, *headers)

    assert response.status_code == 200, response.text
    assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert method in response.headers["Access-Control-Allow-Methods"]
    assert "Access-Control-Allow-Credentials" not in response.headers
    assert "Origin" in response.headers["Vary"]


def test_other_origins_and_headers_are_refused(cors_server):
    assert preflight(cors_server, "/v1/jobs", "GET", origin="https://evil.example").status_code == 400
    assert preflight(cors_server, "/v1/jobs", "GET", "cookie").status_code == 400
    assert "Access-Control-Allow-Origin" not in preflight(cors_server, "/login", "GET").headers


def test_responses_and_errors_can_be_read_with_their_headers(cors_server, make_tenant):
    tenant = make_tenant(on=cors_server)
    listed = tenant.http.get("/v1/jobs", headers={"Origin": ORIGIN})
    refused = httpx.get(f"{cors_server.url}/v1/jobs", headers={"Origin": ORIGIN}, trust_env=False)
    foreign = tenant.http.get("/v1/jobs", headers={"Origin": "https://evil.example"})
    discovery = tenant.http.options("/v1/uploads", headers={"Origin": ORIGIN})  # of tus, not a preflight

    assert (listed.status_code, refused.status_code, discovery.status_code) == (200, 401, 204)
    for response in (listed, refused, discovery):
        assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
        exposed = response.headers["Access-Control-Expose-Headers"].lower().split(", ")
        assert {"etag", "retry-after", "location", "x-request-id", "upload-offset"} <= set(exposed)
    assert discovery.headers["Tus-Version"] == "1.0.0"
    assert "Access-Control-Allow-Origin" not in foreign.headers


def test_an_event_stream_can_be_read(cors_server, make_tenant):
    tenant = make_tenant(on=cors_server)
    headers = {"Origin": ORIGIN, "Accept": "text/event-stream"}
    with tenant.http.stream("GET", f"/v1/jobs/{tenant.queued_job()}/events", headers=headers) as response:
        assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert next(response.iter_lines()).startswith("retry:")


def test_by_default_no_origin_is_allowed(server, tenant):
    assert "Access-Control-Allow-Origin" not in tenant.http.get("/v1/jobs", headers={"Origin": ORIGIN}).headers
    assert preflight(server, "/v1/jobs", "GET").status_code in {401, 405}

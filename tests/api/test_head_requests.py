"""HEAD of every GET route: its status and headers, without a body."""

import re

import pytest

STREAM = {"Accept": "text/event-stream"}


@pytest.mark.parametrize("path", ["/", "/jobs", "/login", "/docs", "/favicon.ico", "/healthz", "/v1/jobs", "/metrics"])
def test_head_is_get_without_a_body(http, path):
    get, head = http.get(path), http.head(path)

    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers.get("content-type") == get.headers.get("content-type")


def test_every_get_route_answers_head(http, app_routes):
    paths = {route.path for route in app_routes if route.method == "GET"}
    for path in sorted(paths):
        url = re.sub(r"{\w+(:\w+)?}", "x", path)

        assert http.head(url).status_code == http.get(url).status_code, path


def test_head_of_a_stream_ends(http, tenant):
    lease = tenant.running_job()
    head = http.head(f"/v1/jobs/{lease.job_id}/events", headers=STREAM)

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"].startswith("text/event-stream")


def test_head_of_a_route_without_get_is_405(http, tenant):
    response = http.head(f"/v1/jobs/{tenant.queued_job()}/cancel")

    assert response.status_code == 405
    assert response.headers["allow"] == "POST"


def test_an_artifact_has_its_length(http, tenant, tmp_path):
    lease = tenant.running_job()
    contents = tenant.succeed(lease, tmp_path)
    head = http.head(f"/v1/jobs/{lease.job_id}/artifacts/config.json")

    assert head.headers["content-length"] == str(len(contents["config.json"]))


def test_the_icon_is_an_image(http):
    assert http.get("/favicon.ico").headers["content-type"] == "image/svg+xml"

"""The pages as a browser without JavaScript gets them."""

import hashlib
import re

import httpx
import pytest

from api.dashboard import job_list
from api.dashboard.rendering import STATIC_FILES, STATIC_VERSION, static_url
from api.session_cookie import COOKIE_NAME
from core.job_failure import FailureCause
from core.job_warnings import JobWarning
from core.store import jobs, keys

SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def visitor(server):
    """A browser without a session."""
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        yield client


@pytest.fixture
def sign_in(visitor):
    def sign_in_as(tenant):
        response = visitor.post("/login", data={"key": tenant.token}, headers=SAME_ORIGIN)
        assert response.status_code == 303, response.text
        return visitor

    return sign_in_as


@pytest.fixture
def browser(sign_in, tenant):
    """A browser with a session."""
    return sign_in(tenant)


def test_a_visitor_is_redirected_to_sign_in_with_the_next_page(visitor):
    for path, location in (
        ("/jobs", "/login"),
        ("/jobs/job_1", "/login?next=/jobs/job_1"),
        ("/jobs?status=failed", "/login?next=/jobs%3Fstatus%3Dfailed"),
    ):
        response = visitor.get(path)

        assert (response.status_code, response.headers["location"]) == (303, location)


def test_the_front_page_redirects_to_the_job_list(visitor):
    assert visitor.get("/").headers["location"] == "/jobs"


def test_a_key_is_exchanged_for_a_private_cookie(visitor, tenant):
    response = visitor.post(
        "/login", data={"key": f" {tenant.token}\n", "next": "/jobs?status=failed"}, headers=SAME_ORIGIN
    )

    assert (response.status_code, response.headers["location"]) == (303, "/jobs?status=failed")
    cookie = response.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Secure" not in cookie  # plain HTTP
    assert tenant.token not in cookie


@pytest.mark.parametrize(
    "elsewhere", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", "jobs", "/\n/x"]
)
def test_sign_in_never_redirects_to_another_site(visitor, tenant, elsewhere):
    response = visitor.post("/login", data={"key": tenant.token, "next": elsewhere}, headers=SAME_ORIGIN)

    assert response.headers["location"] == "/jobs"


@pytest.mark.parametrize("key", ["", "nope", "ps_" + "0" * 26 + "_" + "0" * 64])
def test_a_wrong_key_shows_an_error_on_the_sign_in_page(visitor, key):
    response = visitor.post("/login", data={"key": key}, headers=SAME_ORIGIN)

    assert response.status_code == 401
    assert "does not exist or was revoked" in response.text
    assert "set-cookie" not in response.headers


def test_cross_site_sign_in_and_sign_out_are_403(visitor, tenant):
    for path in ("/login", "/logout"):
        response = visitor.post(path, data={"key": tenant.token}, headers={"Sec-Fetch-Site": "cross-site"})

        assert response.status_code == 403
        assert "set-cookie" not in response.headers


def test_sign_out_ends_the_session(browser):
    assert browser.get("/jobs").status_code == 200

    browser.post("/logout", headers=SAME_ORIGIN)

    assert browser.get("/jobs").status_code == 303


def test_a_revoked_key_ends_its_sessions_at_once(sign_in, make_tenant, server):
    tenant = make_tenant()
    browser = sign_in(tenant)
    with server.database.write() as session:
        keys.revoke(session, tenant.project_id, tenant.key_id)

    assert browser.get("/jobs").headers["location"] == "/login"


def test_a_session_authenticates_api_requests(browser, tenant):
    job = tenant.queued_job()

    assert browser.get(f"/v1/jobs/{job}").json()["id"] == job


def test_an_empty_list_shows_the_first_commands(browser, server):
    page = browser.get("/jobs").text

    assert "No jobs yet" in page
    assert f"potstill login --url {server.url}" in page


def test_the_list_shows_each_job_with_its_status(browser, tenant, tmp_path):
    queued = tenant.queued_job()
    tenant.succeed(tenant.running_job(), tmp_path)

    page = browser.get("/jobs").text

    assert f'href="/jobs/{queued}"' in page
    assert "Queued" in page
    assert "90.0\u00a0%" in page
    assert "kd · vit_tiny_patch16_224 → vit_tiny_patch16_224" in page


def test_the_list_is_filtered_by_status(browser, tenant, tmp_path):
    queued = tenant.queued_job()
    lease = tenant.running_job()
    tenant.succeed(lease, tmp_path)

    page = browser.get("/jobs?status=succeeded").text

    assert lease.job_id in page
    assert queued not in page
    assert "No failed jobs" in browser.get("/jobs?status=failed").text


def test_the_list_links_to_older_jobs(browser, tenant, monkeypatch):
    monkeypatch.setattr(job_list, "JOBS_PER_PAGE", 2)
    oldest, *_ = [tenant.queued_job() for _ in range(3)]

    first = browser.get("/jobs").text
    older = re.search(r'href="(/jobs\?after=[^"]+)" rel="next"', first)[1]
    second = browser.get(older).text

    assert oldest not in first
    assert oldest in second
    assert 'href="/jobs">Newest' in second


def test_a_running_job_shows_its_progress_and_actions(browser, tenant):
    lease = tenant.running_job()
    tenant.progress(lease, 4)

    page = browser.get(f"/jobs/{lease.job_id}").text

    assert re.findall(r'<form method="post" action="/jobs/job_\w+/(\w+)" data-action>', page) == [
        "pause",
        "stop",
        "cancel",
    ]
    assert 'value="0.4"' in page
    assert "Queued; waiting for a worker." in page
    assert "What went wrong" not in page


def test_a_queued_job_shows_why_it_waits(browser, tenant):
    job_id = tenant.queued_job(accelerator="cuda")

    assert "No cuda worker is alive." in browser.get(f"/jobs/{job_id}").text


def test_a_job_shows_its_warnings(browser, tenant, server):
    lease = tenant.running_job()
    warning = JobWarning(code="teacher_at_chance", field="/teachers/0", message="top-1 is <0.1>", fix="train it longer")
    with server.database.write() as session:
        jobs.add_warnings(session, lease, [warning])

    page = browser.get(f"/jobs/{lease.job_id}").text

    assert "Top-1 is &lt;0.1&gt;. Train it longer." in page
    assert "<code>teacher_at_chance</code> at <code>/teachers/0</code>" in page


def test_a_succeeded_job_shows_the_comparison_and_its_files(browser, tenant, tmp_path):
    lease = tenant.running_job()
    tenant.succeed(lease, tmp_path)

    page = browser.get(f"/jobs/{lease.job_id}").text

    assert "Teacher against student" in page
    assert f"/v1/jobs/{lease.job_id}/artifacts/model.safetensors" in page
    assert f"/v1/jobs/{lease.job_id}/download" in page
    assert 'data-refresh-seconds="0.0"' in page
    assert "data-action><button class" not in page.split('id="confirm-cancel"')[0]


def test_several_teachers_are_numbered_from_zero_as_in_the_spec(browser, tenant, server, tmp_path):
    lease = tenant.running_job()
    tenant.succeed(lease, tmp_path)
    with server.database.write() as session:
        job = jobs.get(session, tenant.project_id, lease.job_id)
        job.result = {**job.result, "teachers": job.result["teachers"] * 2}

    page = browser.get(f"/jobs/{lease.job_id}").text

    assert "Teacher 0</th>" in page
    assert "Teacher 1</th>" in page
    assert "Teacher 2</th>" not in page


def test_a_failed_job_shows_its_error(browser, tenant, server):
    lease = tenant.running_job()
    with server.database.write() as session:
        jobs.fail(session, lease, {"code": "non_finite_loss", "message": "<b>train/kd</b> became NaN"})

    page = browser.get(f"/jobs/{lease.job_id}").text

    assert "What went wrong" in page
    assert "&lt;b&gt;train/kd&lt;/b&gt; became NaN" in page
    assert "non_finite_loss" in page
    assert f'action="/jobs/{lease.job_id}/retry"' in page


def test_a_failed_job_shows_its_fix_and_applies_it(browser, tenant, server, spec_of):
    spec = spec_of(tenant.ready_dataset())
    job_id = tenant.http.post("/v1/jobs", json={**spec, "priority": 100}).json()["id"]
    with server.database.write() as session:
        while (job := jobs.claim(session, worker_id="w", accelerator="cpu", lease_seconds=600)).id != job_id:
            pass  # a job of another test
        machine = {"memory_peak_bytes": 3 * 2**30, "device": None}
        cause = FailureCause("out_of_memory", "too big", "capacity", log=["<i>the last line</i>"], machine=machine)
        error = cause.to_error(spec=job.spec, stage="distill", fraction=0.5, has_checkpoint=False)
        jobs.fail(session, jobs.LeaseToken.from_job(job), error)

    page = browser.get(f"/jobs/{job_id}").text
    assert "fault <code>capacity</code>" in page
    assert "keeps the learning rate" in page
    assert "&lt;i&gt;the last line&lt;/i&gt;" in page
    assert "Peak memory" in page

    response = browser.post(f"/jobs/{job_id}/retry-fixed", headers=SAME_ORIGIN)
    assert (response.status_code, response.headers["location"]) == (303, f"/jobs/{job_id}")
    job = tenant.http.get(f"/v1/jobs/{job_id}").json()
    assert (job["status"], job["spec"]["training"]["batch_size"]) == ("queued", 8)

    response = browser.post(f"/jobs/{job_id}/retry-fixed", headers=SAME_ORIGIN)
    assert response.status_code == 409  # it is queued by now


def test_an_action_is_applied_and_redirects_to_the_job(browser, tenant, server):
    job = tenant.queued_job()

    response = browser.post(f"/jobs/{job}/pause", headers=SAME_ORIGIN)

    assert (response.status_code, response.headers["location"]) == (303, f"/jobs/{job}")
    assert tenant.http.get(f"/v1/jobs/{job}").json()["status"] == "paused"
    assert server.broker.was_sent(f"changed:{job}")


def test_resuming_a_job_wakes_a_worker(browser, tenant, server):
    job = tenant.queued_job()
    browser.post(f"/jobs/{job}/pause", headers=SAME_ORIGIN)
    server.broker.sent.clear()

    browser.post(f"/jobs/{job}/resume", headers=SAME_ORIGIN)

    assert server.broker.was_sent("jobs:auto", f"changed:{job}")


def test_a_rejected_action_is_explained_on_the_page(browser, tenant, tmp_path):
    lease = tenant.running_job()
    tenant.succeed(lease, tmp_path)

    response = browser.post(f"/jobs/{lease.job_id}/cancel", headers=SAME_ORIGIN)

    assert response.status_code == 409
    assert "A job that is succeeded cannot cancel" in response.text
    assert "Teacher against student" in response.text


@pytest.mark.parametrize("headers", [{}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}])
def test_a_cross_site_action_is_403(browser, tenant, headers):
    job = tenant.queued_job()

    response = browser.post(f"/jobs/{job}/cancel", headers=headers)

    assert response.status_code == 403
    assert tenant.http.get(f"/v1/jobs/{job}").json()["status"] == "queued"


def test_a_read_only_key_sees_no_actions(sign_in, make_tenant):
    tenant = make_tenant("read")
    job = tenant.queued_job()
    browser = sign_in(tenant)

    page = browser.get(f"/jobs/{job}").text

    assert "data-action><button class" not in page.split('id="confirm-cancel"')[0]
    assert browser.post(f"/jobs/{job}/cancel", headers=SAME_ORIGIN).status_code == 403


def test_a_job_of_another_project_is_404(browser, make_tenant):
    response = browser.get(f"/jobs/{make_tenant().queued_job()}")

    assert response.status_code == 404
    assert response.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("path", ["/jobs?status=strange", "/jobs?after=nothing", "/jobs/nothing", "/jobs/job_x"])
def test_an_invalid_url_shows_an_error_page(browser, path):
    response = browser.get(path)

    assert response.status_code in {404, 422}
    assert "All jobs" in response.text


def test_pages_have_no_inline_code_and_no_other_origins(browser, tenant, tmp_path):
    lease = tenant.running_job()
    tenant.succeed(lease, tmp_path)
    for path in ("/login", "/jobs", "/jobs/new", f"/jobs/{lease.job_id}", "/workers"):
        page = browser.get(path).text

        assert not re.findall(r"<script(?![^>]*\ssrc=)[^>]*>|<style|\sstyle=|\son\w+=|javascript:", page)
        assert not re.findall(r'(?:src|href|action)="(?:https?:)?//', page)


def test_static_files_are_immutable_under_their_version(visitor):
    now = visitor.get(static_url("job.js"))
    old = visitor.get("/dashboard/static/0000/job.js")

    assert now.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert now.headers["content-type"].startswith("text/javascript")
    assert old.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("name", ["nothing.js", "../endpoints.py", "%2e%2e/endpoints.py", "vendor"])
def test_unknown_static_files_are_404(visitor, name):
    assert visitor.get(f"/dashboard/static/{STATIC_VERSION}/{name}").status_code == 404


def test_the_vendored_libraries_include_their_licenses():
    libraries = {name.split("/")[1] for name in STATIC_FILES if re.match("vendor/.+/", name)}

    assert libraries == {"htm", "js-yaml", "preact", "redoc", "tus", "uplot"}
    for library in libraries:
        assert re.search("MIT|Apache License", STATIC_FILES[f"vendor/{library}/LICENSE.txt"].read_text()), library


def test_the_vendored_files_have_their_recorded_hashes():
    sums = dict(reversed(line.split()) for line in STATIC_FILES["vendor/SHA256SUMS.txt"].read_text().splitlines())
    vendored = {name.removeprefix("vendor/"): path for name, path in STATIC_FILES.items() if name.startswith("vendor/")}
    code = {name: path for name, path in vendored.items() if path.suffix in {".js", ".css"}}

    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in code.items()} == sums


def test_the_cookie_is_secure_behind_https(visitor, tenant, server):
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        headers = {**SAME_ORIGIN, "X-Forwarded-Proto": "https"}
        response = client.post("/login", data={"key": tenant.token}, headers=headers)

    assert "Secure" in response.headers["set-cookie"]
    assert COOKIE_NAME in response.headers["set-cookie"]

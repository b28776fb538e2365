"""The pages of sweeps."""

import httpx
import pytest

from api.dashboard.sweep_pages import compared_jobs, headings, rows
from api.session_cookie import COOKIE_NAME, issue_cookie


@pytest.fixture
def browser(server, tenant):
    cookie = issue_cookie(server.app.state.app_state.cookie_secret, tenant.key_id)
    headers = {"Sec-Fetch-Site": "same-origin"}
    with httpx.Client(
        base_url=server.url, cookies={COOKIE_NAME: cookie}, headers=headers, trust_env=False, timeout=60
    ) as client:
        yield client


def test_a_sweep_is_listed_shown_and_cancelled(browser, tenant, spec_of):
    assert "No sweeps yet" in browser.get("/sweeps").text
    body = {"name": "<tune>", "spec": spec_of(tenant.ready_dataset()), "grid": {"method.temperature": [1.0, 4.0]}}
    sweep = tenant.http.post("/v1/sweeps", json=body).json()

    listed, shown = browser.get("/sweeps").text, browser.get(f"/sweeps/{sweep['id']}").text
    assert "&lt;tune&gt;" in listed
    assert "2 queued" in shown
    assert all(f'href="/jobs/{job["id"]}"' in shown for job in sweep["jobs"])
    assert sweep["jobs"][0]["id"] in browser.get(f"/jobs?sweep={sweep['id']}").text
    assert f'href="/sweeps/{sweep["id"]}"' in browser.get(f"/jobs/{sweep['jobs'][0]['id']}").text
    assert browser.post(f"/sweeps/{sweep['id']}/cancel").headers["location"] == f"/sweeps/{sweep['id']}"
    assert "2 cancelled" in browser.get(f"/sweeps/{sweep['id']}").text


def make_job(number, top1, *compressed):
    student = None if top1 is None else {"top1": top1}
    return {"id": f"job_{number}", "values": {"f": number}, "student": student, "compressed": list(compressed)}


def test_rows_name_the_fronts_of_students_and_compressed_files():
    fronts = {cost: [] for cost in ("parameters", "flops", "latency_ms")}
    fronts["size_bytes"] = [{"job": "job_1", "artifact": "model.int8.onnx"}]
    sweep = {"fields": ["f"], "jobs": [make_job(1, 0.9, {"artifact": "model.int8.onnx"})], "fronts": fronts}

    assert [(row.artifact, row.fronts) for row in rows(sweep)] == [(None, ()), ("model.int8.onnx", ("size",))]
    assert headings(["method.name", "training.epochs", "teachers.0.training.epochs"]) == [
        *("method", "training.epochs", "teachers.0.training.epochs")
    ]


def test_the_best_twenty_jobs_are_compared():
    sweep = {"jobs": [make_job(n, None if n == 3 else n / 100) for n in range(1, 31)]}
    fronts = {cost: [] for cost in ("size_bytes", "parameters", "flops")}
    sweep["fronts"] = {**fronts, "latency_ms": [{"job": "job_1"}]}

    assert compared_jobs(sweep) == ["job_1", *(f"job_{n}" for n in range(12, 31))]

"""The app as a whole: health, the reference, what it needs to start."""

import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]


def get(server, path):
    return httpx.get(f"{server.url}{path}", trust_env=False)


def test_health_and_readiness_need_no_key(server):
    deadline = time.monotonic() + 5
    while get(server, "/readyz").status_code != 200 and time.monotonic() < deadline:
        time.sleep(0.02)

    assert get(server, "/healthz").json() == {"status": "ok"}
    assert get(server, "/readyz").json() == {"status": "ready", "degraded": ["broker", "inspector"]}
    assert httpx.head(f"{server.url}/readyz").status_code == 200


def test_without_an_inspector_the_service_is_not_ready_and_says_so(make_server):
    from core.broker import Broker

    answer = get(make_server(Broker("redis://127.0.0.1:1/0")), "/readyz")

    assert answer.status_code == 503
    assert answer.json()["code"] == "not_ready"
    assert list(answer.json()["missing"]) == ["inspector"]
    assert answer.headers["Retry-After"] == "2"


@pytest.mark.parametrize("path", ["/readyz", "/metrics"])
def test_however_many_ask_without_a_key_one_look_is_made_for_them_all(server, monkeypatch, path):
    looks, ping, lengths = [], server.database.ping, server.hints.queue_lengths

    def slow(look):
        looks.append(1)
        time.sleep(0.3)
        return look()

    monkeypatch.setattr(server.database, "ping", lambda: slow(ping))
    monkeypatch.setattr(server.hints, "queue_lengths", lambda: slow(lengths))
    with ThreadPoolExecutor(60) as pool:
        statuses = {answer.status_code for answer in pool.map(lambda _: get(server, path), range(60))}

    assert statuses == {200}
    assert len(looks) < 10  # two, if they come at the very same moment


def test_prometheus_can_scrape(server, tenant):
    tenant.http.get("/v1/jobs")
    tenant.queued_job()
    text = get(server, "/metrics").text

    assert "# TYPE potstill_http_requests_total counter" in text
    assert 'potstill_http_requests_total{method="GET",operation="list_jobs",status="200"}' in text
    assert 'potstill_jobs{status="queued"}' in text
    assert 'potstill_part_up{part="broker"} 0.0' in text


def test_the_reference_loads_nothing_from_elsewhere(server):
    page = get(server, "/docs")

    assert page.status_code == 200
    assert set(re.findall(r'(?:src|href|action)="((?:https?:)?//[^/"]+)', page.text)) <= {"https://github.com"}
    assert not re.findall(r"url\(|@import|<script", page.text)
    assert "<script" not in page.text
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert 'id="create_job"' in page.text
    assert 'id="schema-JobSpec"' in page.text
    assert 'id="problem-idempotency_key_reused"' in page.text
    assert get(server, "/docs/reference.css").headers["Content-Type"].startswith("text/css")


def test_the_process_starts_without_what_takes_long():
    code = "import sys, api.app; print([m for m in ('torch', 'timm', 'numpy') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("path", ["/v1/uploads", "/v1/sweeps", "/v1/webhooks", "/v1/jobs/", "/v1"])
def test_what_is_not_built_yet_is_not_there(http, path):
    answer = http.get(path)

    assert answer.status_code == 404
    assert answer.json()["code"] == "not_found"

"""The complete app: health probes, metrics, the docs page, start-up."""

import re
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from core.store import jobs


def get(server, path):
    return httpx.get(f"{server.url}{path}", trust_env=False, timeout=30)


def test_health_and_readiness_need_no_key(server):
    deadline = time.monotonic() + 5
    while get(server, "/readyz").status_code != 200 and time.monotonic() < deadline:
        time.sleep(0.02)

    assert get(server, "/healthz").json() == {"status": "ok"}
    assert get(server, "/readyz").json() == {"status": "ready", "degraded": ["broker", "inspector"]}
    assert httpx.head(f"{server.url}/readyz").status_code == 200


def test_the_service_is_not_ready_without_an_inspector(make_server):
    from core.broker import Broker

    response = get(make_server(Broker("redis://127.0.0.1:1/0")), "/readyz")

    assert response.status_code == 503
    assert response.json()["code"] == "not_ready"
    assert list(response.json()["missing"]) == ["inspector"]
    assert response.headers["Retry-After"] == "2"


@pytest.mark.parametrize("path", ["/readyz", "/metrics"])
def test_concurrent_probes_share_one_check(server, monkeypatch, path):
    calls, ping, lengths = [], server.database.ping, server.broker.queue_lengths

    def slow(check):
        calls.append(1)
        time.sleep(0.3)
        return check()

    monkeypatch.setattr(server.database, "ping", lambda: slow(ping))
    monkeypatch.setattr(server.broker, "queue_lengths", lambda: slow(lengths))
    with ThreadPoolExecutor(60) as pool:
        statuses = {response.status_code for response in pool.map(lambda _: get(server, path), range(60))}

    assert statuses == {200}
    assert len(calls) < 10  # two if all requests arrive at once


def test_metrics_are_exposed_to_prometheus(server, tenant):
    tenant.http.get("/v1/jobs")
    tenant.queued_job()
    text = get(server, "/metrics").text
    with server.database.read() as session:
        counts = jobs.count_unfinished(session)

    assert "# TYPE potstill_http_requests_total counter" in text
    assert 'potstill_http_requests_total{method="GET",operation="list_jobs",status="200"}' in text
    assert 'potstill_jobs{status="queued"}' in text
    for (status, accelerator), number in counts.items():
        assert f'potstill_unfinished_jobs{{accelerator="{accelerator}",status="{status}"}} {float(number)}\n' in text
    assert counts["queued", "auto"] >= 1
    ages = dict(re.findall(r'potstill_queue_age_seconds\{accelerator="(\w+)"\} (\S+)', text))
    assert set(ages) == {"auto", "cpu", "cuda"}
    assert all(float(age) >= 0 for age in ages.values())  # jobs of other tests may be queued
    assert 'potstill_part_up{part="broker"} 0.0' in text


def test_the_docs_page_loads_nothing_from_other_origins(server):
    page = get(server, "/docs")

    assert page.status_code == 200
    assert set(re.findall(r'(?:src|href|action)="((?:https?:)?//[^/"]+)', page.text)) <= {"https://github.com"}
    assert not re.findall(r"\burl\(|@import|<script", page.text)
    assert "<script" not in page.text
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert 'id="create_job"' in page.text
    assert 'id="schema-JobSpec"' in page.text
    assert 'id="problem-idempotency_key_reused"' in page.text
    assert get(server, "/docs/reference.css").headers["Content-Type"].startswith("text/css")


@pytest.mark.parametrize("path", ["/v1/jobs/", "/v1"])
def test_unimplemented_routes_are_404(http, path):
    response = http.get(path)

    assert response.status_code == 404
    assert response.json()["code"] == "not_found"

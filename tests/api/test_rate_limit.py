"""Requests per minute of a key, with a real Valkey."""

import time
from functools import partial

import anyio
import httpx
import pytest
from fastapi import APIRouter
from fastapi.routing import iter_route_contexts

import api.app
from api.deps import Reader
from api.rate_limit import CLASSES, RateLimiter, declared_rate_class, rate_class
from api.request_body import no_body
from core.errors import RateLimited
from core.settings import Settings

SETTINGS = {name: f"rate_{name}_per_minute" for name in CLASSES} | {"questions": "rate_inspector_per_minute"}
LIMITS = dict.fromkeys(SETTINGS.values(), 3)


@pytest.fixture(scope="module")
def limited(make_server, module_valkey):
    """A server that allows three requests of each class per minute."""
    return make_server(broker_url=module_valkey.url, **LIMITS)


@pytest.fixture
def key(make_tenant, limited):
    return make_tenant(on=limited)


def statuses(call, times=5):
    return [call().status_code for _ in range(times)]


def test_each_rate_class_has_its_own_limit(key, spec_of):
    job, dataset = key.queued_job(), key.ready_dataset()
    calls = {
        "reads": partial(key.http.get, "/v1/jobs"),
        "writes": partial(key.http.post, f"/v1/jobs/{job}/pause"),
        "jobs": partial(key.http.post, "/v1/jobs", json=spec_of(dataset)),
        "uploads": partial(key.http.post, "/v1/datasets", json={"source": {"type": "builtin", "name": "digits"}}),
        "questions": partial(key.http.post, "/v1/estimates", json=spec_of(dataset)),
    }
    assert set(calls) == set(CLASSES)

    for name, call in calls.items():
        first = statuses(call, 3)
        assert all(status < 300 for status in first), (name, first)
        assert statuses(call, 2) == [429, 429], name


def test_the_429_names_the_limit_and_the_waiting_time(key):
    statuses(partial(key.http.get, "/v1/methods"), 3)
    response = key.http.get("/v1/methods")
    problem = response.json()

    assert response.headers["Content-Type"] == "application/problem+json"
    assert (problem["status"], problem["code"]) == (429, "rate_limited")
    assert "3 reads a minute" in problem["detail"]
    wait = int(response.headers["Retry-After"])
    assert problem["retry_after_seconds"] == wait
    assert 15 <= wait <= 20  # a third of a minute


def test_sign_in_and_sign_out_count_as_writes(key, limited):
    """Each adds an audit log entry, so a key with the scope `read` could otherwise fill the log."""
    with httpx.Client(base_url=limited.url, headers={"Sec-Fetch-Site": "same-origin"}, trust_env=False) as browser:
        received = statuses(partial(browser.post, "/login", data={"key": key.token}), 2)
        received += statuses(partial(browser.post, "/logout"), 1)
        received += statuses(partial(browser.post, "/login", data={"key": key.token}), 2)

    assert received == [303, 303, 303, 429, 429]


def test_polling_one_job_counts_as_reads(key):
    job = key.queued_job()

    assert statuses(partial(key.http.get, f"/v1/jobs/{job}"), 5) == [200, 200, 200, 429, 429]


def test_keys_have_separate_limits(key, make_tenant, limited):
    statuses(partial(key.http.get, "/v1/jobs"))
    other = make_tenant(on=limited)

    assert other.http.get("/v1/jobs").status_code == 200


def test_all_processes_share_a_limit(key, make_server, make_tenant, module_valkey, limited):
    other = make_server(broker_url=module_valkey.url, database_url=str(limited.database.engine.url), **LIMITS)
    first = statuses(partial(key.http.get, "/v1/jobs"), 2)
    with type(key.http)(base_url=other.url, headers=key.http.headers, trust_env=False) as other_client:
        second = statuses(partial(other_client.get, "/v1/jobs"), 3)

    assert (first, second) == ([200, 200], [200, 429, 429])


def test_a_dashboard_page_is_limited_too(key, limited):
    statuses(partial(key.http.get, "/v1/jobs"))
    response = key.http.get("/jobs")

    assert response.status_code == 429
    assert response.headers["content-type"].startswith("text/html")
    assert int(response.headers["Retry-After"]) >= 1


def test_every_v1_route_declares_a_rate_class(server):
    routes = [route for route in iter_route_contexts(server.app.routes) if route.path.startswith("/v1/")]

    assert len(routes) >= 30
    assert {declared_rate_class(route.endpoint) for route in routes} == set(CLASSES)


async def undeclared(_: Reader):
    """An endpoint without a rate class."""


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/things"), ("POST", "/v1/things"), ("GET", "/things")])
def test_a_route_without_a_rate_class_fails_at_start_up(server, monkeypatch, method, path):
    router = APIRouter()
    router.add_api_route(path, undeclared, methods=[method])
    monkeypatch.setattr(api.app, "_ROUTERS", (*api.app._ROUTERS, router))

    with pytest.raises(RuntimeError, match=rf"{method} {path} \(undeclared\) declares no rate class; .*@rate_class"):
        api.app.create_app(server.settings, server.database, server.store, server.broker)


def test_a_route_with_declarations_is_accepted(server, monkeypatch):
    router = APIRouter()

    @router.post("/v1/things")
    @rate_class("writes")
    @no_body
    async def create_thing(_: Reader):
        """An endpoint with all declarations."""

    monkeypatch.setattr(api.app, "_ROUTERS", (*api.app._ROUTERS, router))

    api.app.create_app(server.settings, server.database, server.store, server.broker)


def run(work, url, **limits):
    async def run_and_close():
        limiter = RateLimiter(Settings(broker_url=url, **limits))
        try:
            return await work(limiter)
        finally:
            await limiter.aclose()

    return anyio.run(run_and_close)


def test_a_bucket_fills_steadily(valkey):
    async def work(limiter):
        await spend_600(limiter)
        # Meanwhile the bucket has filled by ten tokens a second: a few more requests pass, then none.
        with pytest.raises(RateLimited) as caught:
            await spend_600(limiter)
        assert caught.value.extra["retry_after_seconds"] == 1
        await anyio.sleep(caught.value.extra["retry_after_seconds"])
        await limiter.require("key_a", "writes")

    run(work, valkey.url, rate_writes_per_minute=600)


async def spend_600(limiter):
    for _ in range(600):
        await limiter.require("key_a", "writes")


def test_reads_draw_at_most_once_per_second(valkey):
    async def work(limiter):
        calls = []
        draw = limiter._draw

        async def count_calls(*arguments):
            calls.append(arguments)
            return await draw(*arguments)

        limiter._draw = count_calls
        for _ in range(2500):
            if not limiter.try_spend("key_a", "reads"):
                await limiter.require("key_a", "reads")
        return len(calls)

    assert run(work, valkey.url, rate_reads_per_minute=60_000) == 3


def test_concurrent_requests_draw_one_after_another(valkey):
    async def work(limiter):
        async with anyio.create_task_group() as group:
            for _ in range(64):
                group.start_soon(limiter.require, "key_a", "reads")
        return limiter._local["reads"]["key_a"].count

    assert run(work, valkey.url, rate_reads_per_minute=60_000) == 1000 - 64


def test_without_a_limit_valkey_is_not_needed():
    async def work(limiter):
        return [limiter.try_spend("key_a", name) for name in CLASSES]

    assert run(work, "redis://127.0.0.1:1/0", **dict.fromkeys(LIMITS, 0)) == [True] * len(CLASSES)


@pytest.mark.parametrize("failure", ["freeze", "kill"])
def test_without_valkey_requests_pass_without_delay(valkey, failure):
    async def work(limiter):
        await limiter.require("key_a", "writes")
        getattr(valkey, failure)()
        started_at = time.monotonic()
        for _ in range(50):
            await limiter.require("key_a", "writes")
        return time.monotonic() - started_at

    seconds = run(work, valkey.url, rate_writes_per_minute=2)
    if failure == "freeze":
        valkey.thaw()

    assert seconds < 1.0  # only one request waits for the timeout

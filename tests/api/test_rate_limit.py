"""How much a key may ask in a minute, with a real Valkey."""

import time
from functools import partial

import anyio
import httpx
import pytest

from api.rate_limit import CLASS_OF, CLASSES, Rates
from core.errors import RateLimited
from core.settings import Settings

LIMITS = {f"rate_{kind}_per_minute": 3 for kind in CLASSES}


@pytest.fixture(scope="module")
def limited(make_server, module_valkey):
    """A server that allows three requests of each class in a minute."""
    return make_server(broker_url=module_valkey.url, **LIMITS)


@pytest.fixture
def key(make_tenant, limited):
    return make_tenant(of=limited)


def statuses(call, times=5):
    return [call().status_code for _ in range(times)]


def test_the_classes_of_routes_are_limited_each_by_itself(key, spec_of):
    job, dataset = key.queued_job(), key.ready_dataset()
    calls = {
        "reads": partial(key.http.get, "/v1/jobs"),
        "writes": partial(key.http.post, f"/v1/jobs/{job}/pause"),
        "jobs": partial(key.http.post, "/v1/jobs", json=spec_of(dataset)),
        "uploads": partial(key.http.post, "/v1/datasets", json={"source": {"type": "builtin", "name": "digits"}}),
        "questions": partial(key.http.post, "/v1/estimates", json=spec_of(dataset)),
    }
    assert set(calls) == set(CLASSES)

    for kind, call in calls.items():
        first = statuses(call, 3)
        assert all(status < 300 for status in first), (kind, first)
        assert statuses(call, 2) == [429, 429], kind


def test_the_refusal_says_what_is_limited_and_for_how_long(key):
    statuses(partial(key.http.get, "/v1/methods"), 3)
    answer = key.http.get("/v1/methods")
    problem = answer.json()

    assert answer.headers["Content-Type"] == "application/problem+json"
    assert (problem["status"], problem["code"]) == (429, "rate_limited")
    assert "3 reads a minute" in problem["detail"]
    wait = int(answer.headers["Retry-After"])
    assert problem["retry_after_seconds"] == wait
    assert 15 <= wait <= 20  # a third of a minute


def test_signing_in_and_out_counts_as_writes(key, limited):
    """Each leaves an entry in the audit log, so whoever may only read could fill it."""
    with httpx.Client(base_url=limited.url, headers={"Sec-Fetch-Site": "same-origin"}, trust_env=False) as browser:
        found = statuses(partial(browser.post, "/login", data={"key": key.token}), 2)
        found += statuses(partial(browser.post, "/logout"), 1)
        found += statuses(partial(browser.post, "/login", data={"key": key.token}), 2)

    assert found == [303, 303, 303, 429, 429]


def test_polling_one_job_counts_as_reads(key):
    job = key.queued_job()

    assert statuses(partial(key.http.get, f"/v1/jobs/{job}"), 5) == [200, 200, 200, 429, 429]


def test_another_key_is_not_held_up(key, make_tenant, limited):
    statuses(partial(key.http.get, "/v1/jobs"))
    other = make_tenant(of=limited)

    assert other.http.get("/v1/jobs").status_code == 200


def test_all_processes_share_a_limit(key, make_server, make_tenant, module_valkey, limited):
    other = make_server(broker_url=module_valkey.url, database_url=str(limited.database.engine.url), **LIMITS)
    here, there = statuses(partial(key.http.get, "/v1/jobs"), 2), []
    with type(key.http)(base_url=other.url, headers=key.http.headers, trust_env=False) as elsewhere:
        there = statuses(partial(elsewhere.get, "/v1/jobs"), 3)

    assert (here, there) == ([200, 200], [200, 429, 429])


def test_a_page_of_the_dashboard_says_so_too(key, limited):
    statuses(partial(key.http.get, "/v1/jobs"))
    answer = key.http.get("/jobs")

    assert answer.status_code == 429
    assert answer.headers["content-type"].startswith("text/html")
    assert int(answer.headers["Retry-After"]) >= 1


def test_what_is_named_is_a_route(app_routes):
    assert set(CLASS_OF) <= {route.endpoint for route in app_routes}


def run(work, url, **limits):
    async def through():
        rates = Rates(Settings(broker_url=url, **limits))
        try:
            return await work(rates)
        finally:
            await rates.aclose()

    return anyio.run(through)


def test_a_bucket_fills_steadily(valkey):
    async def work(rates):
        for _ in range(600):
            await rates.require("key_a", "writes")
        # They took a moment, in which it filled by ten tokens a second: a few more, and then none.
        with pytest.raises(RateLimited) as refused:
            await spend_all(rates)
        assert refused.value.extra["retry_after_seconds"] == 1
        await anyio.sleep(refused.value.extra["retry_after_seconds"])
        await rates.require("key_a", "writes")

    run(work, valkey.url, rate_writes_per_minute=600)


async def spend_all(rates):
    for _ in range(600):
        await rates.require("key_a", "writes")


def test_reads_go_to_valkey_once_a_second_at_most(valkey):
    async def work(rates):
        drawn = []
        draw = rates._draw

        async def counted(*arguments):
            drawn.append(arguments)
            return await draw(*arguments)

        rates._draw = counted
        for _ in range(2500):
            if not rates.spend("key_a", "reads"):
                await rates.require("key_a", "reads")
        return len(drawn)

    assert run(work, valkey.url, rate_reads_per_minute=60_000) == 3


def test_many_at_once_draw_one_after_another(valkey):
    async def work(rates):
        async with anyio.create_task_group() as group:
            for _ in range(64):
                group.start_soon(rates.require, "key_a", "reads")
        return rates._stocks["reads"]["key_a"].tokens

    assert run(work, valkey.url, rate_reads_per_minute=60_000) == 1000 - 64


def test_no_limit_asks_nobody():
    async def work(rates):
        return [rates.spend("key_a", kind) for kind in CLASSES]

    assert run(work, "redis://127.0.0.1:1/0", **dict.fromkeys(LIMITS, 0)) == [True] * len(CLASSES)


@pytest.mark.parametrize("harm", ["freeze", "kill"])
def test_without_valkey_everything_is_let_through_and_soon(valkey, harm):
    async def work(rates):
        await rates.require("key_a", "writes")
        getattr(valkey, harm)()
        began = time.monotonic()
        for _ in range(50):
            await rates.require("key_a", "writes")
        return time.monotonic() - began

    took = run(work, valkey.url, rate_writes_per_minute=2)
    if harm == "freeze":
        valkey.thaw()

    assert took < 1.0  # one of them waits for the time-out, the others do not ask

"""Event streams and long polls, over a real broker, and without one."""

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import httpx
import pytest

from api.jobs import stream
from api.jobs.stream import look
from core.broker import Broker
from core.errors import NotFound
from core.store import events, jobs, keys
from core.store.db import DatabaseUnavailable


@pytest.fixture(scope="module")
def broker_server(make_server, module_valkey):
    return make_server(Broker(module_valkey.url), broker_url=module_valkey.url)


@pytest.fixture
def live(make_tenant, broker_server):
    """A project on a server with a broker."""
    return make_tenant(of=broker_server)


def read_stream(client, path, headers=None):
    """Every message of a stream until it ends by itself: (id, event, data)."""
    found, message = [], {}
    with client.stream("GET", path, headers={"Accept": "text/event-stream", **(headers or {})}) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                message[name] = value
            else:
                if "data" in message:
                    found.append((int(message["id"]), message["event"], json.loads(message["data"])))
                message = {}
    return found


def say(tenant, attempt, text):
    with tenant.database.write() as session:
        events.append(session, attempt, "test.said", text)
    tenant.server.hints.publish_job_change(attempt.job_id)


class TestEventStream:
    def test_the_stream_of_a_job_that_has_ended_holds_its_log_and_ends(self, http, tenant):
        job = f"/v1/jobs/{tenant.queued_job()}"
        http.post(f"{job}/pause")
        http.post(f"{job}/cancel")
        found = read_stream(http, f"{job}/events")

        assert [seq for seq, _, _ in found] == [1, 2, 3]
        assert [kind for _, kind, _ in found] == ["job.created", "job.paused", "job.cancelled"]
        assert [data for _, _, data in found] == http.get(f"{job}/events").json()["data"]

    def test_it_goes_on_after_the_last_event_that_was_seen(self, http, tenant):
        job = f"/v1/jobs/{tenant.queued_job()}"
        http.post(f"{job}/pause")
        http.post(f"{job}/cancel")

        assert [seq for seq, _, _ in read_stream(http, f"{job}/events", {"Last-Event-ID": "2"})] == [3]

    def test_it_goes_on_where_it_was_when_a_database_that_was_away_is_back(self, http, tenant, monkeypatch):
        job = tenant.queued_job()
        looks = []

        def away_at_first(*arguments):
            looks.append(arguments)
            if len(looks) == 1:
                raise DatabaseUnavailable("The database cannot be reached.")
            return look(*arguments)

        monkeypatch.setattr(stream, "look", away_at_first)
        http.post(f"/v1/jobs/{job}/cancel")

        assert [seq for seq, _, _ in read_stream(http, f"/v1/jobs/{job}/events")] == [1, 2]

    def test_it_ends_where_its_job_is_deleted(self, http, tenant, monkeypatch):
        job = tenant.queued_job()

        def deleted(*_):
            raise NotFound("There is no such job.")

        monkeypatch.setattr(stream, "look", deleted)

        assert read_stream(http, f"/v1/jobs/{job}/events") == []

    def test_whoever_has_seen_it_all_is_told_not_to_come_again(self, http, tenant):
        job = f"/v1/jobs/{tenant.queued_job()}"
        http.post(f"{job}/cancel")
        answer = http.get(f"{job}/events", headers={"Accept": "text/event-stream", "Last-Event-ID": "2"})

        assert answer.status_code == 204

    @pytest.mark.parametrize("place", ["x", "-1", "1.5", "9" * 20, "²"])
    def test_a_place_that_is_none_is_422(self, http, tenant, place):
        headers = {"Accept": "text/event-stream", "Last-Event-ID": place.encode("latin-1", "replace")}

        assert http.get(f"/v1/jobs/{tenant.queued_job()}/events", headers=headers).status_code == 422

    def test_a_job_that_is_not_there_is_404_before_the_stream_begins(self, http):
        answer = http.get(f"/v1/jobs/job_{'0' * 26}/events", headers={"Accept": "text/event-stream"})

        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")

    def test_events_arrive_while_they_happen(self, live):
        attempt = live.running_job()
        seen = []

        def follow():
            path = f"/v1/jobs/{attempt.job_id}/events"
            with live.http.stream("GET", path, headers={"Accept": "text/event-stream"}) as answer:
                for line in answer.iter_lines():
                    if line.startswith("data: "):
                        seen.append((time.monotonic(), json.loads(line[6:])))

        follower = threading.Thread(target=follow)
        follower.start()
        deadline = time.monotonic() + 5
        while len(seen) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        said_at = []
        for number in range(5):
            said_at.append(time.monotonic())
            say(live, attempt, f"number {number}")
        with live.database.write() as session:
            jobs.fail(session, attempt, {"code": "test", "message": "over"})
        live.server.hints.publish_job_change(attempt.job_id)
        follower.join(10)

        assert not follower.is_alive()
        assert [event["seq"] for _, event in seen] == list(range(1, 9))
        assert seen[2][0] - said_at[0] < 1.0
        assert seen[-1][1]["type"] == "job.failed"

    @pytest.mark.parametrize("end", ["revoked", "expired"])
    def test_it_ends_with_the_key_that_it_was_asked_for_with(self, live, broker_server, end):
        attempt = live.running_job()
        with live.database.write() as session:
            other = keys.create(session, live.project_id, name="lost", scopes=["read"])
            key_id, token = other.key.id, other.token
        headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}
        with httpx.Client(base_url=broker_server.url, headers=headers, timeout=20, trust_env=False) as client:
            with client.stream("GET", f"/v1/jobs/{attempt.job_id}/events") as answer:
                lines = answer.iter_lines()
                while not next(lines).startswith("data: "):
                    pass
                with live.database.write() as session:
                    if end == "revoked":
                        keys.revoke(session, live.project_id, key_id)
                    else:
                        keys.get(session, live.project_id, key_id).expires_at = datetime.now(UTC)
                say(live, attempt, "not for you")
                rest = "".join(lines)  # it ends by itself, though the job goes on

            assert "not for you" not in rest
            assert client.get(f"/v1/jobs/{attempt.job_id}/events").status_code == 401

    def test_many_readers_miss_nothing(self, live, broker_server):
        attempt = live.running_job()
        path = f"/v1/jobs/{attempt.job_id}/events"

        def read(_):
            with httpx.Client(base_url=broker_server.url, headers=live.http.headers, timeout=60) as client:
                return [seq for seq, _, _ in read_stream(client, path)]

        with ThreadPoolExecutor(20) as pool:
            reading = [pool.submit(read, k) for k in range(20)]
            for number in range(30):
                say(live, attempt, str(number))
            with live.database.write() as session:
                jobs.fail(session, attempt, {"code": "test", "message": "over"})
            live.server.hints.publish_job_change(attempt.job_id)
            found = [future.result(20) for future in reading]

        assert found == [list(range(1, 34))] * 20


class TestWait:
    def test_it_answers_as_soon_as_the_job_has_ended(self, live):
        attempt = live.running_job()
        with ThreadPoolExecutor(1) as pool:
            began = time.monotonic()
            waiting = pool.submit(live.http.get, f"/v1/jobs/{attempt.job_id}?wait=20")
            time.sleep(0.3)
            with live.database.write() as session:
                jobs.fail(session, attempt, {"code": "test", "message": "over"})
            live.server.hints.publish_job_change(attempt.job_id)
            answer = waiting.result(20).json()

        assert (answer["status"], answer["error"]["code"]) == ("failed", "test")
        assert time.monotonic() - began < 15  # of the 20 s that it might have waited

    def test_it_answers_in_time_when_nothing_happens(self, live):
        job, began = live.queued_job(), time.monotonic()
        answer = live.http.get(f"/v1/jobs/{job}?wait=0.5")

        assert answer.json()["status"] == "queued"
        assert time.monotonic() - began >= 0.5

    def test_without_a_broker_it_looks_by_itself(self, http, tenant):
        job = tenant.queued_job()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(http.get, f"/v1/jobs/{job}?wait=20")
            time.sleep(0.2)
            began = time.monotonic()
            with tenant.database.write() as session:
                jobs.cancel(session, tenant.project_id, job)
            answer = waiting.result(20).json()

        assert answer["status"] == "cancelled"
        assert time.monotonic() - began < 15  # of the 20 s that it might have waited

    @pytest.mark.parametrize("wait", ["61", "-1", "x", "nan", "inf", "1e400"])
    def test_a_time_out_of_range_is_422(self, http, tenant, wait):
        assert http.get(f"/v1/jobs/{tenant.queued_job()}?wait={wait}").status_code == 422

    def test_two_hundred_may_wait_and_nobody_else_notices(self, live, broker_server):
        attempt = live.running_job()
        path = f"/v1/jobs/{attempt.job_id}?wait=50"
        limits = httpx.Limits(max_connections=None)

        async def wait_all():
            async with httpx.AsyncClient(
                base_url=broker_server.url, headers=live.http.headers, timeout=60, limits=limits, trust_env=False
            ) as client:
                waiting = [asyncio.ensure_future(client.get(path)) for _ in range(200)]
                await asyncio.sleep(1.0)
                fine = await client.get("/v1/jobs?limit=1")
                answered = sum(one.done() for one in waiting)
                with live.database.write() as session:
                    jobs.fail(session, attempt, {"code": "test", "message": "over"})
                live.server.hints.publish_job_change(attempt.job_id)
                return fine.status_code, answered, [(await one).json()["status"] for one in waiting]

        status, answered, answers = asyncio.run(wait_all())

        assert (status, answers) == (200, ["failed"] * 200)
        assert answered == 0  # the list did not have to queue behind those who wait

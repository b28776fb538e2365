"""Event streams and long polls, with a real broker and without a broker."""

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from api.jobs import stream
from api.jobs.stream import read_events
from core.broker import Broker
from core.errors import NotFound
from core.store import events, jobs, keys
from core.store.db import DatabaseUnavailable


@pytest.fixture(scope="module")
def broker_server(make_server, module_valkey):
    return make_server(Broker(module_valkey.url), broker_url=module_valkey.url)


@pytest.fixture
def broker_tenant(make_tenant, broker_server):
    """A project on a server with a broker."""
    return make_tenant(on=broker_server)


def read_stream(client, path, headers=None):
    """Read a stream until it ends; return its messages as (id, event, data)."""
    found, message = [], {}
    with client.stream("GET", path, headers={"Accept": "text/event-stream", **(headers or {})}) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["Content-Type"].startswith("text/event-stream")
        for line in response.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                message[name] = value
            else:
                if "data" in message:
                    found.append((int(message["id"]), message["event"], json.loads(message["data"])))
                message = {}
    return found


def append_event(tenant, lease, text):
    with tenant.database.write() as session:
        events.append(session, lease, "test.event", text)
    tenant.server.broker.publish_job_change(lease.job_id)


class TestEventStream:
    def test_the_stream_of_an_ended_job_has_all_events_and_ends(self, http, tenant):
        job = f"/v1/jobs/{tenant.queued_job()}"
        http.post(f"{job}/pause")
        http.post(f"{job}/cancel")
        found = read_stream(http, f"{job}/events")

        assert [seq for seq, _, _ in found] == [1, 2, 3]
        assert [kind for _, kind, _ in found] == ["job.created", "job.paused", "job.cancelled"]
        assert [data for _, _, data in found] == http.get(f"{job}/events").json()["data"]

    def test_it_continues_after_the_last_event_id(self, http, tenant):
        job = f"/v1/jobs/{tenant.queued_job()}"
        http.post(f"{job}/pause")
        http.post(f"{job}/cancel")

        assert [seq for seq, _, _ in read_stream(http, f"{job}/events", {"Last-Event-ID": "2"})] == [3]

    def test_it_continues_after_a_database_outage(self, http, tenant, monkeypatch):
        job = tenant.queued_job()
        calls = []

        def fail_once(*arguments):
            calls.append(arguments)
            if len(calls) == 1:
                raise DatabaseUnavailable("The database cannot be reached.")
            return read_events(*arguments)

        monkeypatch.setattr(stream, "read_events", fail_once)
        http.post(f"/v1/jobs/{job}/cancel")

        assert [seq for seq, _, _ in read_stream(http, f"/v1/jobs/{job}/events")] == [1, 2]

    def test_it_ends_when_the_job_is_deleted(self, http, tenant, monkeypatch):
        job = tenant.queued_job()

        def deleted(*_):
            raise NotFound("There is no such job.")

        monkeypatch.setattr(stream, "read_events", deleted)

        assert read_stream(http, f"/v1/jobs/{job}/events") == []

    def test_a_reconnect_after_the_last_event_is_204(self, http, tenant):
        job = f"/v1/jobs/{tenant.queued_job()}"
        http.post(f"{job}/cancel")
        response = http.get(f"{job}/events", headers={"Accept": "text/event-stream", "Last-Event-ID": "2"})

        assert response.status_code == 204

    @pytest.mark.parametrize("last_event_id", ["x", "-1", "1.5", "9" * 20, "²"])
    def test_an_invalid_last_event_id_is_422(self, http, tenant, last_event_id):
        headers = {"Accept": "text/event-stream", "Last-Event-ID": last_event_id.encode("latin-1", "replace")}

        assert http.get(f"/v1/jobs/{tenant.queued_job()}/events", headers=headers).status_code == 422

    def test_an_unknown_job_is_404(self, http):
        response = http.get(f"/v1/jobs/job_{'0' * 26}/events", headers={"Accept": "text/event-stream"})

        assert (response.status_code, response.json()["code"]) == (404, "not_found")

    def test_events_arrive_live(self, broker_tenant):
        lease = broker_tenant.running_job()
        seen = []

        def follow():
            path = f"/v1/jobs/{lease.job_id}/events"
            with broker_tenant.http.stream("GET", path, headers={"Accept": "text/event-stream"}) as response:
                for line in response.iter_lines():
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
            append_event(broker_tenant, lease, f"number {number}")
        with broker_tenant.database.write() as session:
            jobs.fail(session, lease, {"code": "test", "message": "over"})
        broker_tenant.server.broker.publish_job_change(lease.job_id)
        follower.join(10)

        assert not follower.is_alive()
        assert [event["seq"] for _, event in seen] == list(range(1, 9))
        assert seen[2][0] - said_at[0] < 1.0
        assert seen[-1][1]["type"] == "job.failed"

    @pytest.mark.parametrize("end", ["revoked", "expired"])
    def test_it_ends_when_its_key_becomes_invalid(self, broker_tenant, broker_server, end):
        lease = broker_tenant.running_job()
        with broker_tenant.database.write() as session:
            other = keys.create(session, broker_tenant.project_id, name="lost", scopes=["read"])
            key_id, token = other.key.id, other.token
        a_minute_ago = datetime.now(UTC) - timedelta(minutes=1)  # a read may have looked at the clock before
        headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}
        with httpx.Client(base_url=broker_server.url, headers=headers, timeout=20, trust_env=False) as client:
            with client.stream("GET", f"/v1/jobs/{lease.job_id}/events") as response:
                lines = response.iter_lines()
                while not next(lines).startswith("data: "):
                    pass
                with broker_tenant.database.write() as session:
                    if end == "revoked":
                        keys.revoke(session, broker_tenant.project_id, key_id)
                    else:
                        keys.get(session, broker_tenant.project_id, key_id).expires_at = a_minute_ago
                append_event(broker_tenant, lease, "not for you")
                rest = "".join(lines)  # the stream ends although the job is running

            assert "not for you" not in rest
            assert client.get(f"/v1/jobs/{lease.job_id}/events").status_code == 401

    def test_concurrent_readers_get_all_events(self, broker_tenant, broker_server):
        lease = broker_tenant.running_job()
        path = f"/v1/jobs/{lease.job_id}/events"

        def read(_):
            with httpx.Client(base_url=broker_server.url, headers=broker_tenant.http.headers, timeout=60) as client:
                return [seq for seq, _, _ in read_stream(client, path)]

        with ThreadPoolExecutor(20) as pool:
            futures = [pool.submit(read, k) for k in range(20)]
            for number in range(30):
                append_event(broker_tenant, lease, str(number))
            with broker_tenant.database.write() as session:
                jobs.fail(session, lease, {"code": "test", "message": "over"})
            broker_tenant.server.broker.publish_job_change(lease.job_id)
            found = [future.result(20) for future in futures]

        assert found == [list(range(1, 34))] * 20


class TestWait:
    def test_it_responds_when_the_job_has_ended(self, broker_tenant):
        lease = broker_tenant.running_job()
        with ThreadPoolExecutor(1) as pool:
            started_at = time.monotonic()
            waiting = pool.submit(broker_tenant.http.get, f"/v1/jobs/{lease.job_id}?wait=20")
            time.sleep(0.3)
            with broker_tenant.database.write() as session:
                jobs.fail(session, lease, {"code": "test", "message": "over"})
            broker_tenant.server.broker.publish_job_change(lease.job_id)
            response = waiting.result(20).json()

        assert (response["status"], response["error"]["code"]) == ("failed", "test")
        assert time.monotonic() - started_at < 15  # of at most 20 s

    def test_it_responds_after_the_timeout(self, broker_tenant):
        job, started_at = broker_tenant.queued_job(), time.monotonic()
        response = broker_tenant.http.get(f"/v1/jobs/{job}?wait=0.5")

        assert response.json()["status"] == "queued"
        assert time.monotonic() - started_at >= 0.5

    def test_without_a_broker_it_polls_the_database(self, http, tenant):
        job = tenant.queued_job()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(http.get, f"/v1/jobs/{job}?wait=20")
            time.sleep(0.2)
            started_at = time.monotonic()
            with tenant.database.write() as session:
                jobs.cancel(session, tenant.project_id, job)
            response = waiting.result(20).json()

        assert response["status"] == "cancelled"
        assert time.monotonic() - started_at < 15  # of at most 20 s

    @pytest.mark.parametrize("wait", ["61", "-1", "x", "nan", "inf", "1e400"])
    def test_an_invalid_wait_is_422(self, http, tenant, wait):
        assert http.get(f"/v1/jobs/{tenant.queued_job()}?wait={wait}").status_code == 422

    def test_200_waiting_requests_do_not_delay_others(self, broker_tenant, broker_server):
        lease = broker_tenant.running_job()
        path = f"/v1/jobs/{lease.job_id}?wait=50"
        limits = httpx.Limits(max_connections=None)

        async def wait_all():
            async with httpx.AsyncClient(
                base_url=broker_server.url,
                headers=broker_tenant.http.headers,
                timeout=60,
                limits=limits,
                trust_env=False,
            ) as client:
                waiting = [asyncio.ensure_future(client.get(path)) for _ in range(200)]
                await asyncio.sleep(1.0)
                other = await client.get("/v1/jobs?limit=1")
                num_done = sum(request.done() for request in waiting)
                with broker_tenant.database.write() as session:
                    jobs.fail(session, lease, {"code": "test", "message": "over"})
                broker_tenant.server.broker.publish_job_change(lease.job_id)
                return other.status_code, num_done, [(await request).json()["status"] for request in waiting]

        status, num_done, statuses = asyncio.run(wait_all())

        assert (status, statuses) == (200, ["failed"] * 200)
        assert num_done == 0  # the list was answered while all others waited

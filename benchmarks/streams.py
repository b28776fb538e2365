"""A thousand event streams on one API process: completeness, delay and cost.

One process writes events as a worker does, each with its time; another one runs the clients. Every client must see
each `seq` of its job once and in order; the connections of some clients break.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.api_process import Service, service
from benchmarks.figures import Figure, figure, save_figures
from core.broker import Broker
from core.store import events, jobs
from core.store.job_leases import LeaseToken

_MESSAGE = re.compile(rb"id: (\d+)\nevent: ([^\n]*)\ndata: ([^\n]*)\n\n")
_WRITTEN_AT = re.compile(rb'"at":([0-9.]+)')
_ENDED = b"job.failed"


@dataclass(frozen=True, slots=True)
class Scenario:
    """Numbers of clients, jobs, and events per second and job."""

    name: str
    database: str
    clients: int
    jobs: int
    events_per_second: float
    dropping: float = 0.0  # fraction of clients whose connection breaks every few seconds


SCENARIOS = (
    Scenario("one job", "postgresql", 1000, 1, 2.0),
    Scenario("20 jobs", "postgresql", 1000, 20, 1.0),
    Scenario("20 jobs, a fifth of the clients disconnect and reconnect", "postgresql", 1000, 20, 1.0, dropping=0.2),
    Scenario("20 jobs, SQLite", "sqlite", 1000, 20, 1.0),
)


@dataclass(slots=True)
class Client:
    """What one client received."""

    job: int
    drops: bool
    seqs: list[int] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    reconnects: int = 0
    ended: bool = False


@dataclass(slots=True)
class Load:
    """Resources of the API process during the run."""

    cpu_percent: list[float] = field(default_factory=list)
    memory_bytes: int = 0


def main(arguments: Sequence[str]) -> int:
    """Run the scenarios. Return 1 if an event was missed, repeated or out of order."""
    options = _parser().parse_args(arguments)
    figures: list[Figure] = []
    runs = []
    for scenario in SCENARIOS[: options.scenarios]:
        results = [_run(scenario, options.clients, options.seconds) for _ in range(options.repeats)]
        runs += results
        figures += _figures(scenario, results)
    save_figures("streams", (__doc__ or "").strip(), figures, path=options.out, seconds=options.seconds, runs=runs)
    return 1 if any(run["missed"] or run["repeated"] or run["disordered"] for run in runs) else 0


def _run(scenario: Scenario, clients: int | None, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="pg-") as name, service(Path(name), scenario.database) as api:
        database = api.open_database()
        leases = [api.running_job(database) for _ in range(scenario.jobs)]
        database.dispose()
        count = clients or scenario.clients
        seen = [Client(k % scenario.jobs, k < scenario.dropping * count) for k in range(count)]
        load = asyncio.run(_follow(api, leases, seen, scenario.events_per_second, seconds))
        return {"scenario": scenario.name, "database": scenario.database, **_evaluate(seen, load)}


async def _follow(api: Service, leases: Sequence[LeaseToken], seen: list[Client], rate: float, seconds: float) -> Load:
    tasks = []
    for client in seen:
        tasks.append(asyncio.create_task(_client(api, leases[client.job].job_id, client)))
        await asyncio.sleep(0.002)  # a few hundred new connections per second
    while any(not client.seqs for client in seen):  # noqa: ASYNC110 - every client soon has the first events
        await asyncio.sleep(0.1)
    start = multiprocessing.get_context("spawn")
    writer = start.Process(target=write_events, args=(api.database_url, api.broker_url, leases, rate, seconds))
    writer.start()
    load, watched = Load(), psutil.Process(api.pid)
    watched.cpu_percent()
    while writer.is_alive():
        await asyncio.sleep(1.0)
        load.cpu_percent.append(watched.cpu_percent())
        load.memory_bytes = max(load.memory_bytes, watched.memory_info().rss)
    await asyncio.wait_for(asyncio.gather(*tasks), 60)
    return load


def write_events(database_url: str, broker_url: str, leases: Sequence[LeaseToken], rate: float, seconds: float) -> None:
    """Write events for every job, evenly spread over time, as its worker would; the jobs fail at the end."""
    from core.store.db import Database, make_engine  # runs in a new process

    database, broker = Database(make_engine(database_url)), Broker(broker_url)
    schedule = [(turn / rate + index / rate / len(leases), lease)
                for turn in range(int(seconds * rate)) for index, lease in enumerate(leases)]  # fmt: skip
    began = time.monotonic()
    for due, lease in schedule:
        time.sleep(max(0.0, began + due - time.monotonic()))
        with database.write() as session:
            events.append(session, lease, "note", "An event.", data={"at": time.time()})
        broker.publish_job_change(lease.job_id)
    for lease in leases:
        with database.write() as session:
            jobs.fail(session, lease, {"code": "benchmark", "message": "over"})
        broker.publish_job_change(lease.job_id)
    database.dispose()


async def _client(api: Service, job_id: str, client: Client) -> None:
    draw = random.Random(id(client))
    while not client.ended:
        timeout = draw.uniform(2.0, 6.0) if client.drops else 3600.0
        try:
            async with asyncio.timeout(timeout):
                await _read(api, job_id, client)
        except (TimeoutError, OSError):
            client.reconnects += 1


async def _read(api: Service, job_id: str, client: Client) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    try:
        position = f"Last-Event-ID: {client.seqs[-1]}\r\n" if client.seqs else ""
        writer.write(
            f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n"
            f"Authorization: Bearer {api.token}\r\n{position}\r\n".encode()
        )
        status = (await reader.readline()).split()[1]
        if status == b"204":  # the job ended while the client was disconnected, and it has every event
            client.ended = True
            return
        if status != b"200":
            raise OSError(status)
        buffer = b""
        while (data := await reader.read(65536)) and not client.ended:
            now, buffer, end = time.time(), buffer + data, 0
            for found in _MESSAGE.finditer(buffer):
                client.seqs.append(int(found[1]))
                if (written := _WRITTEN_AT.search(found[3])) is not None:
                    client.delays.append(now - float(written[1]))
                client.ended = found[2] == _ENDED
                end = found.end()
            buffer = buffer[end:]
    finally:
        writer.close()


def _evaluate(seen: Sequence[Client], load: Load) -> dict[str, Any]:
    """Compare each client with the one of its job that received the most."""
    last = {client.job: 0 for client in seen}
    for client in seen:
        last[client.job] = max(last[client.job], *client.seqs)
    delays = sorted(1000 * delay for client in seen for delay in client.delays)
    return {
        "clients": len(seen),
        "messages": sum(len(client.seqs) for client in seen),
        "missed": sum(last[c.job] - len(set(c.seqs)) for c in seen),
        "repeated": sum(len(c.seqs) - len(set(c.seqs)) for c in seen),
        "disordered": sum(c.seqs != sorted(c.seqs) for c in seen),
        "reconnects": sum(c.reconnects for c in seen),
        "delay_ms": {f"p{p}": round(delays[int(len(delays) * p / 100)], 1) for p in (50, 95, 99)},
        "cpu_percent": round(statistics.median(load.cpu_percent), 1),
        "memory_mib": round(load.memory_bytes / 2**20, 1),
    }


def _figures(scenario: Scenario, results: Sequence[dict[str, Any]]) -> list[Figure]:
    first = results[0]
    label = f"{first['clients']:,} event streams, {scenario.name}"
    wrong = [one["missed"] + one["repeated"] + one["disordered"] for one in results]
    sent = f"of {first['messages']:,} messages; {first['reconnects']} reconnects"
    tails = f"p50 {first['delay_ms']['p50']}, p99 {first['delay_ms']['p99']} ms"
    rate = f"{scenario.events_per_second * first['clients']:,.0f} messages per second"
    p95, busy = [one["delay_ms"]["p95"] for one in results], [one["cpu_percent"] for one in results]
    return [
        figure(f"{label}: events missed, repeated or out of order", wrong, "events", goal="≤ 0", detail=sent),
        figure(f"{label}: delivery p95", p95, "ms", detail=tails),
        figure(f"{label}: processor of the API", busy, "% of a core", detail=rate),
        figure(f"{label}: memory of the API", [one["memory_mib"] for one in results], "MiB"),
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks streams", description=__doc__)
    parser.add_argument("--clients", type=int, help="number of clients; default 1,000")
    parser.add_argument("--seconds", type=float, default=20.0, help="duration of each run")
    parser.add_argument("--repeats", type=int, default=3, help="runs per scenario")
    parser.add_argument("--scenarios", type=int, default=len(SCENARIOS), help="run only the first N")
    parser.add_argument("--out", type=Path, help="write the result here")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

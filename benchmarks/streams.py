"""Can a thousand event streams hang on one API process, and miss nothing?

A process of its own writes events as a worker does, with the time in each; another one holds the clients. Every
client must see every `seq` of its job once and in order, some of them over connections that break.
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
from benchmarks.figures import Figure, figure, keep
from core.broker import Broker
from core.store import events, jobs
from core.store.job_leases import LeaseToken

_MESSAGE = re.compile(rb"id: (\d+)\nevent: ([^\n]*)\ndata: ([^\n]*)\n\n")
_WRITTEN_AT = re.compile(rb'"at":([0-9.]+)')
_ENDED = b"job.failed"


@dataclass(frozen=True, slots=True)
class Scenario:
    """So many clients on so many jobs, each with so many events a second."""

    name: str
    database: str
    clients: int
    jobs: int
    events_a_second: float
    dropping: float = 0.0  # the share of clients whose connection breaks every few seconds


SCENARIOS = (
    Scenario("one job", "postgresql", 1000, 1, 2.0),
    Scenario("20 jobs", "postgresql", 1000, 20, 1.0),
    Scenario("20 jobs, a fifth of the clients drop and come back", "postgresql", 1000, 20, 1.0, dropping=0.2),
    Scenario("20 jobs, SQLite", "sqlite", 1000, 20, 1.0),
)


@dataclass(slots=True)
class Client:
    """What one client saw."""

    job: int
    drops: bool
    seqs: list[int] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    reconnects: int = 0
    ended: bool = False


@dataclass(slots=True)
class Load:
    """What the API process took while events came."""

    cpu_percent: list[float] = field(default_factory=list)
    memory_bytes: int = 0


def main(arguments: Sequence[str]) -> int:
    """Run the scenarios; 1 where an event was missed."""
    options = _parser().parse_args(arguments)
    figures: list[Figure] = []
    runs = []
    for scenario in SCENARIOS[: options.scenarios]:
        results = [_run(scenario, options.clients, options.seconds) for _ in range(options.repeats)]
        runs += results
        figures += _figures(scenario, results)
    keep("streams", (__doc__ or "").strip(), figures, path=options.out, seconds=options.seconds, runs=runs)
    return 1 if any(run["missed"] or run["doubled"] or run["disordered"] for run in runs) else 0


def _run(scenario: Scenario, clients: int | None, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="pg-") as name, service(Path(name), scenario.database) as api:
        database = api.open_database()
        attempts = [api.running_job(database) for _ in range(scenario.jobs)]
        database.dispose()
        count = clients or scenario.clients
        seen = [Client(k % scenario.jobs, k < scenario.dropping * count) for k in range(count)]
        load = asyncio.run(_follow(api, attempts, seen, scenario.events_a_second, seconds))
        return {"scenario": scenario.name, "database": scenario.database, **_judge(seen, load)}


async def _follow(
    api: Service, attempts: Sequence[LeaseToken], seen: list[Client], rate: float, seconds: float
) -> Load:
    tasks = []
    for client in seen:
        tasks.append(asyncio.create_task(_client(api, attempts[client.job].job_id, client)))
        await asyncio.sleep(0.002)  # a few hundred new ones a second
    while any(not client.seqs for client in seen):  # noqa: ASYNC110 - each has what there was, soon
        await asyncio.sleep(0.1)
    start = multiprocessing.get_context("spawn")
    writer = start.Process(target=write_events, args=(api.database_url, api.broker_url, attempts, rate, seconds))
    writer.start()
    load, watched = Load(), psutil.Process(api.pid)
    watched.cpu_percent()
    while writer.is_alive():
        await asyncio.sleep(1.0)
        load.cpu_percent.append(watched.cpu_percent())
        load.memory_bytes = max(load.memory_bytes, watched.memory_info().rss)
    await asyncio.wait_for(asyncio.gather(*tasks), 60)
    return load


def write_events(
    database_url: str, broker_url: str, attempts: Sequence[LeaseToken], rate: float, seconds: float
) -> None:
    """What the workers of these jobs do: an event each, evenly spread over time; at the end the jobs fail."""
    from core.store.db import Database, make_engine  # in a process of its own

    database, hints = Database(make_engine(database_url)), Broker(broker_url)
    turns = [(turn / rate + place / rate / len(attempts), attempt)
             for turn in range(int(seconds * rate)) for place, attempt in enumerate(attempts)]  # fmt: skip
    began = time.monotonic()
    for due, attempt in turns:
        time.sleep(max(0.0, began + due - time.monotonic()))
        with database.write() as session:
            events.append(session, attempt, "note", "An event.", data={"at": time.time()})
        hints.publish_job_change(attempt.job_id)
    for attempt in attempts:
        with database.write() as session:
            jobs.fail(session, attempt, {"code": "benchmark", "message": "over"})
        hints.publish_job_change(attempt.job_id)
    database.dispose()


async def _client(api: Service, job_id: str, client: Client) -> None:
    draw = random.Random(id(client))
    while not client.ended:
        patience = draw.uniform(2.0, 6.0) if client.drops else 3600.0
        try:
            async with asyncio.timeout(patience):
                await _read(api, job_id, client)
        except (TimeoutError, OSError):
            client.reconnects += 1


async def _read(api: Service, job_id: str, client: Client) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    try:
        place = f"Last-Event-ID: {client.seqs[-1]}\r\n" if client.seqs else ""
        writer.write(
            f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n"
            f"Authorization: Bearer {api.token}\r\n{place}\r\n".encode()
        )
        status = (await reader.readline()).split()[1]
        if status == b"204":  # it ended while this client was away, and it has all of it
            client.ended = True
            return
        if status != b"200":
            raise OSError(status)
        waiting = b""
        while (data := await reader.read(65536)) and not client.ended:
            now, waiting, end = time.time(), waiting + data, 0
            for found in _MESSAGE.finditer(waiting):
                client.seqs.append(int(found[1]))
                if (written := _WRITTEN_AT.search(found[3])) is not None:
                    client.delays.append(now - float(written[1]))
                client.ended = found[2] == _ENDED
                end = found.end()
            waiting = waiting[end:]
    finally:
        writer.close()


def _judge(seen: Sequence[Client], load: Load) -> dict[str, Any]:
    """Every client of a job must have seen what the one with the most has seen, once, in order."""
    last = {client.job: 0 for client in seen}
    for client in seen:
        last[client.job] = max(last[client.job], *client.seqs)
    delays = sorted(1000 * delay for client in seen for delay in client.delays)
    return {
        "clients": len(seen),
        "messages": sum(len(client.seqs) for client in seen),
        "missed": sum(last[c.job] - len(set(c.seqs)) for c in seen),
        "doubled": sum(len(c.seqs) - len(set(c.seqs)) for c in seen),
        "disordered": sum(c.seqs != sorted(c.seqs) for c in seen),
        "reconnects": sum(c.reconnects for c in seen),
        "delay_ms": {f"p{p}": round(delays[int(len(delays) * p / 100)], 1) for p in (50, 95, 99)},
        "cpu_percent": round(statistics.median(load.cpu_percent), 1),
        "memory_mib": round(load.memory_bytes / 2**20, 1),
    }


def _figures(scenario: Scenario, results: Sequence[dict[str, Any]]) -> list[Figure]:
    first = results[0]
    about = f"{first['clients']:,} event streams, {scenario.name}"
    wrong = [one["missed"] + one["doubled"] + one["disordered"] for one in results]
    sent = f"of {first['messages']:,} messages; {first['reconnects']} reconnects"
    tails = f"p50 {first['delay_ms']['p50']}, p99 {first['delay_ms']['p99']} ms"
    rate = f"{scenario.events_a_second * first['clients']:,.0f} messages a second"
    p95, busy = [one["delay_ms"]["p95"] for one in results], [one["cpu_percent"] for one in results]
    return [
        figure(f"{about}: events missed, doubled or out of order", wrong, "events", goal="≤ 0", detail=sent),
        figure(f"{about}: delivery p95", p95, "ms", detail=tails),
        figure(f"{about}: processor of the API", busy, "% of a core", detail=rate),
        figure(f"{about}: memory of the API", [one["memory_mib"] for one in results], "MiB"),
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks streams", description=__doc__)
    parser.add_argument("--clients", type=int, help="instead of 1,000")
    parser.add_argument("--seconds", type=float, default=20.0, help="of events in each run")
    parser.add_argument("--repeats", type=int, default=3, help="of each scenario")
    parser.add_argument("--scenarios", type=int, default=len(SCENARIOS), help="only the first ones")
    parser.add_argument("--out", type=Path, help="write the result here instead")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Throughput of ``GET /v1/jobs/{id}`` against a bare FastAPI endpoint with the same query and the same response.

uvicorn serves both with the same settings from the same database. `wrk` (which must be installed) requests jobs from
each in alternation, over persistent connections. The responses are compared first.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx

from benchmarks.api_process import Service, free_port, process, service, wait_for
from benchmarks.figures import Figure, figure, ratio, save_figures

GOAL = 0.8
JOBS, CONNECTIONS = 200, 16
_PAIRS = "pairs measured in alternation"
_SCRIPT = """
local ids = {{ {ids} }}
local next = 0
request = function()
  next = next % #ids + 1
  return wrk.format("GET", "/v1/jobs/" .. ids[next], {{ ["Authorization"] = "Bearer {token}" }})
end
"""


def main(arguments: Sequence[str]) -> int:
    """Measure and write. Return 1 if the goal is missed."""
    options = _parser().parse_args(arguments)
    if shutil.which("wrk") is None:
        print("This needs wrk: apt-get install wrk")
        return 2
    figures: list[Figure] = []
    for database in options.databases.split(","):
        with tempfile.TemporaryDirectory(prefix="pg-") as folder, service(Path(folder), database) as api:
            figures += _compare(api, Path(folder), database, options.repeats, options.seconds)
    on = {"jobs": JOBS, "connections": CONNECTIONS, "seconds": options.seconds}
    save_figures("polling", (__doc__ or "").strip(), figures, path=options.out, **on)
    return 0 if all(one.goal is None or one.value >= GOAL for one in figures) else 1


def _compare(api: Service, folder: Path, name: str, repeats: int, seconds: float) -> list[Figure]:
    database = api.open_database()
    ids = [api.job(database) for _ in range(JOBS)]
    database.dispose()
    script = folder / "poll.lua"
    script.write_text(_SCRIPT.format(ids=", ".join(f'"{one}"' for one in ids), token=api.token))
    with ExitStack() as stack:
        port = free_port()
        command = [sys.executable, "-m", "benchmarks.bare_endpoint", api.database_url, api.project_id, str(port)]
        stack.enter_context(process(command, folder / "bare.log", api.environment))
        bare = f"http://127.0.0.1:{port}"
        wait_for(f"{bare}/v1/jobs/{ids[0]}")
        _require_same_response(api, bare, ids[0])
        _requests_per_second(api.url, script, 2.0)  # warm up
        _requests_per_second(bare, script, 2.0)
        ours, theirs = [], []
        for _ in range(repeats):
            ours.append(_requests_per_second(api.url, script, seconds))
            theirs.append(_requests_per_second(bare, script, seconds))
    return [
        ratio(f"polling on {name}: ours against a bare endpoint", ours, theirs, goal=f"≥ {GOAL}", detail=_PAIRS),
        figure(f"polling on {name}: ours", ours, "requests/s", detail="key, request id, log line, metrics"),
        figure(f"polling on {name}: bare endpoint", theirs, "requests/s", detail="same query, same response"),
    ]


def _require_same_response(api: Service, bare: str, job_id: str) -> None:
    key = {"Authorization": f"Bearer {api.token}"}
    ours = httpx.get(f"{api.url}/v1/jobs/{job_id}", headers=key, trust_env=False)
    theirs = httpx.get(f"{bare}/v1/jobs/{job_id}", trust_env=False)
    if ours.json() != theirs.json():
        raise AssertionError(f"the responses differ:\n{ours.text}\n{theirs.text}")


def _requests_per_second(url: str, script: Path, seconds: float) -> float:
    """Return requests per second. Raises ``RuntimeError`` if a response was not 200."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "-s", str(script), url]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in output or "Socket errors" in output:
        raise RuntimeError(output)
    found = re.search(r"Requests/sec:\s+([0-9.]+)", output)
    assert found is not None, output
    return float(found[1])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks polling", description=__doc__)
    parser.add_argument("--repeats", type=int, default=7, help="pairs of measurements")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--databases", default="postgresql,sqlite", help="comma-separated")
    parser.add_argument("--out", type=Path, help="write the result here")
    return parser

"""A job worker that runs one job per command, without the seconds of a worker's start.

``python -m tests.chaos.forked_worker HOME BROKER_URL`` imports what a job needs, as a pool process does, and forks a
process for each line of standard input: a fault (see ``core.system.fault_injection``), or ``-`` for none. The forked
process claims a dataset or job and processes it with the worker's own code. Its wait status is printed as a line.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

from core.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
RUN_SECONDS = 120.0
NO_FAULT = "-"
READY = "ready"


class ForkedWorker:
    """The parent's side of the pipe."""

    def __init__(self, home: Path, broker_url: str) -> None:
        self._log = (home / "worker.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.forked_worker", str(home), broker_url],
            cwd=ROOT,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        assert self._read_line() == READY, (home / "worker.log").read_text()

    def run(self, fault: str = NO_FAULT) -> int:
        """Fork one process and wait for it. Return its exit status, or minus the signal that ended it."""
        print(fault, file=self._process.stdin, flush=True)
        return os.waitstatus_to_exitcode(int(self._read_line()))

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()
        self._log.close()

    def _read_line(self) -> str:
        watchdog = threading.Timer(RUN_SECONDS, self._process.kill)
        watchdog.start()
        try:
            return self._process.stdout.readline().strip()
        finally:
            watchdog.cancel()


def serve(settings: Settings) -> None:
    """The child's side: fork a process for every line."""
    from core.evaluate import latency
    from server.logs import configure_logging
    from worker import claim_loop, context
    from worker.ingest.parent import DATASETS
    from worker.jobs import child
    from worker.jobs.parent import JOBS

    responses = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # keeps log lines out of the responses
    configure_logging("worker", "info")
    context.init_context(settings, "jobs.cpu")
    child.warm_up()
    latency.MAX_REPEATS = latency.MIN_REPEATS  # as `tests/conftest.py` sets it
    print(READY, file=responses, flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _run(line.strip(), claim_loop.run_next, [DATASETS, JOBS])
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        print(status, file=responses, flush=True)


def _run(fault: str, run_next, workloads) -> None:
    from core.system import fault_injection

    if fault != NO_FAULT:
        fault_injection.arm(fault_injection.Fault.parse(fault))
    for workload in workloads:
        run_next(workload)


if __name__ == "__main__":
    folder, url = sys.argv[1:]
    serve(
        Settings(
            home=Path(folder),
            broker_url=url,
            control_poll_seconds=0.05,
            heartbeat_seconds=0.5,
            job_threads=1,
            max_losses=3,
        )
    )

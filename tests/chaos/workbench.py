"""A job worker whose lives are one command each, without the seconds that a worker's start takes.

``python -m tests.chaos.workbench HOME BROKER`` imports what a job needs, as a pool's process does, and forks a life for
each line of standard input: a fault (see ``core.system.fault_injection``), or ``-`` for none. A life claims a job and stays with
it, with the worker's own code. Its wait status is the answer, a line on standard output.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

from core.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
LIFE_SECONDS = 60.0


class Workbench:
    """The parent's side."""

    def __init__(self, home: Path, broker_url: str) -> None:
        self._log = (home / "workbench.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.workbench", str(home), broker_url],
            cwd=ROOT,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        assert self._read() == "warm", (home / "workbench.log").read_text()

    def live(self, fault: str = "-") -> int:
        """One life, to its end; its exit status, negative for the signal that ended it."""
        print(fault, file=self._process.stdin, flush=True)
        return os.waitstatus_to_exitcode(int(self._read()))

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()
        self._log.close()

    def _read(self) -> str:
        watchdog = threading.Timer(LIFE_SECONDS, self._process.kill)
        watchdog.start()
        try:
            return self._process.stdout.readline().strip()
        finally:
            watchdog.cancel()


def serve(settings: Settings) -> None:
    """The child's side: fork a life for every line."""
    from server.logs import configure_logging
    from worker import claim_loop, context
    from worker.ingest.parent import DATASETS
    from worker.jobs import child
    from worker.jobs.parent import JOBS

    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # the log is not to be taken for answers
    configure_logging("worker", "info")
    context.init_context(settings, "jobs.cpu")
    child.warm_up()
    print("warm", file=answers, flush=True)
    for line in sys.stdin:
        life = os.fork()
        if life == 0:
            _live(line.strip(), claim_loop.run_next, [DATASETS, JOBS])
            os._exit(0)
        _, status = os.waitpid(life, 0)
        print(status, file=answers, flush=True)


def _live(fault: str, run_next, workloads) -> None:
    from core.system import fault_injection

    if fault != "-":
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

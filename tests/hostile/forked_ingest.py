"""A process that ingests each file in a fork of itself, with the sandbox and limits of the ingest worker.

``python -m tests.hostile.forked_ingest`` imports what an ingestion needs. Each line of standard input names a request
and the file that receives the report; the exit status of the fork is printed as a line. Pytest's own process holds
torch and all tests: its fork takes longer than most ingestions.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

from core.ingest import parquet  # noqa: F401 - imported lazily by the product; once here for all cases
from core.ingest.sandboxed_main import IngestRequest, ingest
from core.system.sandbox import enter_sandbox
from worker.process.forked import ForkedProcess, limit_memory

ROOT = Path(__file__).resolve().parents[2]
MEMORY_BYTES = 700_000_000  # memory limit of one case, beyond the importing process
SECONDS = 20.0  # most cases take less than 0.1 s; allows for a loaded machine


class ForkedIngest:
    """The parent's side of the pipe."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.hostile.forked_ingest"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, request: IngestRequest, report: Path) -> dict:
        """Ingest in a new process; return its result, with ``peak`` in bytes and ``seconds``."""
        print(json.dumps([request.model_dump_json(), str(report)]), file=self._process.stdin, flush=True)
        status = json.loads(self._process.stdout.readline())
        assert status == 0, "it timed out" if status is None else f"the process ended with {status}"
        return json.loads(report.read_text())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()


def serve() -> None:
    """The child's side: fork a process for every line."""
    Image.init()  # loads the modules of all formats once, not in each process
    responses = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # keeps log lines out of the responses
    for line in sys.stdin:
        text, report = json.loads(line)
        request = IngestRequest.model_validate_json(text)
        process = ForkedProcess(lambda request=request, report=report: ingest_within_limits(request, Path(report)))
        status = process.wait(SECONDS)
        process.kill()
        print(json.dumps(status), file=responses, flush=True)


def ingest_within_limits(request: IngestRequest, report: Path) -> int:
    """Ingest like the ingest worker's process, without its start-up time."""
    limit_memory(status_bytes("VmData") + MEMORY_BYTES)
    resource.setrlimit(resource.RLIMIT_FSIZE, (request.limits.max_unpacked_bytes,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with report.open("w") as out:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = status_bytes("VmHWM")
        enter_sandbox(readable=[request.file], writable=[request.out_folder.parent])
        started = time.monotonic()
        document = ingest(request)
        json.dump({**document, "peak": status_bytes("VmHWM") - before, "seconds": time.monotonic() - started}, out)
    return 0


def status_bytes(name: str) -> int:
    """A field of this process's status: ``VmHWM`` is the peak of its resident memory since the last reset."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) * 1024


if __name__ == "__main__":
    serve()

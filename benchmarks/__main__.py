"""``python -m benchmarks [NAME …]``: without a name, all that takes minutes, then the page that shows it.

``python -m benchmarks all --quick`` shows in a few minutes that the comparisons work, and writes nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib import import_module

QUESTIONS = {
    "methods_over_rest": "does every method do a small job over HTTP, and what does a step of it take? (minutes)",
    "cached_training": "does distilling from stored answers cost anything? (minutes)",
    "against_peers": "how long do jobs take against packages that ask the teacher every time? (20 minutes)",
    "data": "what does it cost if decoded pictures have no room? (minutes)",
    "service": "what does a service around the engine cost? (minutes)",
    "quality": "what is each method worth on CIFAR-10 photographs? (hours, resumable)",
    "growth": "do lists, claims and series stay fast with a million jobs in PostgreSQL? (ten minutes)",
    "streams": "does an API process serve a thousand event streams, and miss nothing? (minutes)",
    "polling": "how fast is polling a job beside a bare FastAPI endpoint? (minutes, needs wrk)",
    "latency": "how long from POST to the first training step, and until the inspector answers? (minutes)",
    "gpu_check": "do the paths that need a GPU work on this one? (minutes, skipped without CUDA)",
    "speed_page": "docs/speed.md from all that was measured (seconds)",
}
NOT_IN_ALL = ("quality", "gpu_check", "speed_page")
COMPARISONS = ("cached_training", "against_peers", "data", "service")  # these know --quick


def main(arguments: list[str]) -> int:
    """Run one benchmark with the rest of the arguments, or all."""
    name, *rest = arguments or ["all"]
    # Threads that wait for each other sleep: spinning beside another busy process makes a step ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if name == "all":
        return _all(quick="--quick" in rest)
    if name not in QUESTIONS:
        print(f"python -m benchmarks {'all':<18} those that take minutes, and the page on speed")
        for known, question in QUESTIONS.items():
            print(f"python -m benchmarks {known:<18} {question}")
        return 0 if name in {"-h", "--help"} else 2
    return int(import_module(f"benchmarks.{name}").main(rest))


def _all(*, quick: bool) -> int:
    """One after the other, each in a process of its own, so that none finds what another left in memory."""
    if quick:
        runs = [[name, "--quick", "--repeats", "1"] for name in COMPARISONS]
    else:
        runs = [*([name] for name in QUESTIONS if name not in NOT_IN_ALL), ["speed_page"]]
    failed = []
    for run in runs:
        print(f"--- {time.strftime('%H:%M:%S')} {' '.join(run)}", flush=True)
        if subprocess.run([sys.executable, "-m", "benchmarks", *run], check=False).returncode:
            failed.append(run[0])
    if failed:
        print("failed:", ", ".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""``python -m benchmarks [NAME …]``: without a name, the benchmark that takes minutes; quality takes hours."""

from __future__ import annotations

import os
import sys
from importlib import import_module

QUESTIONS = {
    "methods_over_rest": "does every method do a small job over HTTP, and what does a step of it take? (minutes)",
    "quality": "what is each method worth on CIFAR-10 photographs? (hours, resumable)",
    "growth": "do lists, claims and series stay fast with a million jobs in PostgreSQL? (ten minutes)",
    "streams": "does an API process serve a thousand event streams, and miss nothing? (minutes)",
    "polling": "how fast is polling a job beside a bare FastAPI endpoint? (minutes, needs wrk)",
    "latency": "how long from POST to the first training step, and until the inspector answers? (minutes)",
    "gpu_check": "do the paths that need a GPU work on this one? (minutes, skipped without CUDA)",
}


def main(arguments: list[str]) -> int:
    """Run one benchmark with the rest of the arguments."""
    name, *rest = arguments or ["methods_over_rest"]
    if name not in QUESTIONS:
        for known, question in QUESTIONS.items():
            print(f"python -m benchmarks {known:<18} {question}")
        return 0 if name in {"-h", "--help"} else 2
    # Threads that wait for each other sleep: spinning beside another busy process makes a step ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return int(import_module(f"benchmarks.{name}").main(rest))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

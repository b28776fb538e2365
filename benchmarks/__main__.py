"""``python -m benchmarks [NAME …]``: run one benchmark, or without a name all short ones and then the speed page.

``python -m benchmarks all --quick`` runs the comparisons on tiny networks in a few minutes and writes nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib import import_module

BENCHMARKS = {
    "methods_over_rest": "a small job over HTTP for every method (minutes)",
    "step_costs": "the time of a step of every method, measured in turn with scratch (minutes)",
    "architecture_costs": "parameters and FLOPs of timm's architectures, for the search (15 minutes)",
    "cached_training": "training with cached teacher outputs against training from labels only (minutes)",
    "cache_filling": "a first job with and without an idle worker that computes teacher outputs (minutes)",
    "against_peers": "job times against packages that run the teacher at every step (20 minutes)",
    "data": "training from images decoded on demand against cached pixels (minutes)",
    "photographs": "training on JPEGs of 224 pixels against other packages' loaders (10 minutes)",
    "ingest": "ingestion of an archive against a bare decode of its images (minutes)",
    "service": "the service against the library (minutes)",
    "quality": "accuracy of every method on CIFAR-10, with equal tuning and several seeds (a day, resumable)",
    "growth": "lists, claims and series with a million jobs in PostgreSQL (ten minutes)",
    "streams": "a thousand event streams on one API process (minutes)",
    "polling": "polling a job against a bare FastAPI endpoint (minutes, needs wrk)",
    "dashboard": "time, weight and accessibility of the dashboard's pages with 10,000 jobs (minutes, needs Chromium)",
    "batch_norm": "accuracy of short trainings with re-estimated BatchNorm statistics (minutes)",
    "latency": "POST to the first training step, and the inspector's latency (minutes)",
    "onnx_families": "which timm families have an ONNX export, with which exporter (an hour, resumable)",
    "compression": "accuracy, bytes and latency of compressed students, and of a peer's (an hour, resumable)",
    "gpu_check": "checks of the CUDA code paths (minutes, skipped without CUDA)",
    "speed_page": "write docs/speed.md from all results (seconds)",
}
NOT_IN_ALL = (
    "architecture_costs",
    "quality",
    "dashboard",
    "onnx_families",
    "batch_norm",
    "compression",
    "gpu_check",
    "speed_page",
)
COMPARISONS = (
    "cached_training",
    "cache_filling",
    "against_peers",
    "data",
    "photographs",
    "ingest",
    "service",
)  # these accept --quick


def main(arguments: list[str]) -> int:
    """Run one benchmark with the remaining arguments, or all of them."""
    name, *rest = arguments or ["all"]
    # OpenMP threads must sleep while they wait: spinning next to another busy process makes a step ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if name == "all":
        return _all(quick="--quick" in rest)
    if name not in BENCHMARKS:
        print(f"python -m benchmarks {'all':<18} all short benchmarks, and the speed page")
        for known, summary in BENCHMARKS.items():
            print(f"python -m benchmarks {known:<18} {summary}")
        return 0 if name in {"-h", "--help"} else 2
    return int(import_module(f"benchmarks.{name}").main(rest))


def _all(*, quick: bool) -> int:
    """Run all benchmarks in sequence, each in a new process with empty memory."""
    if quick:
        runs = [[name, "--quick", "--repeats", "1"] for name in COMPARISONS]
    else:
        runs = [*([name] for name in BENCHMARKS if name not in NOT_IN_ALL), ["speed_page"]]
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

"""The service against the library: one spec through the embedded stack, and with the library only.

In alternation: the library without a running service; then the stack is started and, once it is idle, runs the same
job over HTTP. Both train in a process just forked from one that has imported everything and computed nothing, as the
service does. The stack's worker also streams metrics and events, renews its lease and stores checkpoints; API,
inspector, scheduler and Valkey share the same processors. Every repeat has its own seed, so both fill the cache.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import signal
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine import JobInputs, run
from benchmarks.figures import ratio, save_figures
from benchmarks.workload import STUDENT, TINY, TimingReporter
from core.ingest.dataset import ingest_builtin
from potstill import Potstill
from server.demo import stack

MAX_SECONDS = 600.0
_IDLE_SECONDS = 5.0  # after the start of the stack, while some of its processes still import


def main(arguments: Sequence[str]) -> int:
    """Measure, print and write."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the stack is stopped on exit
    seconds_by_side: dict[str, dict[str, list[float]]] = {"library": {}, "service": {}}
    with tempfile.TemporaryDirectory(prefix="potstill-benchmark-") as folder:
        work = Path(folder)
        ingest_builtin("digits", work / "digits")
        inputs = JobInputs(work, {"ds_digits": work / "digits"})
        for repeat in range(options.repeats):
            both = {
                "library": _library(inputs, _document("ds_digits", repeat, options)),
                "service": _service(work / "home", repeat, options),
            }
            for side, seconds in both.items():
                for part, value in seconds.items():
                    seconds_by_side[side].setdefault(part, []).append(value)
            print(f"repeat {repeat + 1}:", both, flush=True)
    epochs = _epochs(options)
    detail = (
        f"1,437 digits, {epochs} epochs, {'tiny networks' if options.quick else 'teacher of the size of the student'}"
    )
    service, library = seconds_by_side["service"], seconds_by_side["library"]
    figures = [
        ratio("training by the service against the library", service["distill"], library["distill"],
              goal="≤ 1.03", detail=detail),
        ratio("a whole job by the service against the library", service["whole"], library["whole"],
              goal="≤ 1.03", detail=f"{detail}; from the claim to the stored student"),
    ]  # fmt: skip
    if not options.quick or options.out:
        save_figures("service", (__doc__ or "").strip(), figures, path=options.out, seconds=seconds_by_side)
    return 0


def _epochs(options: argparse.Namespace) -> int:
    return 2 if options.quick else 8


def _document(dataset: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    network = TINY if options.quick else STUDENT
    return {
        "dataset": dataset,
        "teachers": [network],
        "student": network,
        "method": {"name": "kd"},
        "training": {
            "epochs": _epochs(options), "batch_size": 64, "image_size": 32, "views": 1, "seed": seed,
            "augmentation": "none",
        },
        "export": ["safetensors"],
        "resources": {"threads": options.threads},
    }  # fmt: skip


def _library(inputs: JobInputs, document: dict[str, Any]) -> dict[str, float]:
    """Return the seconds of each stage and of the whole job."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        return pool.submit(_run, inputs, document).result()


def _run(inputs: JobInputs, document: dict[str, Any]) -> dict[str, float]:
    root, threads = inputs.work / "run", document["resources"]["threads"]
    shutil.rmtree(root, ignore_errors=True)
    torch.set_num_threads(threads)
    reporter = TimingReporter(root, teachers=inputs.work / "teachers")
    began = datetime.now().astimezone()
    run(inputs, inputs.resolve(document, threads=threads), root, reporter)
    return {**reporter.stages, "whole": (datetime.now().astimezone() - began).total_seconds()}


def _service(home: Path, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Return the same for a job over HTTP, from its claim on."""
    with stack(home) as (url, key), Potstill(url, key) as client:
        made = client.datasets.create({"type": "builtin", "name": "digits"})
        dataset = client.datasets.wait(made.id).id
        time.sleep(_IDLE_SECONDS)
        job = client.jobs.create(_document(dataset, seed, options))
        job = client.jobs.wait(job.id, timeout_seconds=MAX_SECONDS)
    if job.status != "succeeded":
        raise RuntimeError(f"the job ended as {job.status}: {job.error}")
    stages = {stage.name: stage.seconds or 0.0 for stage in job.stages}
    assert job.started_at is not None and job.finished_at is not None, "the job ran"  # noqa: PT018
    return {**stages, "whole": (job.finished_at - job.started_at).total_seconds()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks service", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="tiny networks, a smoke test; nothing is written")
    parser.add_argument("--out", type=Path, help="write the result here")
    return parser

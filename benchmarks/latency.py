"""Latency from ``POST /v1/jobs`` to the first training step, and of the inspector.

The embedded stack with a warm worker: dataset, teacher, teacher outputs and decoded images are cached by earlier jobs.
Each job is submitted after the previous one has ended and is cancelled after its first step. The time of the step is
that of its event, on the client's clock. The inspector estimates specs that it has not seen: depth and width vary.
"""

from __future__ import annotations

import argparse
import random
import signal
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, figure, save_figures
from potstill import Potstill
from potstill.documents import Event
from server.demo import stack

STEP_GOAL_MS, INSPECTOR_GOAL_MS = 250, 100
_QUICK = {"epochs": 1, "batch_size": 32, "augmentation": "none", "warmup_epochs": 0}
_TEACHER = {
    "architecture": "vit_tiny_patch16_224",
    "weights": "train",
    "arguments": {"patch_size": 4, "embed_dim": 96, "depth": 4, "num_heads": 3},
    "training": _QUICK,
}


def main(arguments: Sequence[str]) -> int:
    """Measure, print and write."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the stack is stopped on exit
    with tempfile.TemporaryDirectory(prefix="potstill-benchmark-") as folder:
        home = options.home or Path(folder) / "home"
        with stack(home) as (url, key), Potstill(url, key) as client:
            made = client.datasets.create({"type": "builtin", "name": "digits"})
            dataset = client.datasets.wait(made.id).id
            inspector_ms = _time_inspector(client, dataset, options.estimates)
            delays, parts = _time_jobs(client, dataset, options.jobs)
    figures = [
        _p95("POST to the first training step, p95", delays, STEP_GOAL_MS, "kd of a small ViT, teacher cached"),
        _p95("inspector latency for a new spec, p95", inspector_ms, INSPECTOR_GOAL_MS, "kd, two ViTs, over HTTP"),
    ]
    medians = {name: round(statistics.median(values), 1) for name, values in parts.items()}
    for name, value in medians.items():
        print(f"  {name:<60} {value:8.1f} ms")
    save_figures("latency", (__doc__ or "").strip(), figures, path=options.out, milliseconds_between_events=medians)
    return 0


def _spec(dataset: str, *, number: int, depth: int = 4, width: int = 48) -> dict[str, Any]:
    return {
        "name": f"latency {number}",
        "dataset": dataset,
        "student": {
            "architecture": "vit_tiny_patch16_224",
            "arguments": {"patch_size": 4, "embed_dim": width, "depth": depth, "num_heads": 3},
        },
        "teachers": [_TEACHER],
        "method": {"name": "kd"},
        "training": {**_QUICK, "image_size": 32, "learning_rate": 1e-3 * (1 + number)},
        "export": ["safetensors"],
    }


def _time_inspector(client: Potstill, dataset: str, count: int) -> list[float]:
    shapes = [(depth, width) for depth in range(2, 13) for width in range(24, 193, 3)]
    random.Random(0).shuffle(shapes)
    times = []
    for depth, width in shapes[: count + 5]:
        began = time.perf_counter()
        client.jobs.estimate(_spec(dataset, number=0, depth=depth, width=width))
        times.append(1000 * (time.perf_counter() - began))
    return times[5:]


def _time_jobs(client: Potstill, dataset: str, count: int) -> tuple[list[float], dict[str, list[float]]]:
    delays, parts = [], defaultdict(list)
    for number in range(count + 3):  # the first ones train the teacher and fill the caches
        spec, submitted = _spec(dataset, number=number), time.time()
        job = client.jobs.create(spec)
        if number < 3:
            client.jobs.wait(job.id, timeout_seconds=300)
            continue
        while not any(event.type == "training.started" for event in client.jobs.past_events(job.id)):
            time.sleep(0.2)
        job.cancel()  # only the first step is measured
        client.jobs.wait(job.id, timeout_seconds=60)
        events = list(client.jobs.past_events(job.id))
        last, before = submitted, "submitted"
        for event in events:
            at, name = event.created_at.timestamp(), _name(event)
            parts[f"{before} → {name}"].append(1000 * (at - last))
            last, before = at, name
            if event.type == "training.started":
                delays.append(1000 * (at - submitted))
                break
        time.sleep(0.5)  # until the worker is idle
    return delays, parts


def _name(event: Event) -> str:
    return f"{event.type} {event.data.get('stage', '')}".strip()


def _p95(question: str, values: Sequence[float], goal_ms: int, detail: str) -> Figure:
    median = f"{detail}; median {statistics.median(values):.0f} ms"
    return figure(question, values, "ms", goal=f"≤ {goal_ms}", detail=median, percentile=95)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks latency", description=__doc__)
    parser.add_argument("--jobs", type=int, default=25, help="number of jobs, one after the other")
    parser.add_argument("--estimates", type=int, default=60, help="number of estimates")
    parser.add_argument("--home", type=Path, help="home folder of the stack, instead of a temporary one")
    parser.add_argument("--out", type=Path, help="write the result here")
    return parser

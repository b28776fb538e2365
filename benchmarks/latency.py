"""How long from ``POST /v1/jobs`` to the first training step, and how soon does the inspector answer?

The embedded stack with a warm worker: dataset, teacher, its answers and the pictures are at hand from the jobs before.
Each job is sent when the one before has ended, which is soon: it is cancelled after its first step. That step's time is
that of its event, on the clock that the client uses. The inspector is asked for estimates of specs that it never saw:
depth and width vary.
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
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, figure, keep
from client.demo import stack
from client.sdk import Potstill

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
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the stack is stopped on the way out
    with tempfile.TemporaryDirectory(prefix="potstill-benchmark-") as folder:
        home = options.home or Path(folder) / "home"
        with stack(home) as (url, key), Potstill(url, key) as potstill:
            made = potstill.datasets.create({"type": "builtin", "name": "digits"})
            dataset = potstill.datasets.wait(made["id"])["id"]
            answers = _ask_inspector(potstill, dataset, options.questions)
            delays, parts = _send_jobs(potstill, dataset, options.jobs)
    figures = [
        _p95("POST to the first training step, p95", delays, STEP_GOAL_MS, "kd of a small ViT, teacher found"),
        _p95("inspector answers a spec it never saw, p95", answers, INSPECTOR_GOAL_MS, "kd, two ViTs, over HTTP"),
    ]
    middle = {name: round(statistics.median(values), 1) for name, values in parts.items()}
    for name, value in middle.items():
        print(f"  {name:<60} {value:8.1f} ms")
    keep("latency", (__doc__ or "").strip(), figures, path=options.out, milliseconds_between_events=middle)
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


def _ask_inspector(potstill: Potstill, dataset: str, count: int) -> list[float]:
    shapes = [(depth, width) for depth in range(2, 13) for width in range(24, 193, 3)]
    random.Random(0).shuffle(shapes)
    times = []
    for depth, width in shapes[: count + 5]:
        began = time.perf_counter()
        potstill.estimate(_spec(dataset, number=0, depth=depth, width=width))
        times.append(1000 * (time.perf_counter() - began))
    return times[5:]


def _send_jobs(potstill: Potstill, dataset: str, count: int) -> tuple[list[float], dict[str, list[float]]]:
    delays, parts = [], defaultdict(list)
    for number in range(count + 3):  # the first ones train the teacher and fill the caches
        spec, sent = _spec(dataset, number=number), time.time()
        job = potstill.jobs.submit(spec)
        if number < 3:
            potstill.jobs.wait(job["id"], timeout_seconds=300)
            continue
        while not any(event["type"] == "training.started" for event in potstill.jobs.past_events(job["id"])):
            time.sleep(0.2)
        potstill.jobs.move(job["id"], "cancel")  # the rest of it is another question
        potstill.jobs.wait(job["id"], timeout_seconds=60)
        events = list(potstill.jobs.past_events(job["id"]))
        last, before = sent, "sent"
        for event in events:
            at, name = _seconds(event["created_at"]), _name(event)
            parts[f"{before} → {name}"].append(1000 * (at - last))
            last, before = at, name
            if event["type"] == "training.started":
                delays.append(1000 * (at - sent))
                break
        time.sleep(0.5)  # the worker has nothing left to do
    return delays, parts


def _name(event: Any) -> str:
    return f"{event['type']} {event['data'].get('stage', '')}".strip()


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _p95(question: str, values: Sequence[float], goal_ms: int, detail: str) -> Figure:
    median = f"{detail}; median {statistics.median(values):.0f} ms"
    return figure(question, values, "ms", goal=f"≤ {goal_ms}", detail=median, percentile=95)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks latency", description=__doc__)
    parser.add_argument("--jobs", type=int, default=25, help="to send, one after the other")
    parser.add_argument("--questions", type=int, default=60, help="to the inspector")
    parser.add_argument("--home", type=Path, help="keep the stack's folder here instead of a temporary one")
    parser.add_argument("--out", type=Path, help="write the result here instead")
    return parser

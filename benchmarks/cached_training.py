"""Training with cached teacher outputs against training the same student from labels only.

Both run the whole training loop of the engine: batches, loss, optimizer, metrics, checkpoints, validation. All epochs
after the first are compared; an earlier job has filled the teacher cache.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.figures import ratio, save_figures
from benchmarks.workload import Workload, WorkloadSize, steady_epoch_seconds


def main(arguments: Sequence[str]) -> int:
    """Measure, print and write."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    usual = WorkloadSize(num_images=512, epochs=5)
    sizes = WorkloadSize(num_images=40, epochs=3, batch_size=20, tiny=True) if options.quick else usual
    with tempfile.TemporaryDirectory(prefix="potstill-benchmark-") as folder:
        workload = Workload(Path(folder), sizes, threads=options.threads)
        specs = {"labels": workload.spec(None), "cached": workload.spec("equal")}
        workload.run(specs["cached"], only_training=True)
        seconds: dict[str, list[float]] = {name: [] for name in specs}
        for repeat in range(options.repeats):
            # Alternate the order, so that a machine that slows down favors neither.
            for name in sorted(specs, reverse=repeat % 2 == 1):
                seconds[name].append(steady_epoch_seconds(workload.run(specs[name], only_training=True).epochs))
            print(f"repeat {repeat + 1}:", {name: round(values[-1], 3) for name, values in seconds.items()}, flush=True)
    figure = ratio(
        "speed of training with cached teacher outputs against training from labels only",
        seconds["labels"],
        seconds["cached"],
        goal="≥ 0.97",
        detail=f"an epoch of {sizes.num_images} images, batches of {sizes.batch_size}, {workload.source}, through the "
        "whole training loop",
    )
    if not options.quick or options.out:
        save_figures("cached_training", (__doc__ or "").strip(), [figure], path=options.out, seconds_an_epoch=seconds)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks cached_training", description=__doc__)
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="tiny networks, a smoke test; nothing is written")
    parser.add_argument("--out", type=Path, help="write the result here")
    return parser

"""Training from images decoded on demand against images decoded once.

The same job with its decoded images mapped into memory, and without a pixel cache, so that each batch is decoded during
the previous step. Both train on all processors, so decoding competes with training; on a GPU it would overlap. Epochs
after the first, in alternating order.
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
    usual = WorkloadSize(num_images=512, epochs=4)
    sizes = WorkloadSize(num_images=40, epochs=3, batch_size=20, tiny=True) if options.quick else usual
    with tempfile.TemporaryDirectory(prefix="potstill-benchmark-") as folder:
        workloads = {
            "mapped": Workload(Path(folder), sizes, threads=options.threads),
            "on demand": Workload(Path(folder), sizes, threads=options.threads, pixel_cache_bytes=0),
        }
        spec = workloads["mapped"].spec(None)
        seconds: dict[str, list[float]] = {name: [] for name in workloads}
        for repeat in range(options.repeats):
            for name in sorted(workloads, reverse=repeat % 2 == 1):
                seconds[name].append(steady_epoch_seconds(workloads[name].run(spec, only_training=True).epochs))
            print(f"repeat {repeat + 1}:", {name: round(values[-1], 3) for name, values in seconds.items()}, flush=True)
        source = workloads["mapped"].source
    figure = ratio(
        "speed of training from images decoded on demand against images decoded once",
        seconds["mapped"],
        seconds["on demand"],
        detail=f"an epoch of {sizes.num_images} images of 32 pixels, batches of {sizes.batch_size}, {source}",
    )
    if not options.quick or options.out:
        save_figures("data", (__doc__ or "").strip(), [figure], path=options.out, seconds_an_epoch=seconds)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks data", description=__doc__)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="tiny networks, a smoke test; nothing is written")
    parser.add_argument("--out", type=Path, help="write the result here")
    return parser

"""What does it cost if decoded pictures have no room? Training from pictures that are decoded again in every epoch.

The same job with its pictures decoded once and mapped into memory, and with none kept, so that each batch is decoded
while the one before is trained on. Both train on all processors, so that the decoding is not hidden but shared; with
a GPU it would be. Epochs after the first, in turn.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.figures import keep, ratio
from benchmarks.lessons import Classroom, Sizes, settled


def main(arguments: Sequence[str]) -> int:
    """Measure, print and write."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    usual = Sizes(pictures=512, epochs=4)
    sizes = Sizes(pictures=40, epochs=3, batch_size=20, tiny=True) if options.quick else usual
    with tempfile.TemporaryDirectory(prefix="potstill-benchmark-") as folder:
        rooms = {
            "mapped": Classroom(Path(folder), sizes, threads=options.threads),
            "on demand": Classroom(Path(folder), sizes, threads=options.threads, pixel_cache_bytes=0),
        }
        spec = rooms["mapped"].spec(None)
        taken: dict[str, list[float]] = {name: [] for name in rooms}
        for repeat in range(options.repeats):
            for name in sorted(rooms, reverse=repeat % 2 == 1):
                taken[name].append(settled(rooms[name].run(spec, only_training=True).epochs))
            print(f"repeat {repeat + 1}:", {name: round(values[-1], 3) for name, values in taken.items()}, flush=True)
        source = rooms["mapped"].source
    figure = ratio(
        "speed of training from pictures decoded on demand against pictures decoded once",
        taken["mapped"],
        taken["on demand"],
        detail=f"an epoch of {sizes.pictures} pictures of 32 pixels, batches of {sizes.batch_size}, {source}",
    )
    if not options.quick or options.out:
        keep("data", (__doc__ or "").strip(), [figure], path=options.out, seconds_an_epoch=taken)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks data", description=__doc__)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="tiny networks, to see that it works; nothing is written")
    parser.add_argument("--out", type=Path, help="write the result here")
    return parser

"""Does distilling from stored answers cost anything? Against training the same student from labels alone.

Both are whole jobs of the engine up to the end of their training: batches, loss, optimiser, metrics, checkpoints,
looks at the test split. Compared are all epochs after the first; the cache was filled by a job before.
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
    usual = Sizes(pictures=512, epochs=5)
    sizes = Sizes(pictures=40, epochs=3, batch_size=20, tiny=True) if options.quick else usual
    with tempfile.TemporaryDirectory(prefix="potstill-benchmark-") as folder:
        room = Classroom(Path(folder), sizes, threads=options.threads)
        specs = {"labels": room.spec(None), "answers": room.spec("equal")}
        room.run(specs["answers"], only_training=True)
        taken: dict[str, list[float]] = {name: [] for name in specs}
        for repeat in range(options.repeats):
            # In turn who comes first, so that a machine that gets slower favours neither.
            for name in sorted(specs, reverse=repeat % 2 == 1):
                taken[name].append(settled(room.run(specs[name], only_training=True).epochs))
            print(f"repeat {repeat + 1}:", {name: round(values[-1], 3) for name, values in taken.items()}, flush=True)
    figure = ratio(
        "speed of distilling from stored answers against training from labels alone",
        taken["labels"],
        taken["answers"],
        goal="≥ 0.97",
        detail=f"an epoch of {sizes.pictures} pictures, batches of {sizes.batch_size}, {room.source}, through the "
        "whole training loop",
    )
    if not options.quick or options.out:
        keep("cached_training", (__doc__ or "").strip(), [figure], path=options.out, seconds_an_epoch=taken)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks cached_training", description=__doc__)
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="tiny networks, to see that it works; nothing is written")
    parser.add_argument("--out", type=Path, help="write the result here")
    return parser

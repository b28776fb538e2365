"""The training of a first job with and without an idle worker that computes teacher outputs ahead of it.

Every process has one thread. The second process has imported the engine before, as a warm worker has; its time to build
the job's networks counts. A small student and a large teacher: nearly all of the time is the first pass of the teacher.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.context import SpawnContext
from multiprocessing.queues import Queue
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Semaphore
from pathlib import Path

import torch

from benchmarks.engine import JobInputs, run
from benchmarks.figures import ratio, save_figures
from benchmarks.workload import TimingReporter, Workload, WorkloadSize
from core.cache_filling import fill_views
from core.reporting import Interrupted, NullReporter, ViewOffer
from core.spec import JobSpec


@dataclass(frozen=True, slots=True)
class Shared:
    """What the processes of one training share. ``ready`` is released by each further process when it may be used."""

    ready: Semaphore
    offers: Queue[ViewOffer]
    next_view: Synchronized[int]

    @classmethod
    def create(cls, context: SpawnContext) -> Shared:
        """Create the queue, the counter and the semaphore."""
        return cls(context.Semaphore(0), context.Queue(), context.Value("i", 0))


class OfferingReporter(TimingReporter):
    """Passes the first offer of views to the other processes, and keeps their next view ahead of the training."""

    def __init__(self, root: Path, *, teachers: Path, shared: Shared, num_processes: int) -> None:
        super().__init__(root, teachers=teachers, only_training=True)
        self._shared = shared
        self._waiting = num_processes  # processes that have no offer yet

    def offer_views(self, offer: ViewOffer) -> None:
        """Pass an offer on."""
        next_view = self._shared.next_view
        with next_view.get_lock():
            next_view.value = max(next_view.value, offer.next_view)
        for _ in range(self._waiting):
            self._shared.offers.put(offer)
        self._waiting = 0


def fill(inputs: JobInputs, spec: JobSpec, root: Path, shared: Shared) -> None:
    """Compute views of the first offer, in a process of its own, which has imported the engine."""
    root.mkdir(exist_ok=True)
    shared.ready.release()
    offer, next_view = shared.offers.get(), shared.next_view

    def views() -> Iterator[int]:
        while True:
            with next_view.get_lock():
                view = next_view.value
                next_view.value = view + 1
            if view >= offer.num_views:
                return
            yield view

    fill_views(spec, inputs.workspace(spec, root), NullReporter(), views_key=offer.views_key, views=views())


def training_seconds(workload: Workload, spec: JobSpec, num_processes: int) -> float:
    """Return the seconds of a training with an empty cache and further processes that compute teacher outputs."""
    workload.clear_teacher_cache()
    spawn = multiprocessing.get_context("spawn")
    shared = Shared.create(spawn)
    roots = [workload.inputs.work / f"filling-{index}" for index in range(num_processes)]
    processes = [spawn.Process(target=fill, args=(workload.inputs, spec, root, shared), daemon=True) for root in roots]
    for process in processes:
        process.start()
    for _ in processes:
        shared.ready.acquire()
    root = workload.inputs.work / "run"
    shutil.rmtree(root, ignore_errors=True)
    reporter = OfferingReporter(
        root, teachers=workload.inputs.work / "teachers", shared=shared, num_processes=num_processes
    )
    with suppress(Interrupted):
        run(workload.inputs, spec, root, reporter)
    for process in processes:
        process.join()
    return reporter.stages["distill"]


def main(arguments: Sequence[str]) -> int:
    """Measure, print and write."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    usual = WorkloadSize(num_images=128, epochs=8, views=None)
    sizes = WorkloadSize(num_images=40, epochs=3, batch_size=20, views=None, tiny=True) if options.quick else usual
    with tempfile.TemporaryDirectory(prefix="potstill-benchmark-") as folder:
        workload = Workload(Path(folder), sizes, threads=1)
        spec = workload.spec("deit_small")
        workload.run(workload.spec(None), only_training=True)  # decodes the images
        seconds: dict[int, list[float]] = {0: [], 1: []}
        for repeat in range(options.repeats):
            for number in sorted(seconds, reverse=repeat % 2 == 1):
                seconds[number].append(training_seconds(workload, spec, number))
            print(
                f"repeat {repeat + 1}:",
                {number: round(values[-1], 2) for number, values in seconds.items()},
                flush=True,
            )
    figure = ratio(
        "training of a first job: one process against two, of which one computes teacher outputs ahead",
        seconds[0],
        seconds[1],
        goal="≥ 1.6",
        detail=f"{sizes.describe()}, a new view in every epoch, teacher deit_small, one thread per process",
    )
    if not options.quick or options.out:
        save_figures("cache_filling", (__doc__ or "").strip(), [figure], path=options.out, seconds=seconds)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks cache_filling", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="tiny networks, a smoke test; nothing is written")
    parser.add_argument("--out", type=Path, help="write the result here")
    return parser

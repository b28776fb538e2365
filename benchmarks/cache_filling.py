"""The training of a first job with and without idle workers that compute teacher outputs for it.

Every process has one thread and needs a core: with fewer cores than processes there is nothing to gain, so the figures
name the cores. The further processes have imported the engine before, as a warm worker has; their time to build the
job's networks counts. A small student and a large teacher: nearly all of the time is the first pass of the teacher. Two
jobs: one shows a new view in every epoch, the other one view. The number of shards that each process computed does not
depend on other load on the machine, as the times do.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.context import SpawnContext
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Semaphore
from pathlib import Path

import torch

from benchmarks.engine import JobInputs, run
from benchmarks.figures import ratio, save_figures
from benchmarks.workload import TimingReporter, Workload, WorkloadSize
from core.cache_filling import fill_views
from core.reporting import Interrupted, NullReporter, ViewOffer
from core.spec import JobSpec

_EFFICIENCY = 0.8  # of each process that has a core
_JOBS = {
    "a new view in every epoch": WorkloadSize(num_images=128, epochs=8, views=None),
    "one view": WorkloadSize(num_images=1024, epochs=1, views=1),
}
_TINY = {
    "a new view in every epoch": WorkloadSize(num_images=40, epochs=3, batch_size=20, views=None, tiny=True),
    "one view": WorkloadSize(num_images=300, epochs=1, batch_size=100, views=1, tiny=True),
}


@dataclass(frozen=True, slots=True)
class Shared:
    """What the processes of one training share. ``ready`` is released by each further process when it may be used."""

    ready: Semaphore
    offers: Queue[ViewOffer]
    num_shards: Queue[int]  # computed by each further process

    @classmethod
    def create(cls, context: SpawnContext) -> Shared:
        """Create the queues and the semaphore."""
        return cls(context.Semaphore(0), context.Queue(), context.Queue())


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of a training, and the shards that its processes computed; its own process comes first."""

    seconds: float
    num_shards: tuple[int, ...]


class OfferingReporter(TimingReporter):
    """Passes the first offer of views to the other processes."""

    def __init__(self, root: Path, *, teachers: Path, shared: Shared, num_processes: int) -> None:
        super().__init__(root, teachers=teachers, only_training=True)
        self._shared = shared
        self._waiting = num_processes  # processes that have no offer yet

    def offer_views(self, offer: ViewOffer) -> None:
        """Pass an offer on."""
        for _ in range(self._waiting):
            self._shared.offers.put(offer)
        self._waiting = 0


def fill(inputs: JobInputs, spec: JobSpec, root: Path, shared: Shared) -> None:
    """Compute missing shards from the first offer on, in a process of its own, which has imported the engine."""
    torch.set_num_threads(1)
    root.mkdir(exist_ok=True)
    shared.ready.release()
    offer, workspace = shared.offers.get(), inputs.workspace(spec, root)
    num_shards = fill_views(spec, workspace, NullReporter(), views_key=offer.views_key, next_view=offer.next_view)
    shared.num_shards.put(num_shards)


def measure(workload: Workload, spec: JobSpec, num_processes: int) -> Measured:
    """Run a training with an empty cache and further processes that compute teacher outputs."""
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
    others = tuple(shared.num_shards.get() for _ in processes)
    for process in processes:
        process.join()
    return Measured(reporter.stages["distill"], (workload.num_cached_shards() - sum(others), *others))


def main(arguments: Sequence[str]) -> int:
    """Measure, print and write."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    cores = len(os.sched_getaffinity(0))
    if cores < 1 + max(options.helpers):
        print(f"{cores} cores for {1 + max(options.helpers)} processes: the times show no gain of the last ones")
    jobs = {name: size for name, size in (_TINY if options.quick else _JOBS).items() if options.only in {None, name}}
    measured = {
        name: measure_job(name, size, helpers=options.helpers, repeats=options.repeats) for name, size in jobs.items()
    }
    figures = [
        ratio(
            f"training of a first job with {name}: one process against {1 + number}, of which {number} only compute "
            "teacher outputs",
            *([each.seconds for each in runs[chosen]] for chosen in (0, number)),
            goal=f"≥ {_EFFICIENCY * min(cores, 1 + number):g}",
            detail=f"{jobs[name].describe()}, teacher deit_small, one thread per process, {cores} cores",
        )
        for name, runs in measured.items()
        for number in options.helpers
    ]
    if options.quick:
        print(*figures, sep="\n")
    if not options.quick or options.out:
        raw = {name: {n: [asdict(each) for each in runs[n]] for n in runs} for name, runs in measured.items()}
        save_figures("cache_filling", (__doc__ or "").strip(), figures, path=options.out, runs=raw)
    return 0


def measure_job(name: str, size: WorkloadSize, *, helpers: Sequence[int], repeats: int) -> dict[int, list[Measured]]:
    """Measure a job without and with further processes in alternation; return the runs by their number."""
    runs: dict[int, list[Measured]] = {number: [] for number in (0, *helpers)}
    with tempfile.TemporaryDirectory(prefix="potstill-benchmark-") as folder:
        workload = Workload(Path(folder), size, threads=1)
        spec = workload.spec("deit_small")
        workload.run(workload.spec(None), only_training=True)  # decodes the images
        for repeat in range(repeats):
            for number in sorted(runs, reverse=repeat % 2 == 1):
                runs[number].append(measure(workload, spec, number))
            pair = {n: (round(each[-1].seconds, 2), each[-1].num_shards) for n, each in runs.items()}
            load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
            print(f"{name}, repeat {repeat + 1}: seconds and shards by further processes {pair}, {load}", flush=True)
    return runs


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks cache_filling", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--helpers", type=int, nargs="+", default=[1, 2], help="numbers of further processes")
    parser.add_argument("--only", choices=tuple(_JOBS), help="measure one of the two jobs")
    parser.add_argument("--quick", action="store_true", help="tiny networks, a smoke test; nothing is written")
    parser.add_argument("--out", type=Path, help="write the result here")
    return parser

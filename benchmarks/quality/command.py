"""``python -m benchmarks quality``: the command line of the quality benchmark."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.cifar10 import ARCHIVE, ArchiveMissing, split_images
from benchmarks.quality.comparisons import families
from benchmarks.quality.estimate import Estimate
from benchmarks.quality.gains import gains
from benchmarks.quality.plan import Plan
from benchmarks.quality.protocol import FULL, QUICK
from benchmarks.quality.report import write_report
from benchmarks.quality.results import Results
from benchmarks.quality.schedule import OtherWeights, Scheduler
from benchmarks.results import DOCS, RESULTS, ROOT
from core.spec.gains import MEASURED, format_gains
from core.system.disk_cache import exclusive_lock

FOLDER = RESULTS / "quality"
WORK = ROOT / "demo" / "quality"


class AlreadyRunning(Exception):
    """Another process runs the benchmark in the same work folder."""


class WorkerPool(ProcessPoolExecutor):
    """Worker processes that do not receive the SIGINT of Ctrl-C: their runs end with a checkpoint.

    They inherit the blocked signal from their first instruction on.
    """

    def submit(self, *arguments: Any, **options: Any) -> Future[Any]:
        """Submit a call; start a process if one is missing."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(*arguments, **options)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def main(arguments: Sequence[str]) -> int:
    """Run what is missing, write the page, or print an estimate."""
    options = _parser().parse_args(arguments)
    if options.quick:
        options.work, options.results = options.work / "quick", options.work / "quick" / "results"
        options.page = options.work / "quality.md"
    plan = Plan(QUICK if options.quick else FULL, Results(options.results))
    only = [name.strip() for name in options.only.split(",") if name.strip()]
    unknown = set(only) - _names(plan)
    if unknown:
        print(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(sorted(_names(plan)))}", file=sys.stderr)
        return 2
    if options.retry_failed:
        plan.results.forget_failed()
    if options.estimate:
        print("\n".join(Estimate(plan).lines(only, workers=options.workers)))
        return 0
    status = 0
    if not options.report:
        try:
            status = _run(plan, only, options)
        except (ArchiveMissing, AlreadyRunning, OtherWeights) as error:
            print(error, file=sys.stderr)
            return 1
    if len(plan.results) or options.report:
        write_report(plan, options.page)
        print(f"{options.page} written")
        if not options.quick:
            MEASURED.write_text(format_gains(gains(plan, families(plan))), encoding="utf-8")
            print(f"{MEASURED} written")
    return status


def _run(plan: Plan, only: Sequence[str], options: argparse.Namespace) -> int:
    """Run the pending steps until all are finished, or until SIGINT, SIGTERM or the end of the time budget."""
    options.work.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(options.work / "lock", _refuse):
        split_images(options.work, plan.protocol.sizes)  # before the workers, which share it
        os.environ["OMP_NUM_THREADS"] = "1"  # of the worker processes
        context = multiprocessing.get_context("spawn")
        stop = context.Event()
        from benchmarks.quality import worker  # imports torch, which a report does not need

        def new_executor() -> Executor:
            return WorkerPool(
                options.workers,
                mp_context=context,
                initializer=worker.start_process,
                initargs=(os.getpid(), options.work, plan.protocol.sizes, ARCHIVE, stop),
            )

        scheduler = Scheduler(
            plan,
            worker.execute,
            executor=new_executor,
            has_weights=partial(worker.has_weights, options.work),
            discard=partial(worker.discard, options.work),
            workers=options.workers,
            report=partial(print, flush=True),
        )
        _stop_on_signals(stop.set)
        if options.budget_minutes is not None:
            timer = threading.Timer(60 * options.budget_minutes, stop.set)
            timer.daemon = True
            timer.start()
        is_complete = scheduler.run(only, stop)
    hours = Estimate(plan).remaining(only) / 3600 / options.workers
    print("All runs are finished." if is_complete else f"{hours:.1f} h remain; run the same command again to continue.")
    return 0 if is_complete or stop.is_set() else 1


def _stop_on_signals(stop: Callable[[], None]) -> None:
    """Let SIGINT and SIGTERM request a stop; a second one ends the process at once."""

    def handler(number: int, _frame: FrameType | None) -> None:
        print("Stopping after the current steps; checkpoints are being written.", flush=True)
        stop()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def _refuse() -> None:
    raise AlreadyRunning("another process runs the benchmark in this work folder; wait for it, or give another --work")


def _names(plan: Plan) -> set[str]:
    names: set[Any] = {step.name for step in plan.steps if step.arm is None}
    return names | {name for arm in plan.arms for name in (arm.name, arm.key, arm.method, arm.track)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks quality",
        description="Train every method with equal tuning and several seeds, and compare accuracies. SIGTERM, Ctrl-C "
        "and --budget-minutes stop it; the same command continues.",
    )
    parser.add_argument("--only", default="", help="comma-separated arms, methods or tracks, with what they need")
    parser.add_argument("--budget-minutes", type=float, default=None, help="stop after so many minutes")
    parser.add_argument(
        "--workers", type=int, default=min(2, os.cpu_count() or 1), help="runs at once, one thread each"
    )
    parser.add_argument("--estimate", action="store_true", help="only print the hours of the remaining runs")
    parser.add_argument("--report", action="store_true", help="only write the page from the results so far")
    parser.add_argument("--retry-failed", action="store_true", help="repeat runs that failed")
    parser.add_argument("--quick", action="store_true", help="rehearse every arm on tiny networks; the page stays")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of images, teachers and unfinished runs")
    parser.add_argument("--results", type=Path, default=FOLDER)
    parser.add_argument("--page", type=Path, default=DOCS / "quality.md")
    return parser

"""``python -m benchmarks compression``: the command line of the compression benchmark."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.cifar10 import SplitSizes
from benchmarks.compression.plan import GROUPS, STUDENTS, Protocol, Run, runs
from benchmarks.compression.report import write_report
from benchmarks.quality.results import Results
from benchmarks.results import DOCS, RESULTS, ROOT
from core.reporting import Interrupted


def main(arguments: Sequence[str]) -> int:
    """Run what is missing, and write the section of the page."""
    options = _parser().parse_args(arguments)
    protocol = Protocol(student=options.student, seeds=options.seeds)
    if options.quick:
        protocol = replace(protocol, epochs=1, views=1, sizes=SplitSizes(300, 0, 0, 0, test=200))
        options.work = options.work / "quick"
        options.results = options.work / "results"
    results, planned = Results(options.results), list(runs(protocol))
    wanted = set(options.only.split(",")) if options.only else {group.name for group in GROUPS}
    selected = [run for run in planned if run.group.name in wanted]
    if not options.report:
        _execute(protocol, selected, results, options)
    if not options.quick:
        write_report(protocol, planned, results, options.page)
        print(f"{options.page} written")
    return 0


def _execute(protocol: Protocol, selected: Sequence[Run], results: Results, options: argparse.Namespace) -> None:
    from benchmarks.compression.execution import Execution  # imports torch, which a report does not need

    budget = options.budget_minutes
    deadline = None if budget is None else time.monotonic() + 60 * budget
    options.work.mkdir(parents=True, exist_ok=True)
    execution = Execution(options.work, protocol, options.threads)
    for run in selected:
        if results.get(run.name, run.digest) is not None:
            continue
        if deadline is not None and time.monotonic() > deadline:
            break
        try:
            result = execution.execute(run, deadline=deadline)
        except Interrupted:
            print(f"{run.name} is interrupted; the same command continues it.")
            break
        results.add(result)
        figures = {row["arm"]: row["top1"] for row in result.get("rows", ())}
        clock = time.strftime("%H:%M:%S")
        print(f"{clock} {run.name} {result['status']} in {result['seconds']} s: {figures}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks compression",
        description="Compress trained students, measure every file, and write the section of docs/compression.md. The "
        "same command continues an interrupted run.",
    )
    parser.add_argument("--student", choices=sorted(STUDENTS), default="vit")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help=f"comma-separated groups: {', '.join(g.name for g in GROUPS)}")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--budget-minutes", type=float, default=None, help="stop after so many minutes")
    parser.add_argument("--report", action="store_true", help="only write the page from the results so far")
    parser.add_argument("--quick", action="store_true", help="rehearse every group on few images; the page stays")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "compression")
    parser.add_argument("--results", type=Path, default=RESULTS / "compression")
    parser.add_argument("--page", type=Path, default=DOCS / "compression.md")
    return parser

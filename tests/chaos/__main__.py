"""``python -m tests.chaos --n N --seed S``: N random hits on a running stack, and a table of the outcomes.

The exit status is 1 if a guarantee of docs/reliability.md was violated. The seed is printed first; it fixes the order
and the delays of the hits, but not the timing of the processes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import random
import secrets
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from tests.chaos.kills import HIT_TYPES, POSTGRESQL_HIT_TYPES, STAGES, Attack, Hit
from tests.chaos.stack import Stack
from tests.support.postgres import PostgresServer


def main(arguments: list[str] | None = None) -> int:
    """Run the hits; return 1 if a guarantee was violated."""
    options = _options(arguments)
    supported = HIT_TYPES + (POSTGRESQL_HIT_TYPES if options.database == "postgresql" else [])
    hit_types = [(target, name) for target, name in supported if target in options.targets and name in options.signals]
    _print(f"seed {options.seed}: {options.n} hits, {options.database}")
    with _temporary_home() as home, _database(options.database) as postgres:
        stack = Stack(home, postgres)
        hits: list[Hit] = []
        try:
            stack.start()
            attack = Attack(stack, random.Random(options.seed), epochs=options.epochs, log=_print)
            attack.prepare()
            began = time.monotonic()
            for hit in attack.hits(options.n, hit_types, options.seconds):
                hits.append(hit)
            seconds = time.monotonic() - began
            problems = attack.problems()
        except BaseException:
            _save_home(home)
            raise
        finally:
            alive = stack.stop()
        problems += [f"a process survived the stop: {line}" for line in alive]
        problems += [f"{hit.target} {hit.signal}, {hit.job}: {hit.problem}" for hit in hits if not hit.recovered]
        if problems:
            _save_home(home)
    _print(table(hits))
    stages = ", ".join(f"{sum(hit.stage == stage for hit in hits)} in {stage}" for stage in STAGES)
    _print(f"{len(hits)} hits in {seconds:.0f} s, on {len({hit.job for hit in hits})} jobs: {stages}")
    for problem in problems:
        _print(f"VIOLATED: {problem}")
    if options.json:
        report = {"seed": options.seed, "seconds": seconds, "hits": [asdict(hit) for hit in hits], "problems": problems}
        options.json.write_text(json.dumps(report, indent=1))
    return 1 if problems else 0


def table(hits: list[Hit]) -> str:
    """Markdown table of hits, recoveries and seconds until recovery by target and signal."""
    lines = ["| target | signal | hits | recovered | median s | worst s |", "| --- | --- | --- | --- | --- | --- |"]
    for target, signal_name in [*HIT_TYPES, *POSTGRESQL_HIT_TYPES]:
        group = [hit for hit in hits if (hit.target, hit.signal) == (target, signal_name)]
        seconds = [hit.seconds for hit in group if hit.seconds is not None]
        if group:
            times = f"{statistics.median(seconds):.1f} | {max(seconds):.1f}" if seconds else "- | -"
            num_recovered = sum(hit.recovered for hit in group)
            lines.append(f"| {target} | {signal_name} | {len(group)} | {num_recovered} | {times} |")
    return "\n".join(lines)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--n", type=int, default=10, help="number of hits")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32))
    parser.add_argument("--seconds", type=float, default=math.inf, help="time limit of the hits")
    parser.add_argument("--epochs", type=int, default=250, help="epochs of each training of a job")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    targets = sorted({target for target, _ in [*HIT_TYPES, *POSTGRESQL_HIT_TYPES]})
    signals = sorted({name for _, name in HIT_TYPES})
    parser.add_argument("--targets", type=lambda text: text.split(","), default=targets, help="comma-separated")
    parser.add_argument("--signals", type=lambda text: text.split(","), default=signals, help="comma-separated")
    parser.add_argument("--json", type=Path, help="write all hits to this file")
    return parser.parse_args(arguments)


@contextlib.contextmanager
def _temporary_home() -> Iterator[Path]:
    """Yield the path of a home folder; delete it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        yield folder / "home"
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def _database(kind: str) -> Iterator[PostgresServer | None]:
    """Start a PostgreSQL server; yield None for SQLite."""
    if kind == "sqlite":
        yield None
        return
    with contextlib.closing(PostgresServer()) as server:
        yield server


def _save_home(home: Path) -> None:
    """Copy logs, database and artifacts of a failed run."""
    copy = shutil.copytree(home, Path(tempfile.mkdtemp(prefix="chaos-failed-")) / "home")
    _print(f"logs, database and artifacts: {copy}")


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

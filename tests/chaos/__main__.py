"""``python -m tests.chaos --n N --seed S``: N hits at random on a running stack, and what became of them.

Exits with 1 if anything was not as promised (docs/reliability.md). The seed is printed first; it repeats the order of
the hits and their moments, as far as a machine repeats anything.
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

from tests.chaos.kills import CARDS, CARDS_OF_POSTGRESQL, Attack, Hit
from tests.chaos.parts import Postgres
from tests.chaos.stack import Stack


def main(arguments: list[str] | None = None) -> int:
    """Run the hits; 1 if anything was not as promised."""
    options = _options(arguments)
    known = CARDS + (CARDS_OF_POSTGRESQL if options.database == "postgresql" else [])
    cards = [card for card in known if card[0] in options.targets and card[1] in options.signals]
    _say(f"seed {options.seed}: {options.n} hits, {options.database}")
    with _home() as home, _database(options.database) as postgres:
        stack = Stack(home, postgres)
        hits: list[Hit] = []
        try:
            stack.start()
            attack = Attack(stack, random.Random(options.seed), epochs=options.epochs, say=_say)
            attack.prepare()
            began = time.monotonic()
            for hit in attack.hits(options.n, cards, options.seconds):
                hits.append(hit)
            seconds = time.monotonic() - began
            problems = attack.problems()
        except BaseException:
            _keep(home)
            raise
        finally:
            left = stack.stop()
        problems += [f"a process was left: {line}" for line in left]
        problems += [f"{hit.target} {hit.signal}, {hit.job}: {hit.problem}" for hit in hits if not hit.recovered]
        if problems:
            _keep(home)
    _say(table(hits))
    _say(f"{len(hits)} hits in {seconds:.0f} s, on {len({hit.job for hit in hits})} jobs")
    for problem in problems:
        _say(f"NOT AS PROMISED: {problem}")
    if options.json:
        report = {"seed": options.seed, "seconds": seconds, "hits": [asdict(hit) for hit in hits], "problems": problems}
        options.json.write_text(json.dumps(report, indent=1))
    return 1 if problems else 0


def table(hits: list[Hit]) -> str:
    """By target and signal: hits, how many were overcome, and how fast (seconds)."""
    lines = ["| target | signal | hits | recovered | median s | worst s |", "| --- | --- | --- | --- | --- | --- |"]
    for target, how in [*CARDS, *CARDS_OF_POSTGRESQL]:
        of = [hit for hit in hits if (hit.target, hit.signal) == (target, how)]
        took = [hit.seconds for hit in of if hit.seconds is not None]
        if of:
            times = f"{statistics.median(took):.1f} | {max(took):.1f}" if took else "- | -"
            lines.append(f"| {target} | {how} | {len(of)} | {sum(hit.recovered for hit in of)} | {times} |")
    return "\n".join(lines)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--n", type=int, default=10, help="hits")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32))
    parser.add_argument("--seconds", type=float, default=math.inf, help="no hit comes later than this after the first")
    parser.add_argument("--epochs", type=int, default=600, help="of each job")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parts = sorted({card[0] for card in [*CARDS, *CARDS_OF_POSTGRESQL]})
    parser.add_argument("--targets", type=lambda text: text.split(","), default=parts)
    parser.add_argument("--signals", type=lambda text: text.split(","), default=sorted({card[1] for card in CARDS}))
    parser.add_argument("--json", type=Path, help="write every hit to this file")
    return parser.parse_args(arguments)


@contextlib.contextmanager
def _home() -> Iterator[Path]:
    """A folder for the stack, which goes with it."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        yield folder / "home"
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def _database(kind: str) -> Iterator[Postgres | None]:
    """A PostgreSQL of our own; None for SQLite."""
    if kind == "sqlite":
        yield None
        return
    with contextlib.closing(Postgres()) as server:
        yield server


def _keep(home: Path) -> None:
    """Logs, database and artefacts of a stack that did what it should not."""
    _say(f"the logs are kept: {shutil.copytree(home, Path(tempfile.mkdtemp(prefix='chaos-failed-')) / 'home')}")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

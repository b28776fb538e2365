"""The page that the quality benchmark leaves: the table, and in words what helped and what did not."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.results import table
from core.spec import METHODS

_STUDENTS_T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # 97.5 % quantile by number of runs
_NUM_TEST = 10_000
_CNN = {
    "dla34": "a dla34 that was trained on all 50,000 training pictures (79.5 % top-1 on the test split)",
    "resnet18": "a resnet18 that the job trained on the same pictures as the student, in 30 epochs",
}


class Named(Protocol):
    """A row of the benchmark."""

    @property
    def name(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def student(self) -> str: ...
    @property
    def teachers(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Measured:
    """All runs of one row."""

    entry: Named
    runs: tuple[Mapping[str, Any], ...]

    @property
    def tops(self) -> list[float]:
        """Top-1 on the test split, in percent, by seed."""
        return [100 * run["test_top1"] for run in self.runs]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.tops)

    @property
    def shown(self) -> str:
        """With a 95 % interval of the mean where there are several seeds."""
        if len(self.tops) < 2:
            return f"{self.mean:.1f}"
        half = _STUDENTS_T[len(self.tops)] * statistics.stdev(self.tops) / math.sqrt(len(self.tops))
        return f"{self.mean:.1f} ± {half:.1f}"


# Found on the validation pictures by hand, one seed each; the table has our defaults.
_DEFAULTS = (
    "\n## Defaults that follow from this\nThree recipes for CNNs on whole datasets did a small ViT with few pictures "
    "more harm than good, so their defaults differ from their papers'. By the validation pictures, one seed:\n\n"
    + table(
        ("parameter", "paper", "top-1", "here", "top-1"),
        (
            ("`beta` of `dkd`", "8", "24.3", "1", "31.4"),
            ("`weight` of `attention_transfer`", "1000", "24.4", "50", "31.9"),
            ("`weight` of `crd`", "0.8", "26.8", "0.2", "31.1"),
        ),
    )
)


def page(
    results: Sequence[Mapping[str, Any]],
    *,
    entries: Sequence[Named],
    baseline: Callable[[Any], str],
    budget: Mapping[str, Any],
) -> str:
    """The whole page from the runs that are done."""
    rows = {entry.name: row for entry in entries if (row := _row(entry, results)) is not None}
    noise = _noise(rows.values())
    failed = [result for result in results if result["status"] != "succeeded"]
    return "".join((
        _head(budget, results),
        _table(rows, baseline),
        _words(rows, baseline, noise),
        _DEFAULTS,
        _missing(entries, rows, failed),
    ))  # fmt: skip


def _row(entry: Named, results: Sequence[Mapping[str, Any]]) -> Measured | None:
    runs = tuple(r for r in results if r["entry"] == entry.name and r["status"] == "succeeded")
    return Measured(entry, runs[: max(_STUDENTS_T)]) if runs else None


def _noise(rows: Any) -> float:
    """By how many points two runs may differ that are of one kind: about 95 % of differences are smaller.

    From the rows with several seeds, and never less than what the size of the test split allows.
    """
    spreads = [statistics.variance(row.tops) for row in rows if len(row.tops) > 1]
    sampling = 100 * math.sqrt(0.25 / _NUM_TEST)
    deviation = math.sqrt(statistics.fmean(spreads)) if spreads else sampling
    return 1.96 * math.sqrt(2) * max(deviation, sampling)


def _head(budget: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> str:
    on = results[0]["machine"]
    hours = sum(result["seconds"] for result in results) / 3600
    return (
        "# What each method is worth on photographs\n"
        f"Made by `python -m benchmarks quality`. CIFAR-10, {budget['train']:,} training pictures, 32 × 32 pixels. The "
        "student is a ViT of 0.3 M parameters (patch 4, width 64, depth 6) that starts at random; every method gets "
        f"the same {budget['epochs']} epochs of the same {budget['views']} views of each (crop, flip, batches of "
        f"{budget['batch_size']}, AdamW with a peak rate of {budget['learning_rate']:g}) and its own defaults. This is "
        "a small budget on purpose: it "
        "says what a method does for few pictures and little time, not what its paper reached.\n\n"
        f"- Teacher `cnn` is {_CNN[results[0]['cnn']]}. "
        f"Teacher `vit` (width 128, depth 6) was distilled from it by `kd` on the {budget['train']:,} and "
        f"{budget['lessons']:,} further pictures in {budget['teacher_epochs']} epochs; methods that need a transformer "
        "as teacher have it, and are compared with `kd` from the same teacher.\n"
        "- Nothing is chosen by the test split: which methods get three seeds is decided on "
        f"{budget['validation']:,} held-out training pictures (column validation).\n"
        "- `cross_architecture` needs a CNN student: a resnet18 of one narrow block a stage, 0.7 M parameters, beside "
        "which stand `scratch` and `kd` with that student.\n"
        f"- `attention_probe` never sees the training pictures but chooses from {budget['pool']:,} others without "
        "labels; `uvc` starts from the student of `scratch`, so it is trained twice as long, and makes it cheaper.\n"
        "- What a step of each method costs is measured apart: [methods](methods/README.md).\n"
        "- Top-1 in percent, with a 95 % interval of the mean where there are several seeds.\n"
        f"- {hours:.1f} hours for all runs together, beside other work, on {on['processor']}, {on['cpus']} CPUs, torch "
        f"{on['torch']}.\n\n"
    )


def _table(rows: Mapping[str, Measured], baseline: Callable[[Any], str]) -> str:
    cells = []
    for row in sorted(rows.values(), key=lambda row: -row.mean):
        run, entry = row.runs[0], row.entry
        other = rows.get(baseline(entry))
        gain = f"{row.mean - other.mean:+.1f}" if other is not None and entry.method not in {"scratch", "kd"} else ""
        cells.append((
            f"`{entry.method}`" + (f" ({entry.name.partition(', ')[2]})" if ", " in entry.name else ""),
            " and ".join(entry.teachers) or "none",
            row.shown,
            gain,
            f"{100 * statistics.fmean(r['validation_top1'] for r in row.runs):.1f}",
            str(len(row.runs)),
            f"{run['parameters'] / 1e6:.2f} M",
        ))  # fmt: skip
    figures = ("top-1", "over kd", "validation", "seeds", "parameters")
    return table(("method", "teacher", *figures), cells, right=figures)


def _words(rows: Mapping[str, Measured], baseline: Callable[[Any], str], noise: float) -> str:
    better: list[str] = []
    alike: list[str] = []
    worse: list[str] = []
    harmful: list[str] = []
    for row in rows.values():
        kd, scratch = rows.get(baseline(row.entry)), rows.get(_scratch(row.entry))
        if row.entry.method in {"scratch", "kd"} or kd is None:
            continue
        gain = row.mean - kd.mean
        (better if gain > noise else worse if gain < -noise else alike).append(row.entry.name)
        if scratch is not None and row.mean < scratch.mean:
            harmful.append(row.entry.name)
    return (
        f"\n## In words\nTwo runs that differ only by chance are within {noise:.1f} points of each other nineteen "
        "times out of twenty, so smaller differences say nothing. Against `kd` from the same teacher, in this "
        f"budget:\n\n- better: {_list(better)}\n"
        f"- no difference that could be told from chance: {_list(alike)}\n"
        f"- worse: {_list(worse)}\n"
        f"- not even as good as no teacher at all (`scratch`): {_list(harmful)}\n\n"
        "What did not help here may well help with more pictures, longer training or parameters chosen for the pair.\n"
    )


def _scratch(entry: Named) -> str:
    return "scratch, CNN student" if entry.student == "cnn" else "scratch"


def _missing(entries: Sequence[Named], rows: Mapping[str, Measured], failed: Sequence[Mapping[str, Any]]) -> str:
    problems = "".join(f"- {result['entry']} (seed {result['seed']}): {result['problem']}\n" for result in failed)
    reported = {result["entry"] for result in failed}
    absent = [entry.name for entry in entries if entry.name not in rows and entry.name not in reported]
    said = f"\n## Not measured\nOf {len(METHODS)} methods: {_list(absent)}\n" if absent else ""
    return (f"\n## What did not run\n{problems}" if problems else "") + said


def _list(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"

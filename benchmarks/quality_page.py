"""``docs/quality.md``: the table of all methods, and a summary of which differences are significant."""

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
    "dla34": "a dla34 trained on all 50,000 training pictures (79.5 % top-1 on the test split)",
    "resnet18": "a resnet18 that the job trained on the student's images in 30 epochs",
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
class MeasuredRow:
    """All runs of one entry."""

    entry: Named
    runs: tuple[Mapping[str, Any], ...]

    @property
    def top1_values(self) -> list[float]:
        """Top-1 on the test split, in percent, by seed."""
        return [100 * run["test_top1"] for run in self.runs]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.top1_values)

    @property
    def label(self) -> str:
        """The mean, with its 95 % interval for several seeds."""
        if len(self.top1_values) < 2:
            return f"{self.mean:.1f}"
        half = (
            _STUDENTS_T[len(self.top1_values)] * statistics.stdev(self.top1_values) / math.sqrt(len(self.top1_values))
        )
        return f"{self.mean:.1f} ± {half:.1f}"


# Chosen on the validation images by hand, one seed each; the table has our defaults.
_DEFAULTS = (
    "\n## Changed defaults\nThree recipes for CNNs on full datasets reduced the accuracy of a small ViT on few images, "
    "so their defaults differ from their papers. Validation images, one seed:\n\n"
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
    """Return the page for all finished runs."""
    rows = {entry.name: row for entry in entries if (row := _row(entry, results)) is not None}
    noise = _noise(rows.values())
    failed = [result for result in results if result["status"] != "succeeded"]
    return "".join((
        _head(budget, results),
        _table(rows, baseline),
        _summary(rows, baseline, noise),
        _DEFAULTS,
        _missing(entries, rows, failed),
    ))  # fmt: skip


def _row(entry: Named, results: Sequence[Mapping[str, Any]]) -> MeasuredRow | None:
    runs = tuple(r for r in results if r["entry"] == entry.name and r["status"] == "succeeded")
    return MeasuredRow(entry, runs[: max(_STUDENTS_T)]) if runs else None


def _noise(rows: Any) -> float:
    """Return the 95 % bound, in points, of the difference between two runs of the same kind.

    Estimated from the entries with several seeds; at least the sampling error of the test split.
    """
    spreads = [statistics.variance(row.top1_values) for row in rows if len(row.top1_values) > 1]
    sampling = 100 * math.sqrt(0.25 / _NUM_TEST)
    deviation = math.sqrt(statistics.fmean(spreads)) if spreads else sampling
    return 1.96 * math.sqrt(2) * max(deviation, sampling)


def _head(budget: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> str:
    on = results[0]["machine"]
    hours = sum(result["seconds"] for result in results) / 3600
    return (
        "# Quality of every method on CIFAR-10\n"
        f"Made by `python -m benchmarks quality`. CIFAR-10, {budget['train']:,} training images, 32 × 32 pixels. The "
        "student is a ViT of 0.3 M parameters (patch 4, width 64, depth 6) with random initial weights. Every method "
        f"gets the same {budget['epochs']} epochs of the same {budget['views']} views (crop, flip, batches of "
        f"{budget['batch_size']}, AdamW with a peak rate of {budget['learning_rate']:g}) and its default parameters. "
        "The budget is small on purpose: it shows the effect with few images and little time, not the results of the "
        "papers.\n\n"
        f"- Teacher `cnn` is {_CNN[results[0]['cnn']]}. "
        f"Teacher `vit` (width 128, depth 6) was distilled from it by `kd` on the {budget['train']:,} and "
        f"{budget['teacher_extra']:,} further images in {budget['teacher_epochs']} epochs; methods that need a "
        "transformer teacher use it, and are compared with `kd` from the same teacher.\n"
        "- No choice depends on the test split: the methods with three seeds are chosen on "
        f"{budget['validation']:,} held-out training images (column validation).\n"
        "- `cross_architecture` needs a CNN student: a resnet18 with one narrow block per stage, 0.7 M parameters; "
        "`scratch` and `kd` with that student are listed too.\n"
        f"- `attention_probe` does not use the training images; it selects from {budget['pool']:,} unlabeled "
        "ones. `uvc` starts from the student of `scratch`, so it trains twice as long, and prunes it.\n"
        "- The step time of each method is measured separately: [methods](methods/README.md).\n"
        "- Top-1 in percent, with the 95 % interval of the mean for several seeds.\n"
        f"- {hours:.1f} hours for all runs, next to other work, on {on['processor']}, {on['cpus']} CPUs, torch "
        f"{on['torch']}.\n\n"
    )


def _table(rows: Mapping[str, MeasuredRow], baseline: Callable[[Any], str]) -> str:
    cells = []
    for row in sorted(rows.values(), key=lambda row: -row.mean):
        run, entry = row.runs[0], row.entry
        other = rows.get(baseline(entry))
        gain = f"{row.mean - other.mean:+.1f}" if other is not None and entry.method not in {"scratch", "kd"} else ""
        cells.append((
            f"`{entry.method}`" + (f" ({entry.name.partition(', ')[2]})" if ", " in entry.name else ""),
            " and ".join(entry.teachers) or "none",
            row.label,
            gain,
            f"{100 * statistics.fmean(r['validation_top1'] for r in row.runs):.1f}",
            str(len(row.runs)),
            f"{run['parameters'] / 1e6:.2f} M",
        ))  # fmt: skip
    figures = ("top-1", "over kd", "validation", "seeds", "parameters")
    return table(("method", "teacher", *figures), cells, right=figures)


def _summary(rows: Mapping[str, MeasuredRow], baseline: Callable[[Any], str], noise: float) -> str:
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
        f"\n## Summary\nTwo runs that differ only by chance are within {noise:.1f} points of each other in 95 % of "
        "cases, so smaller differences are not significant. Against `kd` from the same teacher, with this "
        f"budget:\n\n- better: {_list(better)}\n"
        f"- no significant difference: {_list(alike)}\n"
        f"- worse: {_list(worse)}\n"
        f"- below training without a teacher (`scratch`): {_list(harmful)}\n\n"
        "A method without effect here may help with more images, longer training, or parameters tuned for the pair.\n"
    )


def _scratch(entry: Named) -> str:
    return "scratch, CNN student" if entry.student == "cnn" else "scratch"


def _missing(entries: Sequence[Named], rows: Mapping[str, MeasuredRow], failed: Sequence[Mapping[str, Any]]) -> str:
    problems = "".join(f"- {result['entry']} (seed {result['seed']}): {result['problem']}\n" for result in failed)
    reported = {result["entry"] for result in failed}
    absent = [entry.name for entry in entries if entry.name not in rows and entry.name not in reported]
    text = f"\n## Not measured\nOf {len(METHODS)} methods: {_list(absent)}\n" if absent else ""
    return (f"\n## Failed runs\n{problems}" if problems else "") + text


def _list(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"

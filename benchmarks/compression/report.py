"""The section "Measured" of ``docs/compression.md`` and its plot, from the results so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.compression.plan import (
    FLOAT,
    INT8,
    PEER_DYNAMIC,
    PEER_PRUNED,
    PEER_STATIC,
    PRUNED,
    PRUNED_BY_LABELS,
    Protocol,
    Run,
)
from benchmarks.compression.scatter_plot import Point, plot
from benchmarks.compression.statistics import Arm, arms, find, paired
from benchmarks.paired_statistics import Comparison
from benchmarks.quality.results import Result, Results
from benchmarks.results import table

HEADING = "## Measured\n"
MAX_INT8_LOSS, MIN_INT8_RATIO, MAX_PRUNED_LOSS = 0.5, 3.5, 2.0  # goals: points, times, points
_HEADINGS = ("output", "top-1 %", "seeds", "difference", "kB", "times smaller", "FLOPs", "ms")


def write_report(protocol: Protocol, runs: Sequence[Run], results: Results, page: Path) -> None:
    """Replace the section of the page, and write the plot next to it; without a result there is no plot."""
    found = [result for run in runs if (result := results.get(run.name, run.digest)) is not None]
    measured = arms(found)
    svg = page.with_suffix(".svg")
    text = section(protocol, runs, found, measured, plot_name=svg.name)
    page.write_text(replaced(page.read_text(encoding="utf-8"), text), encoding="utf-8")
    if measured:
        points = [Point(_label(arm), arm.mean, arm.size_bytes / 1000, arm.latency_ms) for arm in measured]
        svg.write_text(plot(points), encoding="utf-8")
    else:
        svg.unlink(missing_ok=True)


def replaced(page: str, text: str) -> str:
    """Return the page with this section in the place of the one with the same heading."""
    before, _, rest = page.partition(HEADING)
    _, separator, after = rest.partition("\n## ")
    return f"{before}{text}{separator}{after}"


def section(
    protocol: Protocol, runs: Sequence[Run], found: Sequence[Result], measured: Sequence[Arm], *, plot_name: str
) -> str:
    """Return the text of the section."""
    made = "`python -m benchmarks compression`"
    if not measured:
        return f"{HEADING}**Nothing has been measured yet.** {made} runs the benchmark, in any number of parts.\n"
    rows = [_cells(arm) for arm in measured]
    return (
        f"{HEADING}Written by {made} from {len(found)} of {len(runs)} runs.\n\n"
        f"{_setting(protocol, found)}\n\n{table(_HEADINGS, rows, right=_HEADINGS[1:])}\n"
        f"![Accuracy against bytes and latency]({plot_name})\n\n{_reading(found, measured)}{_problems(found)}"
    )


def _setting(protocol: Protocol, found: Sequence[Result]) -> str:
    first = next(result for result in found if result["status"] == "succeeded")
    machine = first["machine"]
    student = next(row for row in first["rows"] if row["arm"] == FLOAT and row["format"] == "safetensors")
    held_out = protocol.sizes.train // 10
    return (
        f"CIFAR-10, {protocol.sizes.train:,} training images, of which {held_out:,} are held out for the gate. A "
        f"student of {student['parameters'] / 1e6:.2f} M parameters is trained for {protocol.epochs} epochs with `kd` "
        f"from a DLA-34 with {100 * first['teacher_top1']:.1f} % ({protocol.views} views, batches of 64, AdamW 1e-3). "
        f"All steps have their default parameters, and start from the same student of each seed. Accuracies are those "
        f"of the files on the 10,000 test images. {machine['processor']}, {first['threads']} thread, torch "
        f"{machine['torch']}."
    )


def _label(arm: Arm) -> str:
    return f"{arm.name}, model.{arm.format}" if arm.name == FLOAT else arm.name


def _cells(arm: Arm) -> tuple[str, ...]:
    difference = "" if arm.name == FLOAT else _difference(arm.difference, arm.mean_difference)
    return (
        _label(arm),
        f"{arm.mean:.2f}",
        str(len(arm.scores)),
        difference,
        f"{arm.size_bytes / 1000:,.0f}",
        f"{arm.times_smaller:.2f}",
        "" if arm.flops_fraction is None else f"{100 * arm.flops_fraction:.0f} %",
        f"{arm.latency_ms:.2f}",
    )


def _difference(comparison: Comparison | None, mean: float) -> str:
    return f"{mean:+.2f}" if comparison is None else f"{mean:+.2f} ± {comparison.half_width:.2f}"


# --- words --------------------------------------------------------------------------------------


def _reading(found: Sequence[Result], measured: Sequence[Arm]) -> str:
    lines = [f"- {line}" for line in _goals(measured)]
    if any(find(measured, name) for name in (PEER_STATIC, PEER_DYNAMIC)):
        lines.append(
            f"- {PEER_STATIC} and {PEER_DYNAMIC} are its quantizer with default parameters, on the same `model.onnx`."
        )
    if find(measured, PEER_PRUNED):
        lines.append(
            "- Torch-Pruning 1.6 has the criterion `taylor`, the target, images, epochs and rates of `prune`; every "
            "layer and head loses the same fraction, which is its default."
        )
    load, cpus = max(result["load_average"] for result in found), found[0]["machine"]["cpus"]
    busy = (
        f" Other programs ran meanwhile (load average up to {load:g} on {cpus} CPUs), so they cannot be compared."
        if load > 1.5
        else ""
    )
    lines.append(f"- Latencies are medians of one image, under the runtime of the file.{busy}")
    return (
        "Differences are those to the float student of the same seed, in points, with a 95 % interval of a paired "
        "t-test; without an interval there is one seed. Bytes are compared with the float file of the same format.\n\n"
        + "\n".join(lines)
        + "\n"
    )


def _goals(measured: Sequence[Arm]) -> list[str]:
    """Return a sentence for each goal that has figures."""
    lines = []
    int8, pruned, by_labels, by_peer = (find(measured, name) for name in (INT8, PRUNED, PRUNED_BY_LABELS, PEER_PRUNED))
    if int8 is not None:
        is_met = int8.mean_difference >= -MAX_INT8_LOSS and int8.times_smaller >= MIN_INT8_RATIO
        lines.append(
            f"Goal of int8: at most {MAX_INT8_LOSS} points lost at {MIN_INT8_RATIO} times fewer bytes or better. "
            f"{_verdict(is_met=is_met)}: {_difference(int8.difference, int8.mean_difference)} points, "
            f"{int8.times_smaller:.2f} times smaller.{_caution(int8.difference, MAX_INT8_LOSS, is_met=is_met)}"
        )
    if pruned is not None:
        is_met = pruned.mean_difference >= -MAX_PRUNED_LOSS
        lines.append(
            f"Goal of pruning to half of the FLOPs: at most {MAX_PRUNED_LOSS:g} points lost. "
            f"{_verdict(is_met=is_met)}: {_difference(pruned.difference, pruned.mean_difference)} points."
            f"{_caution(pruned.difference, MAX_PRUNED_LOSS, is_met=is_met)} A pruned network is "
            "trained further and the float student is not, so a gain is not one of pruning."
        )
    for other, name in ((by_labels, "labels alone"), (by_peer, "Torch-Pruning with labels alone")):
        if pruned is not None and other is not None:
            lines.append(_teacher_sentence(pruned.scores, other.scores, name))
    return lines


def _teacher_sentence(pruned: Mapping[int, float], others: Mapping[int, float], name: str) -> str:
    goal = f"Goal of the teacher: fine-tuning with its soft labels beats {name} by more than the interval."
    comparison = paired(pruned, others)
    if comparison is None:
        shared = sorted(pruned.keys() & others.keys())
        gains = ", ".join(f"{pruned[seed] - others[seed]:+.2f}" for seed in shared)
        return f"{goal} Not shown: {gains} points with one seed."
    is_met = comparison.difference > comparison.half_width
    found = _difference(comparison, comparison.difference)
    return f"{goal} {'Met' if is_met else 'Not shown'}: {found} points with {comparison.num_seeds} seeds."


def _verdict(*, is_met: bool) -> str:
    return "Met by the mean" if is_met else "Not met"


def _caution(comparison: Comparison | None, max_loss: float, *, is_met: bool) -> str:
    """Return a sentence where the interval does not support a goal that the mean meets."""
    if not is_met:
        return ""
    if comparison is None:
        return " One seed has no interval."
    includes_more = comparison.difference - comparison.half_width < -max_loss
    return " The interval includes larger losses." if includes_more else ""


def _problems(found: Sequence[Result]) -> str:
    failed: list[dict[str, Any]] = [result for result in found if result["status"] != "succeeded"]
    return "".join(f"- `{result['name']}` failed: {result['problem']}\n" for result in failed)

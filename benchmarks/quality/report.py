"""``docs/quality.md`` and its forest plot, from the results so far."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.paired_statistics import Comparison
from benchmarks.quality.arms import SCRATCH
from benchmarks.quality.comparisons import NEIGHBORS, Family, Row, families
from benchmarks.quality.estimate import Estimate
from benchmarks.quality.forest_plot import Panel, plot, verdict
from benchmarks.quality.plan import Plan
from benchmarks.results import table

_VERDICTS = ("better", "worse", "no difference")
_WORKERS = 2  # of the estimate

# Chosen with the earlier benchmark, one seed on validation images: weak evidence.
_DEFAULTS = (
    "\n## A default that was measured\nThe default of `beta` of `dkd` is 1, not the paper's 8 for CIFAR-100. It was "
    "chosen with an earlier, smaller benchmark: a ViT of 0.3 M parameters, 2,000 images, 12 epochs, one seed. Top-1 on "
    "validation images was 24.3 with 8 and 31.4 with 1. These figures are not comparable with those of this "
    "benchmark.\n"
)


def write_report(plan: Plan, path: Path) -> None:
    """Write the page, and the plot next to it; without comparisons there is no plot."""
    found = families(plan)
    svg = path.with_suffix(".svg")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(plan, found, plot_name=svg.name), encoding="utf-8")
    panels = _panels(plan, found)
    if panels:
        svg.write_text(plot(panels), encoding="utf-8")
    else:
        svg.unlink(missing_ok=True)


def page(plan: Plan, found: Sequence[Family], *, plot_name: str) -> str:
    """Return the page's text."""
    parts = ["# Quality of every method on CIFAR-10\n", _state(plan), _protocol(plan), _teachers(plan)]
    if _panels(plan, found):
        parts.append(f"\n## Differences\n![Differences with 95 % intervals]({plot_name})\n")
        parts.append(_reading(found))
    parts += [_section(plan, family) for family in found]
    parts += [_problems(plan), _missing(plan), _DEFAULTS]
    return "".join(parts)


# --- what was run and how -----------------------------------------------------------------------


def _state(plan: Plan) -> str:
    finished = [result for step in plan.steps if (result := plan.result(step)) is not None]
    hours = Estimate(plan).remaining() / 3600 / _WORKERS
    made = "Made by `python -m benchmarks quality`"
    if not finished:
        return (
            f"**No run has been made with this benchmark yet.** {made}: about {hours:.0f} hours on two cores, two runs "
            "at once with one thread each, in any number of parts. It can be stopped at any time and continues where "
            "it stopped. `--estimate` prints the hours of each part, `--report` writes this page from the runs so "
            "far.\n"
        )
    machines = sorted({f"{r['machine']['processor']}, torch {r['machine']['torch']}" for r in finished})
    spent = sum(result["seconds"] for result in finished) / 3600
    rest = f"about {hours:.0f} more hours on two cores" if hours else "none remain"
    return (
        f"{made}, {len(finished)} of {len(plan.steps)} runs so far; {rest}. The runs took {spent:.1f} hours of one "
        f"thread on {'; '.join(machines)}.\n"
    )


def _protocol(plan: Plan) -> str:
    protocol, sizes = plan.protocol, plan.protocol.sizes
    rates = ", ".join(f"{rate:g}" for rate in protocol.learning_rates)
    tracks = "".join(
        f"- **{key}** is a {track.title}: {track.epochs} epochs, {track.seeds} seeds.\n"
        for key, track in protocol.tracks.items()
    )
    return (
        f"\n## Protocol\nCIFAR-10, {sizes.train:,} training images, {sizes.validation:,} for validation, 32 × 32 "
        f"pixels. All arms of a track have the same student, images, epochs, {protocol.views} views (crop and flip), "
        f"batches of {protocol.batch_size}, AdamW and its schedule. Initial weights, views and order of the images are "
        f"those of the seed. {_parameters(plan)}\n\n"
        f"{tracks}"
        f"- **Tuning** is equal for every arm, labels alone included: the learning rates {rates} with a seed of its "
        f"own, for {100 * protocol.tuning_share:.0f} % of the epochs. The best on the validation images is used for "
        "all seeds.\n"
        "- **Test split**: each finished student is evaluated on it once, and no choice depends on it. No training, "
        "that of teachers included, reads a validation image.\n"
        f"- **`attention_probe`** does not read the training images; it selects as many from a pool of {sizes.pool:,} "
        "others. `uvc` starts from the student of `scratch`, so it trains twice as long, and prunes it.\n"
        f"- **`kd, unlabeled pool`** trains on the students' images and on the {sizes.pool:,} of the pool, without "
        "their labels, in as many steps as the other arms; the teacher was trained on both.\n"
        "- **Significance**: arms are compared by their differences within a seed. The variance is pooled over all "
        "arms of a track, after the means of arms and seeds. Intervals are 95 % t intervals of one comparison. A "
        "comparison is significant if its p-value is below 0.05 after Holm's correction for all of this page; "
        'otherwise the page says "no difference", which is not evidence that there is none.\n'
        "- **Peers** compute the loss with their own code in the same training; they run the teacher at every step.\n"
        "- The student and the data are small. The results show effects with few images, not those of the papers.\n"
    )


def _parameters(plan: Plan) -> str:
    """Return the sentence about the methods' parameters."""
    changed = [
        f"`{arm.method}` in track {arm.track} ({', '.join(f'{k} {v}' for k, v in arm.parameters.items())})"
        for arm in plan.arms
        if arm.kind == "method" and arm.parameters
    ]
    exceptions = f", except {' and '.join(changed)}" if changed else ""
    return f"Methods have their default parameters{exceptions}."


def _teachers(plan: Plan) -> str:
    rows = []
    for name, document in plan.protocol.teachers.items():
        result = plan.result(plan.step(f"teacher-{name}"))
        student, training = document["student"], document["training"]
        source = ", ".join(teacher["weights"].removeprefix("mdl_") for teacher in document.get("teachers", ()))
        rows.append((
            f"`{name}`",
            f"{student['architecture']} {', '.join(f'{k} {v}' for k, v in student['arguments'].items())}",
            f"`{document['method']['name']}`" + (f" from `{source}`" if source else ""),
            str(training["epochs"]),
            _percent(result, "validation_top1"),
            _percent(result, "test_top1"),
        ))  # fmt: skip
    headings = ("teacher", "network", "trained with", "epochs", "validation", "test")
    sizes = plan.protocol.sizes
    return (
        f"\n## Teachers\nTeachers are trained once, on all training images but those for validation; `assistant` on "
        f"{sizes.assistant:,} others than the students'. All students of a teacher learn from the same weights: a "
        "processor that gives other bits needs results of its own (`--results`).\n\n"
        + table(headings, rows, right=headings[3:])
    )


def _percent(result: dict[str, object] | None, key: str) -> str:
    value = None if result is None else result.get(key)
    return f"{100 * value:.1f}" if isinstance(value, float) else "not trained yet"


# --- results ------------------------------------------------------------------------------------


def _panels(plan: Plan, found: Iterable[Family]) -> list[Panel]:
    panels = []
    for family in found:
        kd = [each for each in family.comparisons if each.baseline != SCRATCH]
        labels = [each for each in family.comparisons if each.baseline == SCRATCH]
        title = _title(plan, family)
        panels += [Panel(f"{title}: against kd", kd), Panel(f"{title}: against labels alone", labels)]
    return [panel for panel in panels if panel.comparisons]


def _title(plan: Plan, family: Family) -> str:
    suffix = ", by nearest neighbors" if family.metric == NEIGHBORS else ""
    return plan.protocol.tracks[family.track].title + suffix


def _reading(found: Sequence[Family]) -> str:
    count = sum(len(family.comparisons) for family in found)
    significant = sum(each.is_significant for family in found for each in family.comparisons)
    return f"\n{significant} of {count} comparisons are significant after Holm's correction.\n"


def _section(plan: Plan, family: Family) -> str:
    figures = ("top-1", "seeds", "rate", "against kd", "against labels", "validation", "parameters")
    ordered = sorted(family.rows, key=lambda row: -row.mean)
    text = table(("arm", "teachers", *figures), [_cells(row, family) for row in ordered], right=figures)
    note = ""
    if family.metric == NEIGHBORS:
        note = (
            "Students without a classifier are scored by the labels of their nearest training images in the space of "
            "embeddings; so are the arms that they are compared with.\n\n"
        )
    noise = family.noise
    if noise is not None:
        note += (
            f"A single score has a standard deviation of {noise.deviation:.2f} points, after the means of arms and "
            f"seeds ({noise.degrees} degrees of freedom).\n\n"
        )
    return f"\n## {_title(plan, family)}\n{note}{text}{_words(family)}"


def _cells(row: Row, family: Family) -> tuple[str, ...]:
    deviation = row.deviation
    spread = "" if deviation is None else f" (SD {deviation:.1f})"
    validation = statistics.fmean(100 * result["validation_top1"] for result in row.results)
    return (
        f"`{row.arm.name}`",
        " and ".join(row.arm.teachers) or "none",
        f"{row.mean:.1f}{spread}",
        str(len(row.scores)),
        f"{row.learning_rate:g}",
        _difference(family.comparison(row.arm.name, row.arm.baseline)),
        _difference(family.comparison(row.arm.name, SCRATCH)),
        f"{validation:.1f}",
        f"{row.results[0]['parameters'] / 1e6:.2f} M",
    )


def _difference(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    difference = round(comparison.difference, 1) + 0.0  # no negative zero
    text = f"{difference:+.1f} ± {comparison.half_width:.1f}"
    return f"**{text}**" if comparison.is_significant else text


def _words(family: Family) -> str:
    """Return the sentences that follow from the statistics of a family."""
    kinds = {row.arm.name: row.arm.kind for row in family.rows}
    methods = [each for each in family.comparisons if kinds[each.arm] in {"method", "kd"}]
    kd = [each for each in methods if each.baseline != SCRATCH]
    labels = [each for each in methods if each.baseline == SCRATCH]
    others = [each for each in family.comparisons if kinds[each.arm] not in {"method", "kd"}]
    text = ""
    if kd:
        text += f"\nAgainst `kd` from the same teachers:\n{_lists(kd)}"
    if labels:
        text += f"\nAgainst labels alone (`scratch`):\n{_lists(labels)}"
    if others:
        text += "\nControls, assistant, unlabeled images and peers:\n" + "".join(map(_sentence, others))
    return text


def _lists(comparisons: Sequence[Comparison]) -> str:
    names = {each: [f"`{c.arm}`" for c in comparisons if verdict(c) == each] for each in _VERDICTS}
    return "".join(f"- {each}: {', '.join(found) or 'none'}\n" for each, found in names.items())


def _sentence(comparison: Comparison) -> str:
    return f"- `{comparison.arm}` against `{comparison.baseline}`: {_difference(comparison)}, {verdict(comparison)}\n"


# --- what is not there --------------------------------------------------------------------------


def _problems(plan: Plan) -> str:
    failed = [
        f"- `{step.name}`: {result['status']}, {' '.join(result['problem'].split())[-300:]}\n"
        for step in plan.steps
        if (result := plan.result(step)) is not None and result["status"] != "succeeded"
    ]
    return f"\n## Failed runs\n{''.join(failed)}" if failed else ""


def _missing(plan: Plan) -> str:
    """Return the arms without a finished seed, by track; nothing where there are no results at all."""
    if all(plan.result(step) is None for step in plan.steps):
        return ""
    lines = []
    for key, track in plan.protocol.tracks.items():
        arms = [arm for arm in plan.arms if arm.track == key]
        missing = [arm for arm in arms if all(plan.result(step) is None for step in plan.seeds(arm))]
        absent = [f"`{arm.name}`" + ("" if arm.is_installed else " (its package is not installed)") for arm in missing]
        if absent:
            lines.append(f"- {track.title}: {', '.join(absent)}\n")
    return f"\n## Not measured yet\n{''.join(lines)}" if lines else ""

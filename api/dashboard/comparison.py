"""Comparison of jobs: what differs in their specs, their figures, and accuracy against cost. Pure functions."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from api.dashboard import formats, views

Document = Mapping[str, Any]

_Z = 1.959964  # of a 95 % interval
_MIN_LATENCY_DIFFERENCE = 0.05  # of the lowest latency; measurements of equal files differ by as much
_NOT_COMPARED = frozenset({"name", "metadata"})


@dataclass(frozen=True, slots=True)
class FigureRow:
    """One figure of all jobs. ``best`` are the indexes of the best values, empty if no job is better."""

    label: str
    texts: tuple[str, ...]
    best: frozenset[int]


@dataclass(frozen=True, slots=True)
class Cost:
    """A cost that accuracy is plotted against."""

    key: str
    label: str
    form: Callable[[float | None], str]


@dataclass(frozen=True, slots=True)
class Point:
    """A student, or one of its compressed files, in a plot. ``number`` is that of its job, from 1."""

    number: int
    label: str
    cost: float
    top1: float
    is_compressed: bool


COSTS = (
    Cost("size_bytes", "File size", formats.size),
    Cost("flops", "FLOPs per image", formats.short),
    Cost("latency_ms", "Latency, one image", formats.milliseconds),
)


def spec_differences(jobs: Sequence[Document]) -> list[tuple[str, list[str]]]:
    """Return each field of the specs that is not equal in all jobs, with a text for each job."""
    leaves = [dict(_leaves(job["spec"])) for job in jobs]
    names = dict.fromkeys(name for each in leaves for name in each)
    rows = [(name, [each.get(name, formats.UNKNOWN) for each in leaves]) for name in names]
    return [(name, texts) for name, texts in rows if len(set(texts)) > 1]


def _leaves(spec: Document) -> Iterator[tuple[str, str]]:
    for name, value in spec.items():
        if name not in _NOT_COMPARED:
            yield from _nested_leaves(name, value)


def _nested_leaves(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _nested_leaves(f"{name}.{key}", inner)
    elif isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        for index, inner in enumerate(value):
            yield from _nested_leaves(f"{name}.{index}", inner)
    elif value is not None and value != []:
        yield name, value if isinstance(value, str) else json.dumps(value)


def figures(jobs: Sequence[Document], num_images: Sequence[int | None]) -> list[FigureRow]:
    """Return the figures of the jobs; ``num_images`` are those of their test splits, for the interval of top-1.

    No accuracy is the best one of jobs on different datasets. Latencies of equal networks differ by chance, and so do
    those within 5 %. No time is the best one where a job reused the training of a network.
    """
    most = None if have_different_datasets(jobs) else max
    students = [(job["result"] or {}).get("student") or {} for job in jobs]
    teachers = [_best_teacher(job) for job in jobs]
    top1 = [student.get("top1") for student in students]
    teacher_top1 = [teacher.get("top1") for teacher in teachers]
    retention = [_ratio(own, best) for own, best in zip(top1, teacher_top1, strict=True)]
    gains = [_baseline(job).get("gain") for job in jobs]
    rows = [
        FigureRow(
            "Top-1 accuracy",
            tuple(_with_interval(value, count) for value, count in zip(top1, num_images, strict=True)),
            _best(top1, most),
        ),
        FigureRow("Gain over the baseline, points", tuple(map(_gain_text, jobs)), _best(gains, most)),
        _row("Top-5 accuracy", [student.get("top5") for student in students], formats.percent, most),
        _row("Best teacher's top-1", teacher_top1, formats.percent, None),
        _row("Student ÷ teacher", retention, formats.percent, most),
        _row("Agreement", [(job["result"] or {}).get("agreement") for job in jobs], formats.percent, None),
        _row("Parameters", [student.get("parameters") for student in students], formats.short, min),
        *(_cost_row(cost, students) for cost in COSTS),
        _time_row(jobs),
    ]
    return [row for row in rows if any(text != formats.UNKNOWN for text in row.texts)]


def have_different_datasets(jobs: Sequence[Document]) -> bool:
    """Whether the accuracies of the jobs cannot be compared."""
    return len({job["spec"]["dataset"] for job in jobs}) > 1


def points(jobs: Sequence[Document], cost: Cost) -> list[Point]:
    """Return the students and their compressed files that have both figures."""
    found = []
    for number, job in enumerate(jobs, start=1):
        result = job["result"] or {}
        measured = [(views.title(job), result.get("student") or {}, False)]
        measured += [
            (f"{views.title(job)}, {entry['artifact']}", entry, True)
            for entry in result.get("compressed") or []
            if entry.get("artifact")  # a rejected output is not published
        ]
        for label, entry, is_compressed in measured:
            value, top1 = entry.get(cost.key), entry.get("top1")
            if value and top1 is not None:
                found.append(Point(number, label, float(value), float(top1), is_compressed))
    return found


def seconds_per_step(job: Document) -> float | None:
    """Return the mean duration of a training step of the student; None before its training."""
    stage = next((each for each in job["stages"] if each["name"] == "distill"), None)
    step = job["progress"].get("step")
    if stage is None or not stage["seconds"] or not step:
        return None
    return float(stage["seconds"]) / int(step)


def wilson_interval(fraction: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a fraction of ``count`` images (Wilson 1927)."""
    center = fraction + _Z**2 / (2 * count)
    margin = _Z * math.sqrt(fraction * (1 - fraction) / count + _Z**2 / (4 * count**2))
    scale = 1 + _Z**2 / count
    return (center - margin) / scale, (center + margin) / scale


def _with_interval(top1: float | None, count: int | None) -> str:
    if top1 is None or not count:
        return formats.percent(top1)
    low, high = wilson_interval(top1, count)
    return f"{formats.percent(top1)} ({100 * low:.1f} to {100 * high:.1f})"


def _gain_text(job: Document) -> str:
    baseline = _baseline(job)
    text = formats.points(baseline.get("gain"))
    if not baseline.get("gain_interval"):
        return text
    low, high = map(formats.points, baseline["gain_interval"])
    return f"{text} ({low} to {high})"


def _cost_row(cost: Cost, students: Sequence[Document]) -> FigureRow:
    values = [student.get(cost.key) for student in students]
    if cost.key != "latency_ms":
        return _row(cost.label, values, cost.form, min)
    known: dict[int, float] = {index: value for index, value in enumerate(values) if value}
    best: frozenset[int] = frozenset()
    if known:
        fastest = min(known, key=known.__getitem__)
        limit, size = (1 + _MIN_LATENCY_DIFFERENCE) * known[fastest], _network_size(students[fastest])
        best = frozenset(i for i, value in known.items() if value < limit or _network_size(students[i]) == size)
    return FigureRow(cost.label, tuple(map(cost.form, values)), best if len(best) < len(known) else frozenset())


def _network_size(student: Document) -> tuple[float | None, float | None]:
    return student.get("parameters"), student.get("flops")


def _time_row(jobs: Sequence[Document]) -> FigureRow:
    times = [views.elapsed_seconds(job) for job in jobs]
    reused = [views.reused_stages(job) for job in jobs]
    texts = [
        formats.duration(seconds) + (f" ({' and '.join(names)} reused)" if names and seconds is not None else "")
        for seconds, names in zip(times, reused, strict=True)
    ]
    complete = [seconds if job["status"] == "succeeded" else None for job, seconds in zip(jobs, times, strict=True)]
    return FigureRow("Time", tuple(texts), _best(complete, None if any(reused) else min))


def _row(
    label: str,
    values: Sequence[float | None],
    form: Callable[[float | None], str],
    better: Callable[..., float] | None,
) -> FigureRow:
    return FigureRow(label, tuple(map(form, values)), _best(values, better))


def _best(values: Sequence[float | None], better: Callable[..., float] | None) -> frozenset[int]:
    known = [value for value in values if value is not None]
    if better is None or len(known) < 2 or len(set(known)) == 1:
        return frozenset()
    return frozenset(index for index, value in enumerate(values) if value == better(known))


def _best_teacher(job: Document) -> Document:
    teachers = (job["result"] or {}).get("teachers") or []
    return max(teachers, key=lambda teacher: teacher.get("top1") or 0.0, default={})


def _baseline(job: Document) -> Document:
    return (job["result"] or {}).get("baseline") or {}


def _ratio(value: float | None, reference: float | None) -> float | None:
    return None if value is None or not reference else value / reference

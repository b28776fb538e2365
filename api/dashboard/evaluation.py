"""Presentation of the report's section on whether the teacher helped. Pure functions, no HTTP, no store.

Lengths of drawings are in units of their ``viewBox``; colors and sizes on the page are those of the style sheet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from api.dashboard import formats
from core.spec.teacher_names import teacher_name, teacher_subject

Document = Mapping[str, Any]

MAX_CLASS_ROWS = 20  # of the table of classes: those where the student is worst
MAX_MATRIX_CLASSES = 20  # more do not fit on a page; the largest confusions are listed
NUM_HEATS = 8  # shades of the confusion matrix
_FREE_COLORS = (4, 5, 6)  # of the palette, after those of student, first teacher and baseline
_PLOT_SIZE = 240.0  # of the reliability diagram, without labels


@dataclass(frozen=True, slots=True)
class ClassRow:
    """Accuracies (0…1) of one class; None if the class has no image, or there is no such network."""

    name: str
    num_images: int
    student: float | None
    teacher: float | None
    baseline: float | None


@dataclass(frozen=True, slots=True)
class MatrixCell:
    """Number of images, and the shade (0…``NUM_HEATS``) by their share of the row."""

    count: int
    heat: int
    is_diagonal: bool


@dataclass(frozen=True, slots=True)
class PlotBar:
    """Bar of the reliability diagram: accuracy of the images with a confidence in one bin."""

    x: float
    y: float
    width: float
    height: float
    title: str


def figures(evaluation: Document, result: Document) -> list[tuple[str, str, str]]:
    """Return the main figures as (label, value, note); those that do not exist are left out."""
    rows: list[tuple[str, str, str]] = []
    retention = (evaluation["retention"] or {}).get("top1")
    if retention is not None:
        rows.append(("Retention", formats.percent(retention), f"of the accuracy of {reference_teacher(evaluation)}"))
    gain = evaluation["gain"]
    if gain is not None:
        low, high = (formats.points(value) for value in gain["interval"])
        note = f"95\u00a0% interval {low} to {high}"
        if result.get("baseline"):
            note += f"; {_against(result['student'], result['baseline'])}"
        rows.append(("Gain over baseline", f"{formats.points(gain['top1'])} points", note))
    if result.get("agreement") is not None:
        rows.append(("Agreement", formats.percent(result["agreement"]), "equal predictions"))
    own = _calibration(evaluation, "student")
    if own is not None:
        rows.append(("Calibration error", formats.percent(own["ece"]), "confidence against accuracy"))
    return rows


def _against(student: Document, baseline: Document) -> str:
    return f"student {formats.percent(student['top1'])}, baseline {formats.percent(baseline['top1'])}"


def reference_teacher(evaluation: Document) -> str:
    """Return the name of the most accurate teacher, with which the student is compared: ``the teacher``."""
    index = (evaluation["retention"] or {"teacher": 0})["teacher"]
    return teacher_subject(index, len(evaluation["agreement"]))


def reference_color(evaluation: Document) -> int:
    """Return the number of the color of the most accurate teacher, as in ``charts.js``."""
    index: int = (evaluation["retention"] or {"teacher": 0})["teacher"]
    return 2 if index == 0 else _FREE_COLORS[(index - 1) % len(_FREE_COLORS)]


def class_rows(evaluation: Document) -> list[ClassRow]:
    """Return the classes where the student is least accurate, worst first."""
    reference = (evaluation["retention"] or {}).get("teacher")
    rows = [
        ClassRow(
            row["class"],
            row["num_images"],
            row["student"],
            None if reference is None else row["teachers"][reference],
            row["baseline"],
        )
        for row in evaluation["per_class"] or []
        if row["num_images"]
    ]
    return sorted(rows, key=lambda row: (row.student or 0.0, row.name))[:MAX_CLASS_ROWS]


def matrix(evaluation: Document) -> list[tuple[str, list[MatrixCell]]]:
    """Return the rows of the confusion matrix, by class; empty for too many classes."""
    confusion = evaluation["confusion"] or {}
    counts: Sequence[Sequence[int]] = confusion.get("matrix") or []
    if len(counts) > MAX_MATRIX_CLASSES:
        return []
    return [
        (
            name,
            [
                MatrixCell(count, _heat(count, sum(row)), is_diagonal=column == index)
                for column, count in enumerate(row)
            ],
        )
        for index, (name, row) in enumerate(zip(confusion.get("classes") or [], counts, strict=True))
    ]


def reliability(evaluation: Document) -> list[PlotBar]:
    """Return the bars of the student's reliability diagram, in a square of ``_PLOT_SIZE``; empty without labels."""
    own = _calibration(evaluation, "student")
    if own is None:
        return []
    return [
        PlotBar(
            x=round(_PLOT_SIZE * each["lower"], 2),
            y=round(_PLOT_SIZE * (1 - each["accuracy"]), 2),
            width=round(_PLOT_SIZE * (each["upper"] - each["lower"]) - 1, 2),
            height=round(_PLOT_SIZE * each["accuracy"], 2),
            title=f"{each['count']} images: confidence {formats.percent(each['confidence'])}, "
            f"accuracy {formats.percent(each['accuracy'])}",
        )
        for each in own["bins"]
        if each["count"]
    ]


def calibration_rows(evaluation: Document) -> list[tuple[str, Document]]:
    """Return the networks whose calibration was measured, by name."""
    found = [("Student", _calibration(evaluation, "student"))]
    teachers = (evaluation["calibration"] or {}).get("teachers") or []
    found += list(zip(_teacher_names(len(teachers)), teachers, strict=True))
    found.append(("Baseline", _calibration(evaluation, "baseline")))
    return [(name, each) for name, each in found if each is not None]


def robustness_rows(evaluation: Document) -> list[tuple[str, list[float | None]]]:
    """Return the accuracies of student, teachers and baseline on corrupted images, by corruption; clean ones first."""
    robustness = evaluation["robustness"]
    if robustness is None:
        return []
    rows = [{**robustness["clean"], "corruption": "without corruption"}, *robustness["corruptions"]]
    return [(_corruption_name(row["corruption"]), [row["student"], *row["teachers"], row["baseline"]]) for row in rows]


def _corruption_name(name: str) -> str:
    return name.replace("_", " ").capitalize().replace("Jpeg", "JPEG")


def network_names(evaluation: Document) -> list[str]:
    """Return the column names of :func:`robustness_rows`."""
    return ["Student", *_teacher_names(len(evaluation["agreement"])), "Baseline"]


def _teacher_names(count: int) -> list[str]:
    return [teacher_name(index, count).capitalize() for index in range(count)]


def cost_rows(report: Document) -> list[tuple[str, str]]:
    """Return seconds by stage and what the teacher cache saved, as (label, value) pairs."""
    cost = report.get("cost")
    if cost is None:
        return []
    rows = [(f"Stage {name}", formats.duration(seconds)) for name, seconds in cost["stages"].items()]
    rows.append(("Teacher outputs", formats.duration(cost["teacher_seconds"])))
    rows.append(("Saved by the teacher cache", formats.duration(cost["teacher_seconds_saved"])))
    return rows


def digest_rows(report: Document) -> list[tuple[str, str]]:
    """Return the digests of spec, data, networks, code and environment as (label, value) pairs."""
    digests = report.get("digests")
    if digests is None:
        return []
    teachers = list(zip(_teacher_names(len(digests["teachers"])), digests["teachers"], strict=True))
    rows = [
        ("Spec", digests["spec"]),
        ("Dataset", digests["dataset"]),
        *teachers,
        ("Baseline", digests["baseline"]),
        ("Student file", digests["student"]),
        (f"Code {digests['code']['version']}", digests["code"]["sha256"]),
        ("Environment", digests["environment"]),
    ]
    return [(label, value) for label, value in rows if value is not None]


def _calibration(evaluation: Document, network: str) -> Document | None:
    found: Document | None = (evaluation["calibration"] or {}).get(network)
    return found


def _heat(count: int, total: int) -> int:
    """Return the shade of a cell; a cell with an image has at least the lightest."""
    return 0 if count == 0 else max(1, round(NUM_HEATS * count / total))

"""A small job over HTTP for every method, on digits: every pair of families that a method accepts.

Starts the embedded stack on a new folder and uses it as any client does. Jobs run one at a time; the step time is that
of each job's preflight. ``benchmarks/step_costs.py`` compares the step times of methods.
"""

from __future__ import annotations

import argparse
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.engine import loss_terms
from benchmarks.results import DOCS, RESULTS, machine, table, write_json
from core.spec import METHODS
from core.spec.examples import example_job, example_teacher_families
from core.spec.methods import Family, Requirements
from potstill import ApiError, Potstill, PotstillError
from server.demo import stack

RESULT = RESULTS / "methods_over_rest.json"
PAGE = DOCS / "methods_over_rest.md"
IMAGE_SIZE, BATCH_SIZE = 16, 64
_QUICK = {"epochs": 1, "learning_rate": 2e-3, "warmup_epochs": 0, "augmentation": "none"}
MAX_JOB_SECONDS = 240.0  # a job takes a few

VARIANTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "fitnets + dkd": ("fitnets", {"logits": "dkd", "warmup_epochs": 0.5}, {}),
    "lift, wide_last": ("lift", {"form": "wide_last"}, {}),
    "dearkd, data_free": ("dearkd", {"data_free": True, "num_images": 64, "iterations": 20}, {}),
    "vitkd + wttm": ("vitkd", {"logits": "wttm"}, {}),
    "vkd, conv stem": ("vkd", {"stem": "conv"}, {}),
    "kd, balanced": ("kd", {}, {"balance": {"rule": "projected"}}),
    "kd, dot": ("kd", {}, {"balance": {"rule": "dot"}, "optimizer": "sgd"}),
    "tinyvit, 2 views, mixup, EMA": ("tinyvit", {}, {"views": 2, "mixup": 0.8, "ema": 0.9}),
}
"""Additional jobs by label: method, its parameters, and changes of the training block."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One job to run. ``optional``: the method may refuse the pair."""

    label: str
    document: dict[str, Any]
    student: str
    teachers: tuple[str, ...]
    optional: bool = False


@dataclass(slots=True)
class Row:
    """The result of a trial."""

    method: str
    student: str
    teachers: tuple[str, ...]
    status: str
    top1: float | None = None
    step_seconds: float | None = None
    terms: list[str] = field(default_factory=list)
    seconds: float | None = None
    problem: str = ""
    optional: bool = False

    @property
    def failed(self) -> bool:
        """Whether the trial failed. A refused optional pair is not a failure."""
        return self.status != "succeeded" and not (self.status == "refused" and self.optional)


def main(arguments: Sequence[str]) -> int:
    """Run all trials, print and write the table. Return 1 if a method failed."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the stack is stopped on exit
    selected = options.methods.split(",") if options.methods else list(METHODS)
    with tempfile.TemporaryDirectory(prefix="potstill-benchmark-") as folder:
        home = options.home or Path(folder) / "home"
        with stack(home) as (url, key), Potstill(url, key) as client:
            rows = _run(client, selected, second_pairs=not options.first_pairs)
    failed = sum(row.failed for row in rows)
    done = {row.method for row in rows if row.status == "succeeded"} & set(METHODS)
    text = _table(rows)
    print(text)
    print(f"{len(done)} of {len(METHODS)} methods ran a job over HTTP; {failed} of {len(rows)} jobs failed.")
    if not options.methods:
        _write(rows, text, len(done))
    return 1 if failed else 0


def trials(selected: Sequence[str], ids: dict[str, str], *, second_pairs: bool) -> Iterator[Trial]:
    """Yield the trials of each method; also with a CNN student and teacher where the method accepts any family."""
    for name in selected:
        needs = METHODS[name].params.info.needs
        first = (needs.student_families or ("transformer",))[0]
        yield _trial(name, name, first, example_teacher_families(needs), ids)
        others = _second(needs)
        if second_pairs and others is not None:
            yield _trial(name, name, *others, ids, optional=True)
    for label, (name, parameters, training) in VARIANTS.items():
        if name in selected:
            needs = METHODS[name].params.info.needs
            first = (needs.student_families or ("transformer",))[0]
            yield _trial(
                label, name, first, example_teacher_families(needs), ids, parameters=parameters, training=training
            )


def _second(needs: Requirements) -> tuple[Family, tuple[Family, ...]] | None:
    """Return a second pair of families that the method may accept: CNNs where it requires none."""
    if "weights" in needs.student:
        return None  # only one student has trained weights
    count = len(example_teacher_families(needs))
    student: Family = (*needs.student_families, "cnn", "cnn")[1] if needs.student_families else "cnn"
    if needs.student_families and len(needs.student_families) == 1:
        student = needs.student_families[0]
    teacher: Family = needs.teacher_families[-1] if needs.teacher_families else "cnn"
    pair = (student, (teacher,) * count)
    return None if pair == ((needs.student_families or ("transformer",))[0], example_teacher_families(needs)) else pair


def _trial(
    label: str,
    name: str,
    student: Family,
    teachers: tuple[Family, ...],
    ids: dict[str, str],
    *,
    parameters: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    optional: bool = False,
) -> Trial:
    document = example_job(
        name,
        dataset=ids["digits"],
        pool=ids["pool"],
        trained=ids.get("trained", "job_none"),
        image_size=IMAGE_SIZE,
        student_family=student,
        teacher_families=teachers,
    )
    document["name"] = label
    document["export"] = ["safetensors"] if optional else ["safetensors", "onnx"]
    document["method"] |= parameters or {}
    document["training"] = {
        **_QUICK, "batch_size": BATCH_SIZE, "image_size": IMAGE_SIZE, **(training or {}),
    }  # fmt: skip
    for teacher in document.get("teachers", ()):
        teacher["training"] = {**_QUICK, "batch_size": BATCH_SIZE}
    return Trial(label, document, student, teachers, optional)


def _run(client: Potstill, selected: Sequence[str], *, second_pairs: bool) -> list[Row]:
    ids = {"digits": _dataset(client, "digits"), "pool": _dataset(client, "mnist-5k")}
    baselines = ["scratch", *(name for name in selected if name != "scratch")]
    rows: list[Row] = []
    for name in baselines:
        for trial in trials([name], ids, second_pairs=second_pairs or name == "scratch"):
            row, job_id = _run_trial(client, trial)
            rows.append(row)
            if name == "scratch" and row.student == "transformer" and job_id and not row.failed:
                ids["trained"] = job_id
            pair = f"{row.student} ← {', '.join(row.teachers) or 'labels'}"
            print(f"{row.status:<10} {row.method:<30} {pair} {row.problem}", flush=True)
    return rows


def _dataset(client: Potstill, name: str) -> str:
    made = client.datasets.create({"type": "builtin", "name": name})
    return client.datasets.wait(made.id).id


def _run_trial(client: Potstill, trial: Trial) -> tuple[Row, str | None]:
    row = Row(trial.label, trial.student, trial.teachers, "refused", optional=trial.optional)
    began = time.monotonic()
    try:
        job = client.jobs.create(trial.document)
    except ApiError as error:
        row.problem = str(error)[:300]
        return row, None
    try:
        job = client.jobs.wait(job.id, timeout_seconds=MAX_JOB_SECONDS)
        row.status = job.status
        preflights = [event for event in client.jobs.past_events(job.id) if event.type == "preflight.passed"]
        row.step_seconds = preflights[0].data.get("step_seconds") if preflights else None
        row.terms = loss_terms(client.jobs.metrics(job.id).names)
    except PotstillError as error:
        row.status, row.problem = "lost", str(error)[:300]
    row.seconds = round(time.monotonic() - began, 1)
    row.top1 = job.result.student.top1 if job.result else None
    if job.error:
        row.problem = f"{job.error.code}: {job.error.message}"[:300]
    elif row.status == "succeeded" and not row.terms:
        row.status, row.problem = "no terms", "no loss term was logged"
    return row, job.id


def _table(rows: Sequence[Row]) -> str:
    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    figures = ("top-1", "ms per step", "job, s")
    headings = ("method", "student", "teachers", "status", *figures, "loss terms")
    cells = (
        (
            row.method,
            row.student,
            ", ".join(row.teachers) or "none",
            row.status,
            "" if row.top1 is None else f"{100 * row.top1:.1f} %",
            number(None if row.step_seconds is None else 1000 * row.step_seconds, ".1f"),
            number(row.seconds, ".1f"),
            ", ".join(row.terms) or row.problem,
        )
        for row in rows
    )
    return table(headings, cells, right=figures)


def _write(rows: Sequence[Row], text: str, done: int) -> None:
    on = machine()
    write_json(RESULT, {"machine": on, "rows": [asdict(row) for row in rows]})
    where = f"{on['processor']}, {on['cpus']} CPUs, torch {on['torch']}"
    PAGE.write_text(
        "# Every method over HTTP\n"
        "Generated by `python -m benchmarks methods_over_rest`: the embedded stack, one job after the other. 1,437 "
        f"digits at {IMAGE_SIZE} × {IMAGE_SIZE} pixels, batches of {BATCH_SIZE}, 1 epoch, teachers of 1 epoch that "
        "later jobs reuse. Top-1 after so few steps is no measure of a method; see [quality](quality.md). A step "
        "includes the teachers' outputs. `refused` marks second pairs that a method does not support, with the reason. "
        f"Machine: {where}.\n\n"
        f"{done} of {len(METHODS)} methods ran a job.\n\n{text}",
        encoding="utf-8",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks methods_over_rest", description=__doc__)
    parser.add_argument("--methods", default="", help="comma-separated names; nothing is written")
    parser.add_argument("--first-pairs", action="store_true", help="one pair of families for each method")
    parser.add_argument("--home", type=Path, help="home folder of the stack, instead of a temporary one")
    return parser

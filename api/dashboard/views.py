"""Presentation of a job document of the public API. Pure functions, no HTTP, no store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from api.dashboard import formats
from core.reporting import Stage
from core.spec import METHODS
from core.spec.revision import trains_models
from core.spec.teacher_names import teacher_name, teacher_subject

Document = Mapping[str, Any]

STATUSES = ("running", "queued", "paused", "succeeded", "failed", "cancelled")

# Refresh interval of a job's page, by status; the event stream triggers earlier refreshes.
_REFRESH_SECONDS = {"running": 1.5, "queued": 3.0, "paused": 10.0}
_LIST_BUSY_SECONDS = 2.0
_LIST_IDLE_SECONDS = 10.0

_STAGE_LABELS = {
    Stage.PREPARE: "Prepare",
    Stage.TEACHER: "Teacher",
    Stage.CACHE: "Cache",
    Stage.DISTILL: "Distill",
    Stage.BASELINE: "Baseline",
    Stage.COMPRESS: "Compress",
    Stage.EVALUATE: "Evaluate",
    Stage.EXPORT: "Export",
}

_STEP_LABELS = {Stage.TEACHER: "Teacher step", Stage.BASELINE: "Baseline step", Stage.COMPRESS: "Fine-tuning step"}

# Warnings of networks that are poor, and what they mean for the student's accuracy against its teacher's.
_ACCURACY_PROBLEMS = {
    "student_at_chance": "at chance level",
    "student_constant": "always the same class",
    "student_diverged": "after a diverged training",
    "student_below_baseline": "below its baseline",
    "teacher_at_chance": "which is at chance level",
    "teacher_below_baseline": "which is below a plain baseline",
    "teacher_below_student": "which is worse than its student",
}
_REUSED = "reused"  # note of a stage
_MIN_RETENTION = 0.95  # of the teacher's accuracy, for a success


@dataclass(frozen=True, slots=True)
class ActionButton:
    """A button for an action on a job."""

    name: str
    label: str
    style: Literal["primary", "plain", "danger"]
    hint: str
    confirm: bool = False


ACTIONS = {
    "resume": ActionButton("resume", "Resume", "primary", "Continue the job from where it was paused."),
    "retry": ActionButton("retry", "Retry", "primary", "Run the job again, from its last checkpoint if it has one."),
    "pause": ActionButton("pause", "Pause", "plain", "Pause the job at its next step."),
    "stop": ActionButton("stop", "Finish early", "plain", "Stop training now, then evaluate and export the student."),
    "cancel": ActionButton("cancel", "Cancel", "danger", "End the job without exporting a student.", confirm=True),
}


StageState = Literal["done", "current", "stopped", "upcoming", "skipped"]


@dataclass(frozen=True, slots=True)
class StageView:
    """A stage of the job, with its state and a short note."""

    name: str
    label: str
    state: StageState
    note: str


@dataclass(frozen=True, slots=True)
class StepCounter:
    """Completed and total steps of one training of the job."""

    label: str
    step: int
    total: int
    is_students: bool = False


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One metric of the student, the teachers and the baseline. ``verdict`` describes the difference to the teacher."""

    label: str
    student: str
    teachers: tuple[str, ...]
    verdict: str
    is_gain: bool
    baseline: str | None = None  # None: the job has no baseline


def actions(job: Document) -> list[ActionButton]:
    """Return the buttons of the job's next actions, in a fixed order."""
    allowed = set(job["next_actions"])
    buttons = [button for name, button in ACTIONS.items() if name in allowed]
    error = job["error"] or {}
    if not error.get("retryable", True):  # only the retry with the fix can succeed, which has its own button
        buttons = [button for button in buttons if button.name != "retry"]
    has_fix = bool(error.get("fix"))  # the retry with the fix is the primary button
    return [replace(button, style="plain") if has_fix and button.name == "retry" else button for button in buttons]


def stages(job: Document) -> list[StageView]:
    """Return all past and upcoming stages of the job, in order."""
    times = {stage["name"]: stage for stage in job["stages"]}
    planned = [Stage.PREPARE, Stage.DISTILL, Stage.EVALUATE, Stage.EXPORT]
    if trains_models(job["spec"]):
        planned.insert(1, Stage.TEACHER)
    if job["spec"].get("baseline"):
        planned.append(Stage.BASELINE)
    if job["spec"].get("compression"):
        planned.append(Stage.COMPRESS)
    return [
        StageView(stage.value, _STAGE_LABELS[stage], *_stage_state(job, stage, times))
        for stage in Stage
        if stage.value in times or stage in planned
    ]


def reused_stages(job: Document) -> list[str]:
    """Return the stages that the job did not need because an earlier job had trained their network: ``baseline``."""
    return [stage.name for stage in stages(job) if stage.note == _REUSED]


def step_counter(job: Document) -> StepCounter | None:
    """Return the step of the network that trains now, else the student's; None before the first training starts."""
    progress, stage = job["progress"], job["stage"]
    step, total = progress.get("stage_step"), progress.get("stage_total_steps")
    if stage in _STEP_LABELS and step is not None and total and not job["terminal"]:
        return StepCounter(_STEP_LABELS[stage], step, total)
    has_started = progress["step"] > 0 or stage == Stage.DISTILL
    if not has_started or not progress["total_steps"]:
        return None
    return StepCounter("Student step", progress["step"], progress["total_steps"], is_students=True)


def refresh_seconds(job: Document) -> float:
    """Return the refresh interval of a job's page; 0 for a job that has ended."""
    return _REFRESH_SECONDS.get(job["status"], 0.0)


def list_refresh_seconds(jobs: Sequence[Document]) -> float:
    """Return the refresh interval of the job list."""
    return _LIST_IDLE_SECONDS if all(job["terminal"] for job in jobs) else _LIST_BUSY_SECONDS


def title(job: Document) -> str:
    """Return the job's name, or its method and the end of its id."""
    return job["name"] or f"{job['spec']['method']['name']} {job['id'][-6:]}"


def summary(job: Document) -> str:
    """Summarize the job in one line: ``deit · resnet18 → vit_tiny_patch16_224``."""
    spec = job["spec"]
    student = spec["student"]["architecture"]
    teachers = " + ".join(teacher["architecture"] for teacher in spec.get("teachers") or [])
    return f"{spec['method']['name']} · {teachers} → {student}" if teachers else f"{spec['method']['name']} · {student}"


def elapsed_seconds(job: Document) -> float | None:
    """Return the time from the first start to the end; None for a job that has not ended."""
    if job["started_at"] is None or job["finished_at"] is None:
        return None
    return (formats.parse_time(job["finished_at"]) - formats.parse_time(job["started_at"])).total_seconds()


def status_text(job: Document) -> str:
    """Describe the job's status in a few words; screen readers announce changes."""
    if job["pending_action"]:
        return f"{job['status']}, {job['pending_action']} requested"
    if job["status"] == "running" and job["stage"]:
        return f"running, {_STAGE_LABELS[Stage(job['stage'])].lower()}"
    return str(job["status"])


def is_classifier(job: Document) -> bool:
    """Whether the job's student has classes, so that it can classify an image."""
    return not METHODS[job["spec"]["method"]["name"]].params.info.needs.headless


def comparison(result: Document, warnings: Sequence[Document] = ()) -> list[ComparisonRow]:
    """Compare the student with its teachers and baseline, one row per metric; verdicts refer to the best teacher.

    ``warnings`` are the job's: they tell which networks are poor.
    """
    student, teachers, baseline = result["student"], result["teachers"], result.get("baseline")
    best = max(teachers, key=lambda teacher: teacher["top1"] or 0.0, default=None)
    problem = None if best is None else _accuracy_problem(warnings, teachers.index(best))

    def row(label: str, key: str, form: Callable[[float | None], str], verdict: tuple[str, bool]) -> ComparisonRow:
        teacher_texts = tuple(form(teacher.get(key)) for teacher in teachers)
        baseline_text = form(baseline.get(key)) if baseline else None
        return ComparisonRow(label, form(student.get(key)), teacher_texts, *verdict, baseline=baseline_text)

    def ratio(key: str, words: tuple[str, str]) -> tuple[str, bool]:
        teacher_value, student_value = (best or {}).get(key), student.get(key)
        return _ratio(teacher_value, student_value, words) if teacher_value and student_value else ("", False)

    return [
        row("Top-1 accuracy", "top1", formats.percent, _retention(student, teachers, best, problem)),
        row("Top-5 accuracy", "top5", formats.percent, ("", False)),
        row("Parameters", "parameters", formats.short, ratio("parameters", ("fewer", "more"))),
        row("FLOPs per image", "flops", formats.short, ratio("flops", ("fewer", "more"))),
        row("File size", "size_bytes", formats.size, ratio("size_bytes", ("smaller", "larger"))),
        row("Latency, one image", "latency_ms", formats.milliseconds, ratio("latency_ms", ("faster", "slower"))),
    ]


def teacher_label(index: int, num_teachers: int) -> str:
    """Return the name of a teacher as a heading: ``Teacher``, or ``Teacher 0`` where the job has several."""
    return teacher_name(index, num_teachers).capitalize()


def _teacher_rows(teachers: Sequence[Document]) -> list[tuple[str, str]]:
    """Return one row per teacher; several teachers are numbered from 0, as in the spec."""
    return [
        (teacher_label(index, len(teachers)), f"{teacher['architecture']}, {teacher['weights']}")
        for index, teacher in enumerate(teachers)
    ]


def settings(job: Document, dataset_names: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the main settings of the job's spec as (label, value) pairs. Datasets without a name have their id."""
    spec = job["spec"]
    training = spec.get("training") or {}
    method = spec["method"]
    rows = [
        ("Dataset", dataset_names.get(spec["dataset"], spec["dataset"])),
        ("Unlabeled dataset", dataset_names.get(spec.get("unlabeled_dataset") or "", spec.get("unlabeled_dataset"))),
        ("Method", method["name"]),
        *((_label(key), value) for key, value in method.items() if key != "name"),
        *_teacher_rows(spec.get("teachers") or []),
        ("Student", f"{spec['student']['architecture']}, {spec['student'].get('weights', 'random')}"),
        ("Image size", _pixels(training.get("image_size"))),
        ("Epochs", training.get("epochs")),
        ("Batch size", training.get("batch_size")),
        ("Learning rate", training.get("learning_rate")),
        ("Augmentation", training.get("augmentation")),
        ("Precision", training.get("precision")),
        ("Seed", training.get("seed")),
        ("Baseline", "labels alone" if spec.get("baseline") else None),
        ("Attempt", job["attempt"]),
    ]
    return [(label, str(value)) for label, value in rows if value is not None]


def result_parts(job: Document) -> tuple[str, str]:
    """Return the parts of a result in their order; the compressed files come first where the job makes some."""
    has_compression = bool(job["spec"].get("compression"))
    return ("compression", "evaluation") if has_compression else ("evaluation", "compression")


def is_checkpoint(event: Document) -> bool:
    """Whether an event reports a checkpoint, which a job writes every few seconds."""
    return bool(event["type"].startswith("checkpoint"))


def newest_events(events: Sequence[Document]) -> list[Document]:
    """Return the events, newest first; of checkpoints in a row only the newest."""
    newest: list[Document] = []
    for event in reversed(events):
        if not (newest and is_checkpoint(event) and is_checkpoint(newest[-1])):
            newest.append(event)
    return newest


def machine(error: Document) -> list[tuple[str, str]]:
    """Return memory and disk at the time of a failure as (label, value) pairs; unmeasured values are left out."""
    usage = error.get("machine") or {}
    device = usage.get("device") or {}
    rows = [
        ("Memory at the end", usage.get("memory_bytes")),
        ("Peak memory", usage.get("memory_peak_bytes")),
        ("Memory limit", usage.get("memory_limit_bytes")),
        ("Free memory", usage.get("memory_free_bytes")),
        ("Free disk space", usage.get("disk_free_bytes")),
        ("Peak device memory", device.get("memory_peak_bytes")),
        ("Free device memory", device.get("memory_free_bytes")),
    ]
    return [(label, formats.size(value)) for label, value in rows if value is not None]


def _stage_state(job: Document, stage: Stage, times: Mapping[str, Document]) -> tuple[StageState, str]:
    """Return the state of a stage, and a note."""
    own = times.get(stage.value)
    if own is None:
        order = list(Stage)
        if any(order.index(Stage(name)) > order.index(stage) for name in times):
            return "done", _REUSED  # a teacher with the same fingerprint, trained by an earlier job
        return ("skipped" if job["terminal"] else "upcoming"), ""
    if own["finished_at"] is not None:
        return "done", formats.duration(own["seconds"])
    if job["terminal"]:
        return "stopped", "" if own["seconds"] is None else formats.duration(own["seconds"])
    return "current", "now" if job["status"] == "running" else "waiting"


def _retention(
    student: Document, teachers: Sequence[Document], best: Document | None, problem: str | None
) -> tuple[str, bool]:
    """Describe the student's accuracy; it is a gain near that of a teacher without a ``problem``, or above it."""
    if not best or not best["top1"] or student["top1"] is None:
        return "", False
    retained = student["top1"] / best["top1"]
    name = teacher_subject(teachers.index(best), len(teachers))
    text = f"keeps {formats.percent(retained)} of {name}" if retained <= 1 else f"better than {name}"
    if problem is not None:
        return f"{text}, {problem}", False
    return text, retained >= _MIN_RETENTION


def _accuracy_problem(warnings: Sequence[Document], teacher: int) -> str | None:
    """Return why the accuracies are no success: the first problem of the student, or of this teacher."""
    found = {(warning["code"], warning.get("field")) for warning in warnings}
    codes = {code for code, field in found if not code.startswith("teacher_") or field == f"/teachers/{teacher}"}
    return next((text for code, text in _ACCURACY_PROBLEMS.items() if code in codes), None)


def _ratio(teacher: float, student: float, words: tuple[str, str]) -> tuple[str, bool]:
    """Describe the ratio, with ``words`` for lower and higher values; a difference below 5 % counts as the same."""
    factor, is_gain = (teacher / student, True) if teacher >= student else (student / teacher, False)
    if factor < 1.05:
        return "about the same", False
    return f"{formats.times(factor)} {words[0] if is_gain else words[1]}", is_gain


def _label(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _pixels(side: int | None) -> str | None:
    return None if side is None else f"{side} × {side}"

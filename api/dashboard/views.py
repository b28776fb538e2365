"""From a job document of the public API to what its page shows. Pure functions, no HTTP, no store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from api.dashboard import formats
from core.reporting import Stage

Document = Mapping[str, Any]

STATUSES = ("running", "queued", "paused", "succeeded", "failed", "cancelled")

# How long a page may be out of date, by status; the event stream makes it react at once in between.
_REFRESH_SECONDS = {"running": 1.5, "queued": 3.0, "paused": 10.0}
_LIST_BUSY_SECONDS = 2.0
_LIST_IDLE_SECONDS = 10.0

_STAGE_WORDS = {
    Stage.PREPARE: "Prepare",
    Stage.TEACHER: "Teacher",
    Stage.CACHE: "Cache",
    Stage.DISTILL: "Distil",
    Stage.COMPRESS: "Compress",
    Stage.EVALUATE: "Evaluate",
    Stage.EXPORT: "Export",
}


@dataclass(frozen=True, slots=True)
class JobAction:
    """A button: a move that the job's state allows."""

    name: str
    label: str
    style: Literal["primary", "plain", "danger"]
    hint: str
    confirm: bool = False


MOVES = {
    "resume": JobAction("resume", "Resume", "primary", "Queue the job again; it goes on where it stopped."),
    "retry": JobAction("retry", "Retry", "primary", "Queue the job again, from its last checkpoint."),
    "pause": JobAction("pause", "Pause", "plain", "Put the job aside at its next step."),
    "stop": JobAction("stop", "Finish early", "plain", "End training now, then evaluate and export what is there."),
    "cancel": JobAction("cancel", "Cancel", "danger", "End the job without a student.", confirm=True),
}


StageState = Literal["done", "current", "stopped", "ahead", "skipped"]


@dataclass(frozen=True, slots=True)
class StageView:
    """One station on the job's way."""

    name: str
    label: str
    state: StageState
    note: str


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One measure of the student beside the teachers'. ``verdict`` puts the difference in words."""

    label: str
    student: str
    teachers: tuple[str, ...]
    verdict: str
    is_gain: bool


def moves(job: Document) -> list[JobAction]:
    """The buttons: exactly the job's next actions, in a steady order."""
    allowed = set(job["next_actions"])
    shown = [move for name, move in MOVES.items() if name in allowed]
    has_fix = bool(job["error"] and job["error"]["fix"])  # its own button comes first then
    return [replace(move, style="plain") if has_fix and move.name == "retry" else move for move in shown]


def stages(job: Document) -> list[StageView]:
    """Every station that the job passed or will pass, in order."""
    times = {stage["name"]: stage for stage in job["stages"]}
    planned = [Stage.PREPARE, Stage.DISTILL, Stage.EVALUATE, Stage.EXPORT]
    if any(teacher.get("weights") == "train" for teacher in job["spec"].get("teachers") or []):
        planned.insert(1, Stage.TEACHER)
    return [
        StageView(stage.value, _STAGE_WORDS[stage], *_stage_state(job, stage, times))
        for stage in Stage
        if stage.value in times or stage in planned
    ]


def refresh_seconds(job: Document) -> float:
    """How often a job's page asks for news; 0 where nothing will change any more."""
    return _REFRESH_SECONDS.get(job["status"], 0.0)


def list_refresh_seconds(jobs: Sequence[Document]) -> float:
    """How often the list asks for news."""
    return _LIST_IDLE_SECONDS if all(job["terminal"] for job in jobs) else _LIST_BUSY_SECONDS


def title(job: Document) -> str:
    """What to call the job."""
    return job["name"] or f"{job['spec']['method']['name']} {job['id'][-6:]}"


def summary(job: Document) -> str:
    """The job in a line: ``deit · resnet18 → vit_tiny_patch16_224``."""
    spec = job["spec"]
    student = spec["student"]["architecture"]
    teachers = " + ".join(teacher["architecture"] for teacher in spec.get("teachers") or [])
    return f"{spec['method']['name']} · {teachers} → {student}" if teachers else f"{spec['method']['name']} · {student}"


def elapsed_seconds(job: Document) -> float | None:
    """From the first start to the end; ``None`` while there is no end."""
    if job["started_at"] is None or job["finished_at"] is None:
        return None
    return (formats.moment(job["finished_at"]) - formats.moment(job["started_at"])).total_seconds()


def state_words(job: Document) -> str:
    """What is going on, in a few words; read aloud by screen readers when it changes."""
    if job["pending_action"]:
        return f"{job['status']}, {job['pending_action']} is on its way"
    if job["status"] == "running" and job["stage"]:
        return f"running, {_STAGE_WORDS[Stage(job['stage'])].lower()}"
    return str(job["status"])


def comparison(result: Document) -> list[ComparisonRow]:
    """The student against its teachers, measure by measure; the verdict is against the best teacher."""
    student, teachers = result["student"], result["teachers"]
    best = max(teachers, key=lambda teacher: teacher["top1"] or 0.0, default=None)

    def row(label: str, key: str, form: Callable[[float | None], str], verdict: tuple[str, bool]) -> ComparisonRow:
        theirs = tuple(form(teacher.get(key)) for teacher in teachers)
        return ComparisonRow(label, form(student.get(key)), theirs, *verdict)

    def ratio(key: str, words: tuple[str, str]) -> tuple[str, bool]:
        theirs, ours = (best or {}).get(key), student.get(key)
        return _ratio(theirs, ours, words) if theirs and ours else ("", False)

    return [
        row("Top-1 accuracy", "top1", formats.percent, _retention(student, best)),
        row("Top-5 accuracy", "top5", formats.percent, ("", False)),
        row("Parameters", "parameters", formats.short, ratio("parameters", ("fewer", "more"))),
        row("FLOPs per image", "flops", formats.short, ratio("flops", ("fewer", "more"))),
        row("File size", "size_bytes", formats.size, ratio("size_bytes", ("smaller", "larger"))),
        row("Latency, one image", "latency_ms", formats.milliseconds, ratio("latency_ms", ("faster", "slower"))),
    ]


def facts(job: Document, dataset_name: str | None) -> list[tuple[str, str]]:
    """The job's recipe as label and value."""
    spec = job["spec"]
    training = spec.get("training") or {}
    method = spec["method"]
    rows = [
        ("Dataset", dataset_name or spec["dataset"]),
        ("Method", method["name"]),
        *((_words(key), value) for key, value in method.items() if key != "name"),
        *(("Teacher", f"{t['architecture']}, {t['weights']}") for t in spec.get("teachers") or []),
        ("Student", f"{spec['student']['architecture']}, {spec['student'].get('weights', 'random')}"),
        ("Image size", _pixels(training.get("image_size"))),
        ("Epochs", training.get("epochs")),
        ("Batch size", training.get("batch_size")),
        ("Learning rate", training.get("learning_rate")),
        ("Augmentation", training.get("augmentation")),
        ("Precision", training.get("precision")),
        ("Seed", training.get("seed")),
        ("Attempt", job["attempt"]),
    ]
    return [(label, str(value)) for label, value in rows if value is not None]


def machine(error: Document) -> list[tuple[str, str]]:
    """What was seen of memory and disk when a job failed, as label and value; what nobody saw is left out."""
    seen = error.get("machine") or {}
    device = seen.get("device") or {}
    rows = [
        ("Memory at its end", seen.get("memory_bytes")),
        ("Memory at most", seen.get("memory_peak_bytes")),
        ("Memory it may have", seen.get("memory_limit_bytes")),
        ("Memory free", seen.get("memory_free_bytes")),
        ("Disk free", seen.get("disk_free_bytes")),
        ("Device memory at most", device.get("memory_peak_bytes")),
        ("Device memory free", device.get("memory_free_bytes")),
    ]
    return [(label, formats.size(value)) for label, value in rows if value is not None]


def _stage_state(job: Document, stage: Stage, times: Mapping[str, Document]) -> tuple[StageState, str]:
    """How far a station is, and a word on it."""
    own = times.get(stage.value)
    if own is None:
        order = list(Stage)
        if any(order.index(Stage(name)) > order.index(stage) for name in times):
            return "done", "reused"  # a teacher that an earlier job trained by the same recipe
        return ("skipped" if job["terminal"] else "ahead"), ""
    if own["finished_at"] is not None:
        return "done", formats.duration(own["seconds"])
    if job["terminal"]:
        return "stopped", "" if own["seconds"] is None else formats.duration(own["seconds"])
    return "current", "now" if job["status"] == "running" else "waiting"


def _retention(student: Document, best: Document | None) -> tuple[str, bool]:
    if not best or not best["top1"] or student["top1"] is None:
        return "", False
    kept = student["top1"] / best["top1"]
    return f"keeps {kept:.1%} of the teacher" if kept <= 1 else "better than the teacher", True


def _ratio(theirs: float, ours: float, words: tuple[str, str]) -> tuple[str, bool]:
    """How many times better or worse, in the word for it; the same to a twentieth is called the same."""
    factor, is_gain = (theirs / ours, True) if theirs >= ours else (ours / theirs, False)
    if factor < 1.05:
        return "about the same", False
    return f"{formats.times(factor)} {words[0] if is_gain else words[1]}", is_gain


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _pixels(side: int | None) -> str | None:
    return None if side is None else f"{side} × {side}"

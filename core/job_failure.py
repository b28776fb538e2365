"""The failure of a job attempt: cause, fault, machine state, advice and fix.

This module builds every job's ``error``, whether its process, its monitor or the scheduler detected the failure. A fix
is a merge patch of the spec (RFC 7396) for a retry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from core.errors import (
    DatasetRejected,
    ExportMismatch,
    Fault,
    InvalidSpec,
    NonFiniteLoss,
    OutOfMemory,
    SpecCannotRun,
    StorageFailed,
    TimeLimitReached,
    WeightsMismatch,
    WeightsUnavailable,
    WorkerLost,
    WorkStalled,
)
from core.spec.exports import REQUIRED_FORMAT, entry_format
from core.spec.methods import SELECTABLE

INTERNAL_ERROR = "internal_error"
_EVENT_FIELDS = ("code", "message", "fault", "retryable", "advice", "fix")

# For failures that a retry of the same spec may get over. The sentence about the checkpoint follows.
_ADVICE = {
    StorageFailed.code: "Make room, or repair the store; then retry.",
    WorkerLost.code: "The last lines of `log` may show the reason. If memory was short, reduce training.batch_size or "
    "training.image_size; otherwise retry.",
    WorkStalled.code: "`log` holds the traceback of each thread. If one step really takes so long, the service needs a "
    "longer POTSTILL_STALL_TIMEOUT_SECONDS; then retry.",
    INTERNAL_ERROR: "This is a bug of the service: report it with `log`. A retry may fail in the same way.",
    WeightsUnavailable.code: "Retry once the workers can reach the hub, or its cache on their machine has the weights.",
}
# For failures that every attempt with the same spec and data repeats.
_FINAL_ADVICE = {
    InvalidSpec.code: "The same spec fails again: create a job without what the message names.",
    SpecCannotRun.code: "The same spec fails again: change what the message names, or create another job.",
    WeightsUnavailable.code: "The same spec fails again: create a job with other weights.",
    WeightsMismatch.code: "The same spec fails again: create a job with other weights, or with fitting arguments.",
    DatasetRejected.code: "The same data fails again: add a corrected dataset and create a job with it.",
    ExportMismatch.code: "The same spec fails again. This is a bug of the export: report it with `log`.",
    StorageFailed.code: "The lost file does not come back: add the dataset or model again, or repeat the job that made "
    "it, and create a new job.",
}
_FINAL_DEFAULT = "The same spec fails again: create another job."


@dataclass(frozen=True, slots=True)
class TimeBudget:
    """Running time of a job over all attempts, its time limit, and the largest limit of the service, in seconds."""

    used_seconds: float
    limit_seconds: float
    max_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class FailureCause:
    """The cause of a failed attempt. ``log``: its last lines; ``machine``: memory and disk at its end.

    ``batch_size``: one of the student's training that should fit, if the attempt ran out of memory.
    ``retryable``: whether a retry of the same spec can succeed. ``architecture``: that of the weights which failed.
    """

    code: str
    message: str
    fault: Fault
    log: Sequence[str] = ()
    machine: Mapping[str, Any] | None = None
    time_budget: TimeBudget | None = field(default=None, kw_only=True)
    batch_size: int | None = field(default=None, kw_only=True)
    retryable: bool = field(default=True, kw_only=True)
    architecture: str | None = field(default=None, kw_only=True)

    def to_error(
        self, *, spec: Mapping[str, Any], stage: str | None, fraction: float, has_checkpoint: bool
    ) -> dict[str, Any]:
        """Return the job's ``error``.

        ``stage``: the current stage; ``fraction``: the completed part of the job; ``has_checkpoint``: whether a retry
        resumes from a checkpoint.
        """
        advice, fix = self._remedy(spec, stage, fraction)
        if self.retryable:
            start = "resumes from the last checkpoint" if has_checkpoint else "starts again: there is no checkpoint"
            advice = f"{advice} A retry {start}." if advice else f"A retry {start}."
        return {
            "code": self.code,
            "message": self.message,
            "fault": self.fault,
            "retryable": self.retryable,
            "advice": advice,
            "fix": fix,
            "log": list(self.log),
            "machine": None if self.machine is None else dict(self.machine),
        }

    def _remedy(self, spec: Mapping[str, Any], stage: str | None, fraction: float) -> Remedy:
        if self.code == OutOfMemory.code:
            return _reduce_memory(spec, stage, self.batch_size)
        if self.code == NonFiniteLoss.code:
            return _reduce_learning_rate(spec, stage)
        if self.code == TimeLimitReached.code and self.time_budget is not None:
            return _extend_time_limit(self.time_budget, fraction)
        if stage == "export" and self.fault in {"spec", "service"} and (remedy := _leave_out_exports(spec)):
            return remedy
        advice = _ADVICE.get(self.code) if self.retryable else _FINAL_ADVICE.get(self.code, _FINAL_DEFAULT)
        if self.architecture is not None and (fix := _replace_weights(spec, self.architecture)):
            return f"{advice} The fix replaces the pretrained weights of {self.architecture}.", fix
        return advice, None


Remedy = tuple[str | None, dict[str, Any] | None]  # advice and fix

WORKER_SILENT = FailureCause(WorkerLost.code, "Its worker stopped sending heartbeats", "infrastructure")


def event_fields(error: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an error that an event holds: all but the large ones."""
    return {name: error[name] for name in _EVENT_FIELDS if name in error}


def _reduce_memory(spec: Mapping[str, Any], stage: str | None, batch_size: int | None) -> Remedy:
    if stage in {"evaluate", "export"}:
        return _reduce_export(spec, stage)
    training = _training(spec)
    fix: dict[str, Any] = {}
    smaller = batch_size or max(1, int(training.get("batch_size", 1)) // 2)
    if stage != "teacher" and smaller < training.get("batch_size", 1) and smaller >= _num_devices(spec):
        fix["training"] = _with_batch_size(training, smaller)
    # The preflight in `prepare` also runs the teachers that the job trains.
    max_batch_size = smaller if stage == "prepare" else None
    if stage in {"teacher", "prepare"}:
        fix |= _reduce_earlier_trainings(spec, max_batch_size)
    if not fix:
        return "No smaller batch is possible: reduce training.image_size, or use a smaller model.", None
    advice = (
        f"The fix lowers the batch size ({_describe(fix)}) and keeps the learning rate; a much smaller batch may need "
        "a lower one. training.gradient_accumulation saves memory with the same batch. A smaller training.image_size "
        "or model also needs less."
    )
    return advice, fix


def _reduce_export(spec: Mapping[str, Any], stage: str) -> Remedy:
    if stage == "export" and (remedy := _leave_out_exports(spec)):
        return remedy
    return "The student is trained, and a smaller batch does not help: the job needs a higher memory limit.", None


def _leave_out_exports(spec: Mapping[str, Any]) -> Remedy | None:
    names = dict.fromkeys(entry_format(entry) for entry in spec.get("export", ()))
    optional = [name for name in names if name != REQUIRED_FORMAT]
    if not optional:
        return None
    advice = f"The fix omits the export of {', '.join(optional)}; the student itself is trained."
    return advice, {"export": [REQUIRED_FORMAT]}


def _replace_weights(spec: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    """Return the patch that replaces pretrained weights: by random ones in a student, by training in a teacher."""

    def is_affected(model: Mapping[str, Any]) -> bool:
        return model.get("weights") == "pretrained" and model.get("architecture") == architecture

    fix: dict[str, Any] = {}
    if is_affected(spec.get("student", {})):
        fix["student"] = {"weights": "random"}
    # A teacher is trained with labels, which the dataset of a method without them may lack.
    method = SELECTABLE[spec["method"]["name"]].model_validate(spec["method"])
    teachers = spec.get("teachers", ())
    if any(map(is_affected, teachers)):
        if not method.reads_labels:
            return {}
        fix["teachers"] = [{**t, "weights": "train"} if is_affected(t) else dict(t) for t in teachers]
    return fix


def _reduce_learning_rate(spec: Mapping[str, Any], stage: str | None) -> Remedy:
    if stage == "prepare":
        advice = (
            "The loss was not finite in the first steps, so the learning rate is an unlikely cause: check the images "
            'and the initial weights, and try training.precision "fp32".'
        )
        return advice, None
    if stage == "teacher":
        fix, _ = _with_trainings(spec, _third)
        return "The fix restarts the earlier trainings with a third of the learning rate.", fix
    training = _third(_training(spec))
    advice = (
        f"The fix restarts the training with a third of the learning rate ({training['learning_rate']:g}). A longer "
        "training.warmup_epochs or a training.gradient_clip may also help."
    )
    return advice, {"training": training}


def _third(training: Mapping[str, Any]) -> dict[str, float]:
    rate = float(f"{training['learning_rate'] / 3:.3g}")
    min_rate = training.get("min_learning_rate")
    return {"learning_rate": rate} | ({"min_learning_rate": rate} if min_rate is not None and min_rate > rate else {})


def _extend_time_limit(budget: TimeBudget, fraction: float) -> Remedy:
    needed = 1.2 * budget.used_seconds / fraction if fraction > 0 else 0.0
    new_limit = float(round(max(needed, 2 * budget.limit_seconds)))
    if budget.max_seconds is not None and new_limit > budget.max_seconds:
        if budget.max_seconds <= budget.used_seconds:
            advice = (
                f"No job may run longer than {budget.max_seconds:g} s here (POTSTILL_MAX_JOB_SECONDS). Create a job "
                "with fewer epochs or a smaller model."
            )
            return advice, None
        new_limit = budget.max_seconds
    advice = f"{100 * fraction:.0f} % of the job is done. The fix sets its time limit to {new_limit:g} s."
    return advice, {"resources": {"max_seconds": new_limit}}


def _reduce_earlier_trainings(spec: Mapping[str, Any], max_batch_size: int | None) -> dict[str, Any]:
    """Halve the batches of the trainings before the student's, to at most ``max_batch_size``; empty if none shrinks."""

    def smaller(training: Mapping[str, Any]) -> dict[str, Any]:
        size = training["batch_size"]
        new_size = min(size, max(1, size // 2) if max_batch_size is None else max_batch_size)
        return _with_batch_size(training, new_size) if new_size < size else {}

    fix, has_changed = _with_trainings(spec, smaller)
    return fix if has_changed else {}


def _with_trainings(
    owner: Mapping[str, Any], change: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> tuple[dict[str, Any], bool]:
    """Return ``student`` and ``teachers`` of a spec as a patch, in which ``change`` is made to each of their trainings.

    Those are the trainings before the student's, inside of distillations too. The second value tells whether any
    training changes.
    """
    changed = False

    def with_change(model: Mapping[str, Any]) -> dict[str, Any]:
        nonlocal changed
        new = dict(model)
        if model.get("training") is not None:
            values = change(model["training"])
            changed |= any(model["training"].get(name) != value for name, value in values.items())
            new["training"] = {**model["training"], **values}
        if model.get("distillation"):
            new["distillation"] = with_change(model["distillation"])
        if model.get("teachers"):
            new["teachers"] = [with_change(teacher) for teacher in model["teachers"]]
        return new

    patch: dict[str, Any] = {}
    if any(teacher.get("training") or teacher.get("distillation") for teacher in owner.get("teachers") or ()):
        patch["teachers"] = [with_change(teacher) for teacher in owner["teachers"]]
    if (owner.get("student") or {}).get("distillation"):
        patch["student"] = {"distillation": with_change(owner["student"]["distillation"])}
    return patch, changed


def _with_batch_size(training: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Return the changes for a smaller batch, which is divided into at most as many parts as it has images."""
    is_divisible = int(training.get("gradient_accumulation", 1)) <= size
    return {"batch_size": size} if is_divisible else {"batch_size": size, "gradient_accumulation": size}


def _training(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    training: Mapping[str, Any] = spec.get("training") or {}
    return training


def _num_devices(spec: Mapping[str, Any]) -> int:
    return int((spec.get("resources") or {}).get("devices", 1))


def _describe(fix: Mapping[str, Any]) -> str:
    changes = []
    if "training" in fix:
        changes.append(f"training.batch_size to {fix['training']['batch_size']}")
    if fix.keys() & {"teachers", "student"}:
        changes.append("those of the earlier trainings")
    return ", ".join(changes)

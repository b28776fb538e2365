"""Why an attempt at a job ended badly, in one form: whose fault, what was seen, and what would help.

A job's ``error`` is made here and nowhere else, whether its own process, its guardian or the scheduler
found out. What a retry can do about it is a merge patch of the spec (RFC 7396).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from core.errors import Fault, NonFiniteLoss, OutOfMemory, StorageFailed, TimeLimitReached, WorkerLost, WorkStalled

INTERNAL_ERROR = "internal_error"
_ON_THE_WIRE = ("code", "message", "fault", "advice", "fix")

_ADVICE = {
    StorageFailed.code: "Make room, or see to the store; then retry: the job goes on from its last checkpoint.",
    WorkerLost.code: "The last lines of `log` may say why. If memory was short, a smaller training.batch_size or "
    "training.image_size needs less; else retry: the job goes on from its last checkpoint.",
    WorkStalled.code: "`log` holds where each thread stood. If that was honest work which takes so long, the service "
    "needs a longer POTSTILL_STALL_TIMEOUT_SECONDS; then retry: the job goes on from its last checkpoint.",
    INTERNAL_ERROR: "This is a mistake of the service: report it with `log`. A retry goes on from the last checkpoint.",
}


@dataclass(frozen=True, slots=True)
class TimeBudget:
    """How long a job has run over all attempts, how long it may, and the most that the service lets it. Seconds."""

    used: float
    limit: float
    roof: float | None = None


@dataclass(frozen=True, slots=True)
class FailureCause:
    """What ended an attempt. ``log`` are its last lines, ``machine`` is what was seen of memory and disk."""

    code: str
    message: str
    fault: Fault
    log: Sequence[str] = ()
    machine: Mapping[str, Any] | None = None
    clock: TimeBudget | None = field(default=None, kw_only=True)

    def document(self, *, spec: Mapping[str, Any], stage: str | None, fraction: float) -> dict[str, Any]:
        """The job's ``error``. ``stage`` is where it was, ``fraction`` how much of the job was done."""
        advice, fix = self._remedy(spec, stage, fraction)
        return {
            "code": self.code,
            "message": self.message,
            "fault": self.fault,
            "advice": advice,
            "fix": fix,
            "log": list(self.log),
            "machine": None if self.machine is None else dict(self.machine),
        }

    def _remedy(self, spec: Mapping[str, Any], stage: str | None, fraction: float) -> Remedy:
        if self.code == OutOfMemory.code:
            return _less_memory(spec, stage)
        if self.code == NonFiniteLoss.code:
            return _slower(spec, stage)
        if self.code == TimeLimitReached.code and self.clock is not None:
            return _longer(self.clock, fraction)
        return _ADVICE.get(self.code), None


Remedy = tuple[str | None, dict[str, Any] | None]  # in words, and as a merge patch of the spec

SILENT = FailureCause(WorkerLost.code, "Its worker went silent", "infrastructure")


def in_short(error: Mapping[str, Any]) -> dict[str, Any]:
    """An error as a line of the job's log carries it: without what takes room."""
    return {name: error[name] for name in _ON_THE_WIRE if name in error}


def _less_memory(spec: Mapping[str, Any], stage: str | None) -> Remedy:
    if stage in {"evaluate", "export"}:
        return _smaller_export(spec, stage)
    whole = _training(spec)
    smaller: dict[str, Any] = {}
    halved = max(1, int(whole.get("batch_size", 1)) // 2)
    if stage != "teacher" and halved < whole.get("batch_size", 1) and halved >= _devices(spec):
        smaller["training"] = {"batch_size": halved}
    # In `prepare` the teachers that are to be taught were tried as well.
    most = halved if stage == "prepare" else None
    if stage in {"teacher", "prepare"} and (teachers := _teachers_with_less(spec, most)):
        smaller["teachers"] = teachers
    if not smaller:
        return "Nothing smaller is known to fit: lower training.image_size, or take a smaller model.", None
    advice = (
        f"The fix halves the batch ({_told(smaller)}) and keeps the learning rate, which a much smaller batch may want "
        "lower. A smaller training.image_size or model needs less memory too."
    )
    return advice, smaller


def _smaller_export(spec: Mapping[str, Any], stage: str) -> Remedy:
    if stage == "export" and "onnx" in spec.get("export", ()):
        kept = [name for name in spec["export"] if name != "onnx"]
        return "The fix leaves out the ONNX export; the student itself is trained.", {"export": kept}
    return "The student is trained, and no smaller batch helps here: the service has to give the job more memory.", None


def _slower(spec: Mapping[str, Any], stage: str | None) -> Remedy:
    if stage == "prepare":
        advice = (
            "The very first steps gave it, so the rate is hardly to blame: look at the pictures, at the weights that "
            'are started from, and whether training.precision "fp32" helps.'
        )
        return advice, None
    if stage == "teacher":
        taught = [
            {**one, "training": {**one["training"], **_third(one["training"])}} if one.get("training") else dict(one)
            for one in spec.get("teachers", ())
        ]
        return "The fix trains the teachers with a third of the learning rate, from their start.", {"teachers": taught}
    slower = _third(_training(spec))
    advice = (
        f"The fix trains with a third of the learning rate ({slower['learning_rate']:g}), from the start. A longer "
        "training.warmup_epochs or a training.gradient_clip may do as well."
    )
    return advice, {"training": slower}


def _third(training: Mapping[str, Any]) -> dict[str, float]:
    rate = float(f"{training['learning_rate'] / 3:.3g}")
    least = training.get("min_learning_rate")
    return {"learning_rate": rate} | ({"min_learning_rate": rate} if least is not None and least > rate else {})


def _longer(clock: TimeBudget, fraction: float) -> Remedy:
    needed = 1.2 * clock.used / fraction if fraction > 0 else 0.0
    wanted = float(round(max(needed, 2 * clock.limit)))
    if clock.roof is not None and wanted > clock.roof:
        if clock.roof <= clock.used:
            advice = (
                f"No job may run for longer than {clock.roof:g} s here (POTSTILL_MAX_JOB_SECONDS). Ask for fewer "
                "epochs or a smaller model in a new job; this one's last checkpoint is kept."
            )
            return advice, None
        wanted = clock.roof
    advice = (
        f"{fraction:.0%} was done. The fix lets it run for {wanted:g} s in all; it goes on from its last checkpoint."
    )
    return advice, {"resources": {"max_seconds": wanted}}


def _teachers_with_less(spec: Mapping[str, Any], most: int | None) -> list[dict[str, Any]] | None:
    """All teachers, the batches of those that are taught halved (to at most ``most``); None where none gets smaller."""
    teachers, changed = [], False
    for one in spec.get("teachers", ()):
        training = one.get("training")
        size = None if training is None else training["batch_size"]
        wanted = None if size is None else min(size, max(1, size // 2) if most is None else most)
        if wanted is not None and wanted < size:
            one, changed = {**one, "training": {**training, "batch_size": wanted}}, True  # noqa: PLW2901
        teachers.append(dict(one))
    return teachers if changed else None


def _training(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    training: Mapping[str, Any] = spec.get("training") or {}
    return training


def _devices(spec: Mapping[str, Any]) -> int:
    return int((spec.get("resources") or {}).get("devices", 1))


def _told(smaller: Mapping[str, Any]) -> str:
    words = []
    if "training" in smaller:
        words.append(f"training.batch_size to {smaller['training']['batch_size']}")
    if "teachers" in smaller:
        words.append("those of the teachers as well")
    return " and ".join(words)

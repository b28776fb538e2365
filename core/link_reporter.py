"""Reporter of one link of a chain: what a distillation reports, as part of the job that needs its student."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from core.job_warnings import JobWarning
from core.reporting import (
    STUDENT_TRACK,
    Control,
    Progress,
    Reporter,
    SavedCheckpoint,
    Stage,
    TrainedKind,
    ViewOffer,
)
from core.spec.chain import outer_pointer, outer_warning

_OWN_PREFIXES = ("train/", "eval/")  # of the series of a job's student
_MODEL_PREFIXES = ("teacher/", "student/")


class LinkReporter:
    """Reporter that adds the model of a link to all names, and passes everything else on.

    ``pointer`` (``/teachers/0``) and ``name`` (``teacher-0``) are those of the model in the outer job,
    ``label`` is its name in texts: ``teacher``, with others ``teacher 0``.
    ``student_steps`` are the steps of the outer job's student, which alone count as the job's steps.
    """

    def __init__(self, outer: Reporter, pointer: str, name: str, *, label: str) -> None:
        self.student_steps = 0
        self._outer = outer
        self._pointer = pointer
        self._name = name
        self._label = label

    def stage_started(self, stage: Stage) -> None:
        """Discard: a link has no stages of its own."""

    def stage_finished(self, stage: Stage) -> None:
        """Discard."""

    def progress(self, progress: Progress) -> None:
        """Report the job's progress, in which no step of its student is done."""
        self._outer.progress(replace(progress, step=0, total_steps=self.student_steps, epoch=0))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log the series of the link: ``train/loss`` is ``teacher/0/distill/loss``."""
        self._outer.metrics(step, {self._series(name): value for name, value in values.items()})

    def event(
        self,
        type: str,  # noqa: A002 - the name in the API
        message: str,
        *,
        level: Literal["info", "warning", "error"] = "info",
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Add an event that names the model, innermost model last."""
        given = dict(data or {})
        given["model"] = outer_pointer(self._pointer, given["model"]) if "model" in given else self._pointer
        self._outer.event(type, f"{self._label.capitalize()}, distillation: {message}", level=level, data=given)

    def warning(self, warning: JobWarning) -> None:
        """Add the warning at the link's field of the outer spec."""
        self._outer.warning(outer_warning(self._pointer, self._label, warning))

    def warnings(self) -> list[JobWarning]:
        """Return the job's warnings."""
        return self._outer.warnings()

    def control(self) -> Control:
        """Return the job's pending request."""
        return self._outer.control()

    def save_checkpoint(self, checkpoint: SavedCheckpoint) -> None:
        """Store a checkpoint of the link's track. Only weights of the job's own student are retained."""
        self._outer.save_checkpoint(replace(checkpoint, track=self._track(checkpoint.track), keep=False))

    def newest_checkpoint(self, track: str) -> Path | None:
        """Return the newest checkpoint of the link's track."""
        return self._outer.newest_checkpoint(self._track(track))

    def find_teacher(self, fingerprint: str) -> Path | None:
        """Return the folder of a saved model, or None."""
        return self._outer.find_teacher(fingerprint)

    def save_teacher(self, fingerprint: str, folder: Path, *, kind: TrainedKind = "teacher") -> None:
        """Save a model for later jobs."""
        self._outer.save_teacher(fingerprint, folder, kind=kind)

    def offer_views(self, offer: ViewOffer) -> None:
        """Discard: other workers compute only for the job's own student, whose spec they know."""

    def _track(self, track: str) -> str:
        return f"{self._name}-{track}"

    def _series(self, name: str) -> str:
        base = self._name.replace("-", "/")
        if name.startswith(_MODEL_PREFIXES):
            return f"{base}/{name}"
        own = next((name.removeprefix(p) for p in _OWN_PREFIXES if name.startswith(p)), name)
        return f"{base}/{STUDENT_TRACK}/{own}"

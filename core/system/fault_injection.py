"""Named places at which a test lets this process die, or lets an operation fail.

``passing("checkpoint.published")`` stands between two statements that matter. It does nothing but look at one global,
which is None in every process that serves anybody: only tests set ``POTSTILL_TEST_FAULT``, or call :func:`arm`, and no
other part of this project reads either.

A fault happens once, whatever is started again afterwards: a file remembers it.
"""

from __future__ import annotations

import errno
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Self

VARIABLE = "POTSTILL_TEST_FAULT"

# Every place, and what has happened by then. A test walks through all of them.
POINTS = {
    "claim.committed": "a job is claimed, and no process works on it yet",
    "attempt.begun": "the attempt has an empty folder",
    "inputs.gathered": "dataset and models are on this machine",
    "stage.started": "a stage is entered",
    "stage.finished": "a stage is left",
    "checkpoint.weights": "a checkpoint's weights are written, its state is not",
    "checkpoint.written": "a checkpoint is written beside its place",
    "checkpoint.renamed": "a checkpoint is whole on this machine",
    "store.copied": "a file is in the store, without its name",
    "store.moved": "a file is in the store under its key",
    "store.fetched": "a file is brought here from the store, without its name",
    "checkpoint.published": "a checkpoint's files are published, and nothing names them",
    "checkpoint.uncommitted": "a checkpoint is named in a transaction that is still open",
    "checkpoint.named": "a checkpoint is named, and those that it outdates are still there",
    "checkpoint.superseded": "the files of outdated checkpoints are deleted",
    "teacher.published": "a teacher's files are published, and nothing names them",
    "teacher.saved": "a teacher is kept for later jobs",
    "weights.written": "a model's weights are written beside their place",
    "weights.renamed": "a model's weights are in their place",
    "file.written": "a file of an export is written beside its place",
    "onnx.written": "an ONNX file is written and checked beside its place",
    "student.measured": "the student's file is measured, and nothing else is exported",
    "student.exported": "all files are exported, and none is published",
    "artifact.published": "one artefact is published, and nothing names it",
    "artifacts.published": "all artefacts are published, and nothing names them",
    "success.uncommitted": "the job has succeeded in a transaction that is still open",
    "success.committed": "the job has succeeded, and its process is still there",
}

KILL = "kill"


@dataclass(slots=True)
class Fault:
    """What happens the ``nth`` time that this process passes ``point``.

    ``action``: ``kill`` (SIGKILL to itself), or the name of an ``OSError``'s errno, such as ``ENOSPC``.
    ``once``: the file that remembers that it happened.
    """

    point: str
    action: str
    once: Path
    nth: int = 1
    passed: int = 0

    def __post_init__(self) -> None:
        if self.point not in POINTS:
            raise ValueError(f"{self.point!r} is not a fault point")
        if self.action != KILL and not hasattr(errno, self.action):
            raise ValueError(f"{self.action!r} is neither {KILL!r} nor the name of an errno")

    @classmethod
    def parse(cls, text: str) -> Self:
        """From ``POINT=ACTION@FILE`` or ``POINT#NTH=ACTION@FILE``."""
        where, _, what = text.partition("=")
        point, _, nth = where.partition("#")
        action, _, once = what.partition("@")
        return cls(point, action, Path(once), int(nth or 1))

    def passing(self, point: str) -> None:
        """Let it happen, if it is to happen here and now."""
        if point != self.point:
            return
        self.passed += 1
        if self.passed < self.nth:
            return
        try:
            self.once.touch(exist_ok=False)
        except FileExistsError:
            return
        if self.action == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        number = getattr(errno, self.action)
        raise OSError(number, os.strerror(number))


class _Armed:
    fault: Fault | None = Fault.parse(os.environ[VARIABLE]) if VARIABLE in os.environ else None


def arm(fault: Fault | None) -> None:
    """Arm this process, and those that it forks; None disarms it. For tests."""
    _Armed.fault = fault


def fault_point(point: str) -> None:
    """Nothing, outside of tests."""
    if _Armed.fault is not None:
        _Armed.fault.passing(point)

"""Named fault points at which a test can kill this process or make an operation fail.

``fault_point("checkpoint.published")`` stands between two statements whose order matters for recovery. It only reads
one global, which is None in production: only tests set ``POTSTILL_TEST_FAULT`` or call :func:`arm`.

A fault happens once, also across restarts: a marker file records it.
"""

from __future__ import annotations

import errno
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Self

VARIABLE = "POTSTILL_TEST_FAULT"

# Each fault point and the state that it leaves behind. A test visits all of them.
POINTS = {
    "claim.committed": "a job is claimed, and its process is not forked yet",
    "attempt.begun": "the attempt has an empty scratch folder",
    "inputs.gathered": "dataset and models are on this machine",
    "stage.started": "a stage has started",
    "stage.finished": "a stage has finished",
    "checkpoint.weights": "a checkpoint's weights are written, its state is not",
    "checkpoint.written": "a checkpoint is written to its temporary folder",
    "checkpoint.renamed": "a checkpoint is complete on this machine",
    "store.copied": "a file is in the store under a temporary name",
    "store.moved": "a file is in the store under its key",
    "store.fetched": "a file is fetched from the store under a temporary name",
    "checkpoint.published": "a checkpoint's files are published, and no row references them",
    "checkpoint.uncommitted": "a checkpoint is recorded in an uncommitted transaction",
    "checkpoint.named": "a checkpoint is recorded, and the files of superseded checkpoints still exist",
    "checkpoint.superseded": "the files of superseded checkpoints are deleted",
    "teacher.published": "a teacher's files are published, and no row references them",
    "teacher.saved": "a teacher is saved for later jobs",
    "weights.written": "a model's weights are written to a temporary file",
    "weights.renamed": "a model's weights have their final name",
    "file.written": "a file of an export is written to a temporary file",
    "onnx.written": "an ONNX file is written to a temporary file and checked",
    "compression.written": "the output of a compression step is written, and not saved for a later attempt",
    "compression.saved": "the output of a compression step is saved for a later attempt",
    "student.measured": "the student's file is evaluated, and no other file is exported",
    "student.exported": "all files are exported, and none is published",
    "artifact.published": "one artifact is published, and no row references it",
    "artifacts.published": "all artifacts are published, and no row references them",
    "success.uncommitted": "the job has succeeded in an uncommitted transaction",
    "success.committed": "the job has succeeded, and the files that only a resume needs are not deleted",
    "success.cleaned": "the job has succeeded, and its process has not exited",
}

KILL = "kill"


@dataclass(slots=True)
class Fault:
    """A fault at the ``nth`` time that this process reaches ``point``.

    Args:
        point: Name of the fault point.
        action: ``kill`` (SIGKILL to itself), or the errno name of an ``OSError``, such as ``ENOSPC``.
        marker: File that records that the fault has happened.
        nth: Number of the visit at which the fault happens.
    """

    point: str
    action: str
    marker: Path
    nth: int = 1
    num_hits: int = 0

    def __post_init__(self) -> None:
        if self.point not in POINTS:
            raise ValueError(f"{self.point!r} is not a fault point")
        if self.action != KILL and not hasattr(errno, self.action):
            raise ValueError(f"{self.action!r} is neither {KILL!r} nor the name of an errno")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``POINT=ACTION@MARKER`` or ``POINT#NTH=ACTION@MARKER``."""
        visit, _, effect = text.partition("=")
        point, _, nth = visit.partition("#")
        action, _, marker = effect.partition("@")
        return cls(point, action, Path(marker), int(nth or 1))

    def hit(self, point: str) -> None:
        """Trigger the fault if this is its point and its visit."""
        if point != self.point:
            return
        self.num_hits += 1
        if self.num_hits < self.nth:
            return
        try:
            self.marker.touch(exist_ok=False)
        except FileExistsError:
            return
        if self.action == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        number = getattr(errno, self.action)
        raise OSError(number, os.strerror(number))


class _Armed:
    fault: Fault | None = Fault.parse(os.environ[VARIABLE]) if VARIABLE in os.environ else None


def arm(fault: Fault | None) -> None:
    """Arm this process and the processes that it forks; None disarms it. For tests."""
    _Armed.fault = fault


def fault_point(point: str) -> None:
    """Trigger the armed fault at this point; do nothing outside of tests."""
    if _Armed.fault is not None:
        _Armed.fault.hit(point)

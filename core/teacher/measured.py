"""What was measured of a teacher on a test split, kept for every later job with the same teacher and data.

``<cache>/measured/<key>.json`` is a digest and the figures, written beside and renamed. What is damaged, or
cannot be read or written, is measured again: nothing here reaches a job but figures that are whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import timm
import torch

from core.data.pixels import Pixels
from core.evaluate import Accuracy, Latency, Measured, agreement
from core.methods import Teacher
from core.models.built import BuiltModel
from core.teacher.frozen import FrozenTeacher
from core.teacher.question import teacher_digest
from core.train.context import RunContext, look_stride
from core.train.precision import machine_of

_FORMAT = 1  # raised when figures of the same teacher and data change


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The figures of a teacher, how long it took to measure them, and whether an earlier job did so."""

    measured: Measured
    seconds: float
    found: bool

    def details(self, classes: tuple[str, ...] | None) -> dict[str, Any]:
        """What the report says beyond the figures."""
        saved = round(self.seconds, 3) if self.found else 0.0
        return {**self.measured.details(classes), "evaluation": {"hit": self.found, "saved_seconds": saved}}


@dataclass(frozen=True, slots=True)
class Evaluations:
    """What is known of teachers on one split of one dataset.

    ``pictures`` names the split with its size, ``judged`` how it is found how often a teacher is right.
    Latency belongs to a kind of machine with so many threads, and so does the key.
    """

    root: Path
    pictures: str
    judged: str
    device: torch.device
    threads: int

    @classmethod
    def of_job(cls, context: RunContext, image_size: int, *, headless: bool) -> Evaluations:
        """Those on the test split of a job's dataset."""
        return cls(
            context.cache / "measured",
            pictures=f"{context.stored.fingerprint}-{image_size}-test",
            judged="embeddings" if headless else "logits",
            device=context.arithmetic.device,
            threads=context.threads,
        )

    def look_at(self, teachers: Sequence[Teacher], context: RunContext, image_size: int) -> None:
        """Log the lines that the student's curve is drawn against. Raises ``Interrupted`` on request."""
        pictures = context.looked_at(image_size)
        for index, teacher in enumerate(teachers):
            assert isinstance(teacher, FrozenTeacher)
            known = self.top1(teacher.built, pictures)
            top1 = context.top1(teacher.logits, pictures) if known is None else known
            context.reporter.metrics(0, {f"teacher/{index}/top1": top1})

    def top1(self, teacher: BuiltModel, looked_at: Pixels) -> float | None:
        """How often a teacher is right on the part of the split that is looked at, where an earlier job found out."""
        known = _read(self._path(teacher))
        accuracy = None if known is None else known.measured.accuracy
        if accuracy is None:
            return None
        return agreement(accuracy.predictions[:: look_stride(accuracy.num_samples)], looked_at.labels)

    def of(self, teacher: BuiltModel, measure: Callable[[BuiltModel], Measured]) -> Evaluation:
        """What is known of a teacher; ``measure`` finds it out where nobody did, for this job and all later ones."""
        path = self._path(teacher)
        found = _read(path)
        if found is not None:
            return found
        began = time.monotonic()
        evaluation = Evaluation(measure(teacher), time.monotonic() - began, found=False)
        _write(path, evaluation)
        return evaluation

    def _path(self, teacher: BuiltModel) -> Path:
        words = {
            "format": _FORMAT,
            "teacher": teacher_digest(teacher),
            "pictures": self.pictures,
            "judged": self.judged,
            "machine": machine_of(self.device),
            "threads": self.threads,
            "torch": str(torch.__version__),
            "timm": timm.__version__,
        }
        return self.root / f"{_digest(words)}.json"


def _read(path: Path) -> Evaluation | None:
    try:
        document = json.loads(path.read_bytes())
        known = document["known"]
        if document["digest"] != _digest(known):
            return None
        os.utime(path)  # what was used longest ago goes first
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return Evaluation(_measured(known["figures"]), known["seconds"], found=True)


def _write(path: Path, evaluation: Evaluation) -> None:
    known = {"figures": _figures(evaluation.measured), "seconds": round(evaluation.seconds, 6)}
    beside = path.with_suffix(f".{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps({"digest": _digest(known), "known": known}))
        beside.replace(path)
    except OSError:  # a full disk is no reason to end a job: the next one measures again
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def _figures(measured: Measured) -> dict[str, Any]:
    accuracy = measured.accuracy
    return {
        "accuracy": None if accuracy is None else asdict(accuracy) | {"predictions": accuracy.predictions.tolist()},
        "parameters": measured.parameters,
        "flops": measured.flops,
        "size_bytes": measured.size_bytes,
        "latency": [latency.to_json() for latency in measured.latency],
        "judging": dict(measured.judging),
    }


def _measured(figures: Mapping[str, Any]) -> Measured:
    accuracy = figures["accuracy"]
    if accuracy is not None:
        predictions = torch.tensor(accuracy["predictions"], dtype=torch.int64)
        accuracy = Accuracy(**accuracy | {"predictions": predictions, "per_class": tuple(accuracy["per_class"])})
    latency = tuple(Latency(**one) for one in figures["latency"])
    return Measured(**{**figures, "accuracy": accuracy, "latency": latency})


def _digest(words: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(words, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

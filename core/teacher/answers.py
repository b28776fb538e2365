"""What the teachers of a training say of a whole view, asked once and looked up at every step.

Teachers are asked in fixed blocks of samples, whatever the batches, and the student reads the numbers as
they are stored: float16, also in the run that stores them, and also where the store is too small or the disk
is full. So neither budget nor disk nor who came first can be seen in a student's bits; whether a training
reads answers at all follows from its method and the sizes alone (:func:`answers_for`).

Shapes: N samples of the feed, B batch, C classes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.data.transfer import sent
from core.data.views import num_views, view_of_epoch
from core.methods import Batch, Teacher
from core.models.taps import Outputs
from core.reporting import Control, Interrupted, Reporter
from core.teacher.question import Question, teacher_digest
from core.teacher.store import AnswerStore, Entry, Shard
from core.train.context import RunContext
from core.train.loop import Task

# Of one view, held in memory while it is shown; beyond it teachers are asked batch by batch.
MOST_VIEW_BYTES = 4 * 1024**3
SHARD_ROWS = 1024  # so much is lost at most when a run is killed
_BLOCK_ROWS = {"cpu": 64, "cuda": 512}  # asked at once; SHARD_ROWS is a multiple of each
_HEADER_BYTES = 128  # of a shard, at most
_LARGEST = float(np.finfo(np.float16).max)


def view_bytes(num_pictures: int, num_classes: int, num_teachers: int) -> int:
    """What the answers of all teachers about one view take."""
    return 2 * num_pictures * num_classes * num_teachers


def answers_for(task: Task, context: RunContext, *, views: int | None, pictures: str, max_bytes: int) -> Answers | None:
    """Where a training's teachers are asked ahead of it; None where they are asked about every batch as it comes.

    Stored are all views of a training or none: with less room than that a view would be gone before it is
    shown again. Then every view is asked anew each time it is shown.
    """
    if not (task.teachers and task.method.reads_answers):
        return None
    widths = [teacher.built.num_classes for teacher in task.teachers]
    a_view = sum(view_bytes(len(task.feed.pixels), width, 1) for width in widths)
    if a_view > MOST_VIEW_BYTES:
        return None
    store = AnswerStore(context.cache / "answers", max_bytes)
    needed = a_view * num_views(task.training.epochs, views)
    if needed > max_bytes:
        store.stop(f"it would need {needed:,} bytes and may take {max_bytes:,}")
    question = Question(
        pictures=pictures,
        feed=task.feed,
        arithmetic=task.arithmetic,
        threads=context.threads,
        block=_BLOCK_ROWS[task.arithmetic.device.type],
    )
    return Answers(task.teachers, question, store, context.reporter)


@dataclass(slots=True)
class Tally:
    """What asking and looking up came to: views found whole and views asked about, each once a teacher."""

    hits: int = 0
    misses: int = 0
    seconds: float = 0.0  # that teachers took in this attempt
    saved_seconds: float = 0.0  # that they took in other attempts or jobs for what was found
    bytes: int = 0  # read or made
    stopped: str | None = None  # why nothing more is stored

    def figures(self) -> dict[str, Any]:
        """As it is reported."""
        return {
            "hits": self.hits,
            "misses": self.misses,
            "seconds": round(self.seconds, 3),
            "saved_seconds": round(self.saved_seconds, 3),
            "bytes": self.bytes,
            "stopped": self.stopped,
        }


class Answers:
    """The answers about the view that is shown now, one (N, C) tensor a teacher."""

    def __init__(self, teachers: Sequence[Teacher], question: Question, store: AnswerStore, reporter: Reporter) -> None:
        self.tally = Tally()
        self._teachers = teachers
        self._question = question
        self._store = store
        self._reporter = reporter
        self._digests: list[str] = []
        self._view: int | None = None
        self._said: list[Tensor] = []

    def ready(self, step: int) -> None:
        """Have the answers of the step's view at hand. Raises ``Interrupted`` where the caller wants anything."""
        feed = self._question.feed
        view = view_of_epoch(step // feed.steps_per_epoch, feed.views)
        if view == self._view:
            return
        self._digests = self._digests or [teacher_digest(teacher.built) for teacher in self._teachers]
        self._said = [
            self._about(view, teacher, self._question.key(digest, view))
            for teacher, digest in zip(self._teachers, self._digests, strict=True)
        ]
        self._view = view
        self._tell_if_stopped()

    def of(self, batch: Batch) -> list[Outputs]:
        """What each teacher said of a batch of the step that was made ready: float32, on the device."""
        device = self._question.arithmetic.device
        return [Outputs(sent(said_NC[batch.indices], device).float()) for said_NC in self._said]

    def finish(self) -> Tally:
        """Tell what was asked and what was found."""
        tally = self.tally
        if tally.hits or tally.misses:
            self._reporter.event(
                "teacher.cached",
                f"{tally.hits} views of what the teachers say were found, {tally.misses} were asked in "
                f"{tally.seconds:.1f} s; {tally.saved_seconds:.1f} s were saved",
                data=tally.figures(),
            )
        return tally

    # --- one view of one teacher --------------------------------------------------------------------

    def _about(self, view: int, teacher: Teacher, key: str) -> Tensor:
        with self._store.reading(key, self._poll) as entry:
            found = {number: entry.read(number) for number in range(self._num_shards)}
        missing = [number for number, shard in found.items() if shard is None]
        made = self._fill(found, missing, view, teacher, key) if missing else set()
        shards = {number: shard for number, shard in found.items() if shard is not None}
        said_NC = torch.from_numpy(np.concatenate([shard.rows for shard in shards.values()]))
        self.tally.misses += bool(made)
        self.tally.hits += not made
        self.tally.saved_seconds += sum(shard.seconds for number, shard in shards.items() if number not in made)
        self.tally.bytes += said_NC.nbytes
        return said_NC

    def _fill(
        self, found: dict[int, Shard | None], missing: list[int], view: int, teacher: Teacher, key: str
    ) -> set[int]:
        """Complete a view's shards, and return the numbers of those that no other process has made meanwhile."""
        made = set()
        rows = min(len(missing) * SHARD_ROWS, self._num_samples)
        room = view_bytes(rows, teacher.built.num_classes, 1) + _HEADER_BYTES * len(missing)
        with self._store.filling(key, room, self._poll) as entry:
            for number in missing:
                found[number] = entry.read(number)
                if found[number] is None:
                    found[number] = self._made(entry, number, view, teacher)
                    made.add(number)
        return made

    def _made(self, entry: Entry, number: int, view: int, teacher: Teacher) -> Shard:
        began = time.monotonic()
        first = number * SHARD_ROWS
        end = min(first + SHARD_ROWS, self._num_samples)
        blocks = [self._ask(teacher, view, start, end) for start in range(first, end, self._question.block)]
        shard = Shard(torch.cat(blocks).cpu().numpy(), time.monotonic() - began)
        self.tally.seconds += shard.seconds
        entry.write(number, shard)
        return shard

    def _ask(self, teacher: Teacher, view: int, start: int, end: int) -> Tensor:
        """A block's logits as they are stored; what float16 cannot hold becomes the largest that it can."""
        self._poll()
        indices_B = torch.arange(start, min(start + self._question.block, end))
        answer = teacher(self._question.feed.shown(view, indices_B))
        assert not answer.token_logits, "a teacher in evaluation mode has one answer"
        return answer.logits.clamp(-_LARGEST, _LARGEST).half()

    @property
    def _num_samples(self) -> int:
        return len(self._question.feed.pixels)

    @property
    def _num_shards(self) -> int:
        return -(-self._num_samples // SHARD_ROWS)

    def _poll(self) -> None:
        control = self._reporter.control()
        if control is not Control.GO:
            raise Interrupted(control)

    def _tell_if_stopped(self) -> None:
        if self._store.stopped is not None and self.tally.stopped is None:
            self.tally.stopped = self._store.stopped
            self._reporter.event(
                "teacher.not_stored",
                f"what the teachers say is not stored: {self._store.stopped}. The student is the same, and they are "
                "asked about each view whenever it is shown",
                level="warning",
                data={"reason": self._store.stopped},
            )

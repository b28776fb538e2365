"""What the teachers of a training say of a whole view, asked once and looked up at every step.

Teachers are asked in fixed blocks of samples, whatever the batches, and the student reads the numbers as
they are stored: float16, also in the run that stores them, and also where the store is too small or the disk
is full. So neither budget nor disk nor who came first can be seen in a student's bits; whether a training
reads answers at all follows from its method and the sizes alone (:func:`answers_for`).

Shapes: N samples of the feed, B batch, W numbers of a row (see :mod:`core.teacher.layout`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.data.transfer import sent
from core.data.views import num_views, view_of_epoch
from core.methods import Batch, Teacher
from core.models.taps import Outputs
from core.reporting import Control, Interrupted, Reporter
from core.spec import JobSpec
from core.teacher.asked import asked_of_teachers
from core.teacher.layout import Layout, layout_of, row_bytes
from core.teacher.question import Question, teacher_digest
from core.teacher.said import Held, Mapped, Said
from core.teacher.store import AnswerStore, Entry, Shard
from core.teacher.tally import Tally
from core.train.context import RunContext
from core.train.loop import Task

# One view of all teachers; beyond it they are asked batch by batch. What cannot be stored is held in memory.
MOST_VIEW_BYTES = 4 * 1024**3
MOST_HELD_BYTES = 256 * 1024**2  # of one view and teacher; beyond it rows stay on disk once they are stored
SHARD_ROWS = 1024  # so much is lost at most when a run is killed
_SMALL_PIXELS = 64  # a side; more of smaller pictures fill a GPU, and larger ones its memory
_HEADER_BYTES = 192  # of a shard, at most


def can_be_stored(num_pictures: int, layouts: Sequence[Layout]) -> bool:
    """Whether teachers are asked view by view; it depends on spec, method and data alone, and never on a disk."""
    return 0 < num_pictures * row_bytes(layouts) <= MOST_VIEW_BYTES


def asked_views(epochs: int, views: int | None, taught_share: float) -> int:
    """How many views teachers are asked about in a training, of which they teach this share."""
    return num_views(max(1, math.ceil(epochs * taught_share)), views)


def _block_rows(task: Task) -> int:
    """How many pictures teachers are asked about at once; SHARD_ROWS is a multiple of it."""
    if task.arithmetic.device.type == "cpu":
        return 64
    largest = max(teacher.built.preprocessing.image_size for teacher in task.teachers)
    return 512 if largest <= _SMALL_PIXELS else 128


def answers_for(task: Task, context: RunContext, *, spec: JobSpec, pictures: str, max_bytes: int) -> Answers | None:
    """Where a training's teachers are asked ahead of it; None where they are asked about every batch as it comes.

    Stored are all views of a training or none: with less room than that a view would be gone before it is
    shown again. Then every view is asked anew each time it is shown.
    """
    method = task.method
    if not (task.teachers and method.reads_answers):
        return None
    layouts = [layout_of(teacher.built, method.asks, method.sparse_answers) for teacher in task.teachers]
    num_pictures = len(task.feed.pixels)
    if not can_be_stored(num_pictures, layouts):
        return None
    store = AnswerStore(context.cache / "answers", max_bytes)
    shown = asked_views(task.training.epochs, spec.training.views, method.taught_share)
    needed = num_pictures * row_bytes(layouts) * shown
    if needed > max_bytes:
        store.stop(f"it would need {needed:,} bytes and may take {max_bytes:,}")
    question = Question(
        pictures=pictures,
        feed=task.feed,
        arithmetic=task.arithmetic,
        threads=context.threads,
        block=_block_rows(task),
    )
    asked = asked_of_teachers(spec, method, num_pictures)
    return Answers(list(zip(task.teachers, layouts, strict=True)), question, store, context.reporter, asked)


@dataclass(frozen=True, slots=True)
class _Ask:
    """One view of one teacher, and the name of what it says of it."""

    view: int
    teacher: Teacher
    layout: Layout
    key: str
    mapped: bool


class Answers:
    """The answers about the view that is shown now, (N, W) a teacher."""

    def __init__(
        self,
        teachers: Sequence[tuple[Teacher, Layout]],
        question: Question,
        store: AnswerStore,
        reporter: Reporter,
        asked: str,
    ) -> None:
        self.tally = Tally(asked=asked)
        self._teachers = teachers
        self._question = question
        self._store = store
        self._reporter = reporter
        self._digests: list[str] = []
        self._view: int | None = None
        self._said: list[Said] = []

    def ready(self, step: int) -> None:
        """Have the answers of the step's view at hand. Raises ``Interrupted`` where the caller wants anything."""
        feed = self._question.feed
        view = view_of_epoch(step // feed.steps_per_epoch, feed.views)
        if view == self._view:
            return
        self._digests = self._digests or [teacher_digest(teacher.built) for teacher, _ in self._teachers]
        self._said, self._view = [], None  # the last view makes room for this one
        for (teacher, layout), digest in zip(self._teachers, self._digests, strict=True):
            mapped = self._num_samples * row_bytes([layout]) > MOST_HELD_BYTES
            key = self._question.key(digest, view, layout)
            self._said.append(self._about(_Ask(view, teacher, layout, key, mapped)))
        self._view = view
        self.tally.views = max(self.tally.views, view + 1)
        self._tell_if_stopped()

    def of(self, batch: Batch) -> list[Outputs]:
        """What each teacher said of a batch of the step that was made ready: float32, on the device."""
        device = self._question.arithmetic.device
        return [
            layout.unpack(sent(said.rows(batch.indices), device))
            for said, (_, layout) in zip(self._said, self._teachers, strict=True)
        ]

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

    def _about(self, ask: _Ask) -> Said:
        with self._store.reading(ask.key, self._poll) as entry:
            found = {number: entry.read(number, mapped=ask.mapped) for number in range(self._num_shards)}
        missing = [number for number, shard in found.items() if shard is None]
        made = self._fill(found, missing, ask) if missing else set()
        shards = {number: shard for number, shard in found.items() if shard is not None}
        self.tally.misses += bool(made)
        self.tally.hits += not made
        self.tally.saved_seconds += sum(shard.seconds for number, shard in shards.items() if number not in made)
        rows = [shard.rows for shard in shards.values()]
        self.tally.bytes += sum(one.nbytes for one in rows)
        return Mapped(rows, SHARD_ROWS) if ask.mapped else Held(rows)

    def _fill(self, found: dict[int, Shard | None], missing: list[int], ask: _Ask) -> set[int]:
        """Complete a view's shards, and return the numbers of those that no other process has made meanwhile."""
        made = set()
        rows = min(len(missing) * SHARD_ROWS, self._num_samples)
        room = rows * row_bytes([ask.layout]) + _HEADER_BYTES * len(missing)
        with self._store.filling(ask.key, room, self._poll) as entry:
            for number in missing:
                found[number] = entry.read(number, mapped=ask.mapped)
                if found[number] is None:
                    found[number] = self._made(entry, number, ask)
                    made.add(number)
        return made

    def _made(self, entry: Entry, number: int, ask: _Ask) -> Shard:
        began = time.monotonic()
        first = number * SHARD_ROWS
        end = min(first + SHARD_ROWS, self._num_samples)
        blocks = [self._ask(ask, start, end) for start in range(first, end, self._question.block)]
        shard = Shard(torch.cat(blocks).numpy(), time.monotonic() - began)
        self.tally.seconds += shard.seconds
        entry.write(number, shard)
        # What lies on disk needs no memory; without a place there it stays where it is.
        return (entry.read(number, mapped=True) if ask.mapped else None) or shard

    def _ask(self, ask: _Ask, start: int, end: int) -> Tensor:
        """A block's rows as they are stored, on the CPU."""
        self._poll()
        indices_B = torch.arange(start, min(start + self._question.block, end))
        with torch.inference_mode():
            return ask.layout.pack(ask.teacher(self._question.feed.shown(ask.view, indices_B))).cpu()

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

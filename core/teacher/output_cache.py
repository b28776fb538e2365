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
from typing import Any

import torch
from torch import Tensor

from core.data.transfer import to_device
from core.data.views import num_views, view_of_epoch
from core.methods import Batch, Teacher
from core.models.taps import Outputs
from core.reporting import Control, Interrupted, Reporter
from core.spec import JobSpec
from core.teacher.cache_key import CacheKeyInputs, spec_cache_key, teacher_digest
from core.teacher.layout import Layout, layout_of, row_bytes
from core.teacher.shard_store import CachedRows, Entry, InMemoryRows, MappedRows, Shard, ShardStore
from core.train.context import RunContext
from core.train.trainer import TrainingSetup

# One view of all teachers; beyond it they are asked batch by batch. What cannot be stored is held in memory.
MAX_VIEW_BYTES = 4 * 1024**3
MAX_IN_MEMORY_BYTES = 256 * 1024**2  # of one view and teacher; beyond it rows stay on disk once they are stored
SHARD_ROWS = 1024  # so much is lost at most when a run is killed
_SMALL_PIXELS = 64  # a side; more of smaller pictures fill a GPU, and larger ones its memory
_HEADER_BYTES = 192  # of a shard, at most


def is_cacheable(num_pictures: int, layouts: Sequence[Layout]) -> bool:
    """Whether teachers are asked view by view; it depends on spec, method and data alone, and never on a disk."""
    return 0 < num_pictures * row_bytes(layouts) <= MAX_VIEW_BYTES


def num_cached_views(epochs: int, views: int | None, teacher_fraction: float) -> int:
    """How many views teachers are asked about in a training, of which they teach this share."""
    return num_views(max(1, math.ceil(epochs * teacher_fraction)), views)


def _block_rows(task: TrainingSetup) -> int:
    """How many pictures teachers are asked about at once; SHARD_ROWS is a multiple of it."""
    if task.compute.device.type == "cpu":
        return 64
    largest = max(teacher.built.preprocessing.image_size for teacher in task.teachers)
    return 512 if largest <= _SMALL_PIXELS else 128


def cached_outputs_for(
    task: TrainingSetup, context: RunContext, *, spec: JobSpec, pictures: str, max_bytes: int
) -> CachedOutputs | None:
    """Where a training's teachers are asked ahead of it; None where they are asked about every batch as it comes.

    Stored are all views of a training or none: with less room than that a view would be gone before it is
    shown again. Then every view is asked anew each time it is shown.
    """
    method = task.method
    if not (task.teachers and method.cacheable):
        return None
    layouts = [layout_of(teacher.built, method.teacher_request, method.top_k) for teacher in task.teachers]
    num_pictures = len(task.loader.pixels)
    if not is_cacheable(num_pictures, layouts):
        return None
    store = ShardStore(context.cache / "answers", max_bytes)
    shown = num_cached_views(task.training.epochs, spec.training.views, method.teacher_fraction)
    needed = num_pictures * row_bytes(layouts) * shown
    if needed > max_bytes:
        store.stop(f"it would need {needed:,} bytes and may take {max_bytes:,}")
    question = CacheKeyInputs(
        pictures=pictures,
        feed=task.loader,
        arithmetic=task.compute,
        threads=context.threads,
        block=_block_rows(task),
    )
    asked = spec_cache_key(spec, method, num_pictures)
    return CachedOutputs(list(zip(task.teachers, layouts, strict=True)), question, store, context.reporter, asked)


@dataclass(frozen=True, slots=True)
class _Ask:
    """One view of one teacher, and the name of what it says of it."""

    view: int
    teacher: Teacher
    layout: Layout
    key: str
    mapped: bool


class CachedOutputs:
    """The answers about the view that is shown now, (N, W) a teacher."""

    def __init__(
        self,
        teachers: Sequence[tuple[Teacher, Layout]],
        question: CacheKeyInputs,
        store: ShardStore,
        reporter: Reporter,
        asked: str,
    ) -> None:
        self.tally = CacheStats(cache_key=asked)
        self._teachers = teachers
        self._question = question
        self._store = store
        self._reporter = reporter
        self._digests: list[str] = []
        self._view: int | None = None
        self._said: list[CachedRows] = []

    def load_step(self, step: int) -> None:
        """Have the answers of the step's view at hand. Raises ``Interrupted`` where the caller wants anything."""
        feed = self._question.feed
        view = view_of_epoch(step // feed.steps_per_epoch, feed.views)
        if view == self._view:
            return
        self._digests = self._digests or [teacher_digest(teacher.built) for teacher, _ in self._teachers]
        self._said, self._view = [], None  # the last view makes room for this one
        for (teacher, layout), digest in zip(self._teachers, self._digests, strict=True):
            mapped = self._num_samples * row_bytes([layout]) > MAX_IN_MEMORY_BYTES
            key = self._question.key(digest, view, layout)
            self._said.append(self._about(_Ask(view, teacher, layout, key, mapped)))
        self._view = view
        self.tally.views = max(self.tally.views, view + 1)
        self._tell_if_stopped()

    def for_batch(self, batch: Batch) -> list[Outputs]:
        """What each teacher said of a batch of the step that was made ready: float32, on the device."""
        device = self._question.arithmetic.device
        return [
            layout.unpack(to_device(said.rows(batch.indices), device))
            for said, (_, layout) in zip(self._said, self._teachers, strict=True)
        ]

    def finish(self) -> CacheStats:
        """Tell what was asked and what was found."""
        tally = self.tally
        if tally.hits or tally.misses:
            self._reporter.event(
                "teacher_cache.summary",
                f"{tally.hits} views of what the teachers say were found, {tally.misses} were asked in "
                f"{tally.seconds:.1f} s; {tally.saved_seconds:.1f} s were saved",
                data=tally.figures(),
            )
        return tally

    # --- one view of one teacher --------------------------------------------------------------------

    def _about(self, ask: _Ask) -> CachedRows:
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
        return MappedRows(rows, SHARD_ROWS) if ask.mapped else InMemoryRows(rows)

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
            return ask.layout.pack(ask.teacher(self._question.feed.augmented(ask.view, indices_B))).cpu()

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
                "teacher_cache.disabled",
                f"what the teachers say is not stored: {self._store.stopped}. The student is the same, and they are "
                "asked about each view whenever it is shown",
                level="warning",
                data={"reason": self._store.stopped},
            )


@dataclass(slots=True)
class CacheStats:
    """What asking and looking up came to: views found whole and views asked about, each once a teacher."""

    hits: int = 0
    misses: int = 0
    seconds: float = 0.0  # that teachers took in this attempt
    saved_seconds: float = 0.0  # that they took in other attempts or jobs for what was found
    bytes: int = 0  # read or made
    stopped: str | None = None  # why nothing more is stored
    views: int = 0  # of the training, up to the last one that was shown
    cache_key: str | None = None  # the name of what was asked, see core.teacher.cache_key

    def figures(self) -> dict[str, Any]:
        """As it is reported."""
        return {
            "hits": self.hits,
            "misses": self.misses,
            "seconds": round(self.seconds, 3),
            "saved_seconds": round(self.saved_seconds, 3),
            "bytes": self.bytes,
            "stopped": self.stopped,
            "views": self.views,
            "asked": self.cache_key,
        }

"""Teacher cache: outputs of frozen teachers, computed once per view and read at every step.

The way of a teacher's output into the loss:

1. :func:`cached_outputs_for` decides whether a training caches, by its method and sizes alone.
2. Before each step, ``Trainer`` calls :meth:`CachedOutputs.load_step`. For a new view and each teacher, it loads the
   view's shards from :class:`core.teacher.shard_store.ShardStore`, by their key (:mod:`core.teacher.cache_key`).
3. A missing shard is computed: :class:`core.teacher.frozen.FrozenTeacher` runs on blocks of the augmented view, and
   :meth:`core.teacher.layout.Layout.pack` turns its outputs into float16 rows, one per sample.
4. In the step, ``StepContext.teacher_outputs`` calls :meth:`CachedOutputs.for_batch`, which gathers the rows of the
   batch and unpacks them to float32 ``Outputs``; the method computes its loss from them.

Idle workers may compute views ahead of the training (:mod:`core.cache_filling`): after each computed view, the rest is
offered. A view that such a worker is writing is locked; the training waits for it and loads it.

Blocks have a fixed size, whatever the batch size. The student always reads the stored float16 values: also in the run
that computes them, and also where the cache is disabled. So a student's bits do not depend on cache size, disk, or
which run came first.

Shapes: N samples of the loader, B batch, W values per row (see :mod:`core.teacher.layout`).
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
from core.reporting import Control, Interrupted, Reporter, ViewOffer
from core.spec import JobSpec
from core.system.digest import json_digest
from core.teacher.cache_key import CacheKeyInputs, spec_cache_key, teacher_digest
from core.teacher.layout import Layout, layout_of, row_bytes
from core.teacher.shard_store import CachedRows, Entry, InMemoryRows, MappedRows, Shard, ShardStore
from core.train.context import RunContext
from core.train.trainer import TrainingSetup

# Of one view of all teachers. Above it, teachers run on every batch: a view that is not on disk has to fit in memory.
MAX_VIEW_BYTES = 4 * 1024**3
MAX_IN_MEMORY_BYTES = 256 * 1024**2  # of one view and teacher; above it, stored rows are memory-mapped
SHARD_ROWS = 1024  # the most that a killed run loses
_SMALL_IMAGE_SIZE = 64  # pixels per side; more of smaller images fill a GPU, and larger ones fill its memory
_MAX_HEADER_BYTES = 192  # of a shard


def is_cacheable(num_images: int, layouts: Sequence[Layout]) -> bool:
    """Whether teachers run view by view. Depends on spec, method and dataset only, never on a disk."""
    return 0 < num_images * row_bytes(layouts) <= MAX_VIEW_BYTES


def num_cached_views(epochs: int, views: int | None, teacher_fraction: float) -> int:
    """Number of views that a training caches, if its loss uses teachers in this fraction of its epochs."""
    return num_views(max(1, math.ceil(epochs * teacher_fraction)), views)


def cached_outputs_for(
    setup: TrainingSetup,
    context: RunContext,
    *,
    spec: JobSpec,
    split_id: str,
    max_bytes: int,
    offers_views: bool = False,
) -> CachedOutputs | None:
    """Return the cached outputs of a training's teachers; None where the teachers run on every batch.

    The cache stores all views of a training or none: with less space, a view would be evicted before it is shown
    again. Without the space, each view is computed again whenever it is shown.

    ``offers_views``: let idle workers compute views ahead, which need nothing but the spec for it.
    """
    method = setup.method
    if not (setup.teachers and method.cacheable):
        return None
    layouts = [layout_of(teacher.built, method.teacher_request, method.top_k) for teacher in setup.teachers]
    num_images = len(setup.loader.pixels)
    if not is_cacheable(num_images, layouts):
        return None
    store = ShardStore(context.cache / "teacher_outputs", max_bytes)
    views = num_cached_views(setup.training.num_epochs, spec.training.distinct_views, method.teacher_fraction)
    needed_bytes = num_images * row_bytes(layouts) * views
    if needed_bytes > max_bytes:
        store.disable(f"it needs {needed_bytes:,} bytes, and its limit is {max_bytes:,} bytes")
    key_inputs = CacheKeyInputs(
        split_id=split_id,
        loader=setup.loader,
        compute=setup.compute,
        threads=context.threads,
        block_size=_block_size(setup),
    )
    return CachedOutputs(
        list(zip(setup.teachers, layouts, strict=True)),
        key_inputs,
        store,
        context.reporter,
        num_offered=views if offers_views and spec.resources.devices == 1 else 0,
        cache_key=spec_cache_key(spec, method, num_images),
    )


def _block_size(setup: TrainingSetup) -> int:
    """Images per forward pass of the teachers. Divides SHARD_ROWS."""
    if setup.compute.device.type == "cpu":
        return 64
    largest = max(teacher.built.preprocessing.image_size for teacher in setup.teachers)
    return 512 if largest <= _SMALL_IMAGE_SIZE else 128


@dataclass(slots=True)
class CacheStats:
    """Counts of a training's cache accesses. One access loads one view of one teacher; a hit computes nothing."""

    hits: int = 0
    misses: int = 0
    seconds: float = 0.0  # that this attempt computed teacher outputs for
    saved_seconds: float = 0.0  # that other attempts or jobs had computed the loaded shards for
    bytes: int = 0  # loaded or computed
    disabled_reason: str | None = None
    views: int = 0  # of the training, up to the last one that was shown
    cache_key: str | None = None  # see core.teacher.cache_key.spec_cache_key

    def to_json(self) -> dict[str, Any]:
        """Return the content of the event and of the report."""
        return {
            "hits": self.hits,
            "misses": self.misses,
            "seconds": round(self.seconds, 3),
            "saved_seconds": round(self.saved_seconds, 3),
            "bytes": self.bytes,
            "stopped": self.disabled_reason,
            "views": self.views,
            "cache_key": self.cache_key,
        }

    def summary(self) -> str:
        """Return one sentence for the event."""
        computed = f" (computed in {self.seconds:.1f} s)" if self.misses else ""
        saved = f", {self.saved_seconds:.0f} s saved" if self.hits else ""
        return f"Teacher cache: {self.hits} hits, {self.misses} misses{computed}{saved}."


@dataclass(frozen=True, slots=True)
class _ViewRequest:
    """One view of one teacher, and the key of its cache entry."""

    view: int
    teacher: Teacher
    layout: Layout
    key: str
    mapped: bool


class CachedOutputs:
    """The outputs of all teachers for the current view, as rows (N, W) per teacher."""

    def __init__(
        self,
        teachers: Sequence[tuple[Teacher, Layout]],
        key_inputs: CacheKeyInputs,
        store: ShardStore,
        reporter: Reporter,
        *,
        num_offered: int,
        cache_key: str,
    ) -> None:
        self.stats = CacheStats(cache_key=cache_key)
        self._teachers = teachers
        self._key_inputs = key_inputs
        self._loader = key_inputs.loader
        self._store = store
        self._reporter = reporter
        self._num_offered = num_offered  # views of the training; 0: none is offered
        self._digests: list[str] = []
        self._view: int | None = None
        self._rows: list[CachedRows] = []

    def load_step(self, step: int) -> None:
        """Load or compute the view of a step, unless it is loaded. Raises ``Interrupted`` on any control request."""
        view = view_of_epoch(step // self._loader.steps_per_epoch, self._loader.views)
        if view == self._view:
            return
        computed_before = self.stats.seconds
        self._rows, self._view = [], None  # free the memory of the previous view first
        for request in self._requests(view):
            self._rows.append(self._load_view(request))
        self._view = view
        self.stats.views = max(self.stats.views, view + 1)
        self._report_if_disabled()
        self._offer_rest(view + 1, self.stats.seconds - computed_before)

    def fill_view(self, view: int) -> None:
        """Compute the missing outputs of a view for the process that trains. Raises ``Interrupted`` on any request."""
        for request in self._requests(view):
            self._load_view(request)

    def views_key(self) -> str:
        """Return a SHA-256 over the keys of view 0: with an equal key, another process computes the same bits."""
        return json_digest([request.key for request in self._requests(0)])

    def for_batch(self, batch: Batch) -> list[Outputs]:
        """Return each teacher's outputs for a batch of the loaded step: float32, on the device."""
        device = self._key_inputs.compute.device
        return [
            layout.unpack(to_device(rows.rows(batch.indices), device))
            for rows, (_, layout) in zip(self._rows, self._teachers, strict=True)
        ]

    def finish(self) -> CacheStats:
        """Report the statistics of the training and return them."""
        stats = self.stats
        if stats.hits or stats.misses:
            self._reporter.event("teacher_cache.summary", stats.summary(), data=stats.to_json())
        return stats

    def _requests(self, view: int) -> list[_ViewRequest]:
        """Return the requests of a view, one per teacher."""
        self._digests = self._digests or [teacher_digest(teacher.built) for teacher, _ in self._teachers]
        return [
            _ViewRequest(
                view,
                teacher,
                layout,
                self._key_inputs.entry_key(digest, view, layout),
                mapped=self._num_samples * row_bytes([layout]) > MAX_IN_MEMORY_BYTES,
            )
            for (teacher, layout), digest in zip(self._teachers, self._digests, strict=True)
        ]

    def _offer_rest(self, next_view: int, view_seconds: float) -> None:
        """Offer the views that follow, if this process computed the last one and the cache stores them."""
        if view_seconds > 0 and next_view < self._num_offered and self._store.disabled_reason is None:
            self._reporter.offer_views(ViewOffer(self.views_key(), next_view, self._num_offered, view_seconds))

    # --- one view of one teacher --------------------------------------------------------------------

    def _load_view(self, request: _ViewRequest) -> CachedRows:
        with self._store.read_entry(request.key, self._poll) as entry:
            shards = {index: entry.read(index, mapped=request.mapped) for index in range(self._num_shards)}
        missing = [index for index, shard in shards.items() if shard is None]
        computed = self._fill(shards, missing, request) if missing else set()
        complete = {index: shard for index, shard in shards.items() if shard is not None}
        self.stats.misses += bool(computed)
        self.stats.hits += not computed
        self.stats.saved_seconds += sum(shard.seconds for index, shard in complete.items() if index not in computed)
        rows = [shard.rows for shard in complete.values()]
        self.stats.bytes += sum(shard_rows.nbytes for shard_rows in rows)
        return MappedRows(rows, SHARD_ROWS) if request.mapped else InMemoryRows(rows)

    def _fill(self, shards: dict[int, Shard | None], missing: list[int], request: _ViewRequest) -> set[int]:
        """Complete ``shards`` in place; return the indices of the shards that this process computed.

        Missing shards are read again under the write lock: another process may have written them in the meantime.
        """
        computed = set()
        num_rows = min(len(missing) * SHARD_ROWS, self._num_samples)
        num_bytes = num_rows * row_bytes([request.layout]) + _MAX_HEADER_BYTES * len(missing)
        with self._store.write_entry(request.key, num_bytes, self._poll) as entry:
            for index in missing:
                shards[index] = entry.read(index, mapped=request.mapped)
                if shards[index] is None:
                    shards[index] = self._compute_shard(entry, index, request)
                    computed.add(index)
        return computed

    def _compute_shard(self, entry: Entry, index: int, request: _ViewRequest) -> Shard:
        began = time.monotonic()
        start = index * SHARD_ROWS
        end = min(start + SHARD_ROWS, self._num_samples)
        blocks = [self._compute_block(request, first, end) for first in range(start, end, self._key_inputs.block_size)]
        shard = Shard(torch.cat(blocks).numpy(), time.monotonic() - began)
        self.stats.seconds += shard.seconds
        entry.write(index, shard)
        # The mapped shard replaces the one in memory; where nothing was stored, the one in memory stays.
        return (entry.read(index, mapped=True) if request.mapped else None) or shard

    def _compute_block(self, request: _ViewRequest, first: int, end: int) -> Tensor:
        """Run the teacher on one block of samples; return its rows on the CPU."""
        self._poll()
        indices_B = torch.arange(first, min(first + self._key_inputs.block_size, end))
        with torch.inference_mode():
            return request.layout.pack(request.teacher(self._loader.augmented(request.view, indices_B))).cpu()

    @property
    def _num_samples(self) -> int:
        return len(self._loader.pixels)

    @property
    def _num_shards(self) -> int:
        return -(-self._num_samples // SHARD_ROWS)

    def _poll(self) -> None:
        control = self._reporter.control()
        if control is not Control.GO:
            raise Interrupted(control)

    def _report_if_disabled(self) -> None:
        reason = self._store.disabled_reason
        if reason is None or self.stats.disabled_reason is not None:
            return
        self.stats.disabled_reason = reason
        self._reporter.event(
            "teacher_cache.disabled",
            f"Teacher cache disabled: {reason}. The student is the same; each view is computed again when it is shown.",
            level="warning",
            data={"reason": reason},
        )

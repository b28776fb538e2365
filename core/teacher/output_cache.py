"""Teacher cache: outputs of frozen teachers, computed once per view and read at every step.

The way of a teacher's output into the loss:

1. :func:`cached_outputs_for` decides whether a training caches, by its method and sizes alone.
2. Before each step, ``Trainer`` calls :meth:`CachedOutputs.load_step`. For a new view and each teacher, it loads the
   view's shards from :class:`core.teacher.shard_store.ShardStore`, by their key (:mod:`core.teacher.cache_key`).
3. A missing shard is claimed and computed: :class:`core.teacher.frozen.FrozenTeacher` runs on blocks of the augmented
   view, and :meth:`core.teacher.layout.Layout.pack` turns its outputs into float16 rows, one per sample. Of shards that
   other processes have claimed, the training computes none: it computes later shards meanwhile.
4. In the step, ``StepContext.teacher_outputs`` calls :meth:`CachedOutputs.for_batch`, which gathers the rows of the
   batch and unpacks them to float32 ``Outputs``; the method computes its loss from them.

Idle workers may compute shards as well (:mod:`core.cache_filling`), of the current view and of later ones: the missing
shards are offered to them. Claims of shards (:meth:`core.teacher.shard_store.Entry.claim`) divide the work between all
processes. The training waits only if other processes have claimed all shards that are missing.

Blocks have a fixed size, whatever the batch size. The student always reads the stored float16 values: also in the run
that computes them, and also where the cache is disabled. So a student's bits do not depend on cache size, disk, or
which run came first.

Shapes: N samples of the loader, B batch, W values per row (see :mod:`core.teacher.layout`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Sequence
from contextlib import closing
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
from core.system.disk_cache import POLL_SECONDS
from core.teacher.cache_key import CacheKeyInputs, spec_cache_key, teacher_digest
from core.teacher.layout import Layout, layout_of, row_bytes
from core.teacher.shard_store import CachedRows, Entry, InMemoryRows, MappedRows, Shard, ShardStore
from core.train.context import RunContext
from core.train.trainer import TrainingSetup

# Of one view of all teachers. Above it, teachers run on every batch: a view that is not on disk has to fit in memory.
MAX_VIEW_BYTES = 4 * 1024**3
MAX_IN_MEMORY_BYTES = 256 * 1024**2  # of one view and teacher; above it, stored rows are memory-mapped
# Of one shard: what a killed process loses, and what one process computes at a time. Seconds for a large teacher.
CPU_SHARD_ROWS = 256
GPU_SHARD_ROWS = 1024
_SMALL_IMAGE_SIZE = 64  # pixels per side; more of smaller images fill a GPU, and larger ones fill its memory
_MAX_HEADER_BYTES = 192  # of a shard
_OFFER_SECONDS = 5.0  # least time between two offers


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

    ``offers_views``: let idle workers compute missing shards, which need nothing but the spec for it.
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
        num_views=views,
        shard_rows=CPU_SHARD_ROWS if setup.compute.device.type == "cpu" else GPU_SHARD_ROWS,
        offers_views=offers_views and spec.resources.devices == 1,
        cache_key=spec_cache_key(spec, method, num_images),
    )


def _block_size(setup: TrainingSetup) -> int:
    """Images per forward pass of the teachers. Divides the rows of a shard."""
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
    saved_seconds: float = 0.0  # that other processes, attempts or jobs had computed the loaded shards for
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
        num_views: int,
        shard_rows: int,
        offers_views: bool,
        cache_key: str,
    ) -> None:
        self.stats = CacheStats(cache_key=cache_key)
        self._teachers = teachers
        self._key_inputs = key_inputs
        self._loader = key_inputs.loader
        self._store = store
        self._reporter = reporter
        self._num_views = num_views
        self._shard_rows = shard_rows
        self._offers_views = offers_views
        self._offer_at = 0.0  # time of the next offer
        self._digests: list[str] = []
        self._requests_of_view: dict[int, list[_ViewRequest]] = {}
        self._next_view = 0  # the first one of which the training may miss shards
        self._view: int | None = None
        self._rows: list[CachedRows] = []
        self._num_computed = 0  # shards that this process computed
        self._unread: set[tuple[str, int]] = set()  # key and index of those that it has not loaded since

    def load_step(self, step: int) -> None:
        """Load or compute the view of a step, unless it is loaded. Raises ``Interrupted`` on any control request."""
        view = view_of_epoch(step // self._loader.steps_per_epoch, self._loader.views)
        if view == self._view:
            return
        self._rows, self._view = [], None  # free the memory of the previous view first
        self._next_view = view
        for request in self._requests(view):
            self._rows.append(self._load_view(request))
        self._view = view
        self.stats.views = max(self.stats.views, view + 1)
        self._report_if_disabled()

    def compute_missing(self, first_view: int) -> Generator[int, None, None]:
        """Compute the missing shards that no other process has claimed, in the order in which the training reads them.

        Yields the view after each computed shard. Ends early if the cache is disabled. Raises ``Interrupted`` on any
        control request.
        """
        for view in range(first_view, self._num_views):
            for request in self._requests(view):
                with self._store.open_entry(request.key, self._poll) as entry:
                    for index in entry.missing(self._num_shards):
                        if self._store.disabled_reason is not None:
                            return
                        num_computed = self._num_computed
                        self._claim_shard(entry, index, request)
                        if self._num_computed > num_computed:
                            yield view

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
        if view in self._requests_of_view:
            return self._requests_of_view[view]
        self._digests = self._digests or [teacher_digest(teacher.built) for teacher, _ in self._teachers]
        requests = [
            _ViewRequest(
                view,
                teacher,
                layout,
                self._key_inputs.entry_key(digest, view, layout),
                mapped=self._num_samples * row_bytes([layout]) > MAX_IN_MEMORY_BYTES,
            )
            for (teacher, layout), digest in zip(self._teachers, self._digests, strict=True)
        ]
        self._requests_of_view[view] = requests
        return requests

    def _offer_missing(self) -> None:
        """Offer the shards that no process computes, unless the cache does not store them."""
        if not self._offers_views or self._store.disabled_reason is not None or time.monotonic() < self._offer_at:
            return
        views = range(self._next_view, self._num_views)
        keys = [request.key for view in views for request in self._requests(view)]
        num_shards = sum(self._store.num_unclaimed(key, self._num_shards) for key in keys)
        if num_shards:
            shard_seconds = self.stats.seconds / self._num_computed
            offer = ViewOffer(self.views_key(), self._next_view, self._num_views, num_shards, shard_seconds)
            self._reporter.offer_views(offer)
        self._offer_at = time.monotonic() + _OFFER_SECONDS

    # --- one view of one teacher --------------------------------------------------------------------

    def _load_view(self, request: _ViewRequest) -> CachedRows:
        """Load all shards of a view, and compute the missing ones. Computes later shards while others compute these."""
        shards: dict[int, Shard] = {}
        while len(shards) < self._num_shards:
            with self._store.open_entry(request.key, self._poll) as entry:
                for index in range(self._num_shards):
                    shard = shards.get(index) or entry.read(index, mapped=request.mapped)
                    shard = shard or self._claim_shard(entry, index, request)
                    if shard is not None:
                        shards[index] = shard
            if len(shards) < self._num_shards and not self._compute_one(request.view):
                self._poll()
                time.sleep(POLL_SECONDS)  # other processes have claimed all missing shards
        self._count_access(request, shards)
        rows = [shards[index].rows for index in range(self._num_shards)]
        return MappedRows(rows, self._shard_rows) if request.mapped else InMemoryRows(rows)

    def _count_access(self, request: _ViewRequest, shards: dict[int, Shard]) -> None:
        computed = {index for index in shards if (request.key, index) in self._unread}
        self._unread -= {(request.key, index) for index in computed}
        self.stats.misses += bool(computed)
        self.stats.hits += not computed
        self.stats.saved_seconds += sum(shard.seconds for index, shard in shards.items() if index not in computed)
        self.stats.bytes += sum(shard.rows.nbytes for shard in shards.values())

    def _compute_one(self, first_view: int) -> bool:
        """Compute the first missing shard that no other process has claimed; return whether there was one."""
        with closing(self.compute_missing(first_view)) as computed:
            return next(computed, None) is not None

    def _claim_shard(self, entry: Entry, index: int, request: _ViewRequest) -> Shard | None:
        """Compute a missing shard, or load it if it is stored by now; None while another process computes it."""
        with entry.claim(index) as is_claimed:
            if not is_claimed:
                return None
            shard = entry.read(index, mapped=request.mapped)
            if shard is not None:
                return shard
            self._reserve(entry, request)
            shard = self._compute_shard(entry, index, request)
        self._offer_missing()
        return shard

    def _reserve(self, entry: Entry, request: _ViewRequest) -> None:
        """Reserve the space of all missing shards of an entry, once while it is open."""
        if not entry.is_reserved:
            num_missing = len(entry.missing(self._num_shards))
            num_rows = min(num_missing * self._shard_rows, self._num_samples)
            entry.reserve(num_rows * row_bytes([request.layout]) + _MAX_HEADER_BYTES * num_missing)

    def _compute_shard(self, entry: Entry, index: int, request: _ViewRequest) -> Shard:
        began = time.monotonic()
        start = index * self._shard_rows
        end = min(start + self._shard_rows, self._num_samples)
        blocks = [self._compute_block(request, first, end) for first in range(start, end, self._key_inputs.block_size)]
        shard = Shard(torch.cat(blocks).numpy(), time.monotonic() - began)
        self.stats.seconds += shard.seconds
        self._num_computed += 1
        self._unread.add((request.key, index))
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
        return -(-self._num_samples // self._shard_rows)

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

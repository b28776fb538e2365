"""One rank's part of a data-parallel training."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from core.data.views import view_of_epoch
from core.methods.base import Batch
from core.models.taps import Outputs
from core.train.loader import BatchLoader
from core.train.process_group import ProcessGroup
from core.train.trainer import TeacherOutputSource, TrainingSetup


@dataclass(slots=True)
class RankZeroFirst:
    """Teacher outputs that rank 0 computes and caches before the other ranks read them.

    If they do not fit in the cache, all ranks compute their own at the same time.
    """

    source: TeacherOutputSource
    ranks: ProcessGroup
    loader: BatchLoader
    _view: int | None = field(default=None, init=False)

    def load_step(self, step: int) -> None:
        """Load the outputs that a step needs; the ranks synchronize where a new view begins."""
        view = view_of_epoch(step // self.loader.steps_per_epoch, self.loader.views)
        if view != self._view:
            self.ranks.rank_zero_first(lambda: self.source.load_step(step))
            self._view = view

    def for_batch(self, batch: Batch) -> list[Outputs]:
        """Return each teacher's outputs for this rank's part of the batch."""
        return self.source.for_batch(batch)


def shard_setup(setup: TrainingSetup, ranks: ProcessGroup) -> TrainingSetup:
    """Restrict a training setup to this rank's part of each batch."""
    if ranks.world_size == 1:
        return setup
    outputs = None if setup.teacher_outputs is None else RankZeroFirst(setup.teacher_outputs, ranks, setup.loader)
    return replace(setup, loader=setup.loader.shard(ranks.rank, ranks.world_size), teacher_outputs=outputs)

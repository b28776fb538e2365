"""One rank's part of a training that several processes share."""

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
    """Answers of teachers that the first rank asks for and the others then find stored.

    Where they could not be stored, every rank asks by itself, all at the same time.
    """

    source: TeacherOutputSource
    ranks: ProcessGroup
    loader: BatchLoader
    _view: int | None = field(default=None, init=False)

    def load_step(self, step: int) -> None:
        """Have a step's answers at hand; the ranks meet where a new view begins."""
        view = view_of_epoch(step // self.loader.steps_per_epoch, self.loader.views)
        if view != self._view:
            self.ranks.after_first(lambda: self.source.load_step(step))
            self._view = view

    def for_batch(self, batch: Batch) -> list[Outputs]:
        """What each teacher said of this rank's part of the batch."""
        return self.source.for_batch(batch)


def shard_setup(task: TrainingSetup, ranks: ProcessGroup) -> TrainingSetup:
    """The task with its part of each batch."""
    if ranks.size == 1:
        return task
    asked = None if task.teacher_outputs is None else RankZeroFirst(task.teacher_outputs, ranks, task.loader)
    return replace(task, loader=task.loader.part(ranks.rank, ranks.size), teacher_outputs=asked)

"""One rank's part of a training that several processes share."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from core.data.views import view_of_epoch
from core.methods.base import Batch
from core.models.taps import Outputs
from core.train.feed import Feed
from core.train.loop import Asked, Task
from core.train.ranks import Ranks


@dataclass(slots=True)
class InTurn:
    """Answers of teachers that the first rank asks for and the others then find stored.

    Where they could not be stored, every rank asks by itself, all at the same time.
    """

    asked: Asked
    ranks: Ranks
    feed: Feed
    _view: int | None = field(default=None, init=False)

    def ready(self, step: int) -> None:
        """Have a step's answers at hand; the ranks meet where a new view begins."""
        view = view_of_epoch(step // self.feed.steps_per_epoch, self.feed.views)
        if view != self._view:
            self.ranks.after_first(lambda: self.asked.ready(step))
            self._view = view

    def of(self, batch: Batch) -> list[Outputs]:
        """What each teacher said of this rank's part of the batch."""
        return self.asked.of(batch)


def parted(task: Task, ranks: Ranks) -> Task:
    """The task with its part of each batch."""
    if ranks.size == 1:
        return task
    asked = None if task.asked is None else InTurn(task.asked, ranks, task.feed)
    return replace(task, feed=task.feed.part(ranks.rank, ranks.size), asked=asked)

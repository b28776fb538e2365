"""``python -m core.rank_main ORDERS RANK SIZE``: one of the other processes of a training on several devices.

Started by :mod:`core.train.rank_launcher` and ended by it. It builds the same training as the first rank does, takes
its part of every batch, and has nothing to say: no reporter, no checkpoints, no choice.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

# As in core.__main__: before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from core.errors import OutOfMemory, PotstillError
from core.pipeline import build_student_setup
from core.reporting import Control, Progress, SavedCheckpoint, Stage
from core.system.parent_death import CRASHED
from core.train.checkpoint import read_checkpoint
from core.train.context import open_run
from core.train.data_parallel import shard_setup
from core.train.environment import is_out_of_memory
from core.train.process_group import init_process_group
from core.train.rank_launcher import RankConfig, tell_failure
from core.train.trainer import TrainStep


class NullReporter:
    """A reporter that passes nothing on, and finds what the orders name."""

    def __init__(self, orders: RankConfig) -> None:
        self._orders = orders

    def stage_started(self, stage: Stage) -> None:
        """The first rank tells."""

    def stage_finished(self, stage: Stage) -> None:
        """The first rank tells."""

    def progress(self, progress: Progress) -> None:
        """The first rank tells."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """The first rank tells."""

    def event(
        self,
        type: str,  # noqa: A002 - the wire's word
        message: str,
        *,
        level: Literal["info", "warning", "error"] = "info",
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """The first rank tells."""

    def control(self) -> Control:
        """Go on: the first rank decides, and ends this process when it leaves."""
        return Control.GO

    def save_checkpoint(self, checkpoint: SavedCheckpoint) -> None:
        """The first rank saves."""

    def newest_checkpoint(self, track: str) -> Path | None:  # noqa: ARG002 - only the student is trained here
        """Where the first rank goes on from."""
        return None if self._orders.checkpoint is None else Path(self._orders.checkpoint)

    def find_teacher(self, recipe: str) -> Path | None:
        """A teacher that the first rank has."""
        folder = self._orders.teachers.get(recipe)
        return None if folder is None else Path(folder)

    def keep_teacher(self, recipe: str, folder: Path) -> None:
        """The first rank keeps."""


def follow(orders: RankConfig, rank: int, size: int) -> None:
    """Train to the last step, unless this process is ended before."""
    spec, workspace = orders.job(), orders.workspace(rank)
    with open_run(spec, workspace, NullReporter(orders), rank=rank) as context:
        task = build_student_setup(spec, workspace, context)
        orders.ready(rank).touch()
        with init_process_group(orders.meeting, rank=rank, size=size, device=context.compute.device) as ranks:
            task = shard_setup(task, ranks)
            stepper = TrainStep(task, ranks=ranks)
            done = 0 if orders.checkpoint is None else read_checkpoint(Path(orders.checkpoint), stepper.trained)
            for step in range(done, stepper.schedule.total_steps):
                if task.teacher_outputs is not None:
                    task.teacher_outputs.load_step(step)
                stepper.enqueue(step)
                stepper.drain_ready()
            stepper.drain_all()


def main(arguments: Sequence[str]) -> int:
    """Follow the orders in a file; the exit status, 0 after the last step."""
    path, rank, size = arguments
    orders = RankConfig.read(Path(path))
    try:
        follow(orders, int(rank), int(size))
    except Exception as error:  # noqa: BLE001 - whatever it is, the first rank is to say so in this one's place
        if not isinstance(error, PotstillError):
            traceback.print_exc()
        tell_failure(orders, int(rank), _told(error, int(rank)))
        return CRASHED
    return 0


def _told(error: Exception, rank: int) -> PotstillError:
    """As the first rank would be failed by the same error."""
    said = f"{type(error).__name__}: {error}"
    match error:
        case PotstillError():
            return error
        case _ if is_out_of_memory(error):
            return OutOfMemory(f"there is not enough memory for process {rank} of those that train together: {said}")
    return PotstillError(f"process {rank} of those that train together ended with {said}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""``python -m core.rank_main CONFIG RANK WORLD_SIZE``: process of rank 1 or above of a data-parallel training.

:mod:`core.train.rank_launcher` starts and ends it, or :mod:`core.rank_host` under torchrun. It builds the same training
as rank 0 and trains on its part of every batch. It reports nothing, saves no checkpoints and receives no control
requests.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

# As in core.__main__: before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from core.distillation import build_student_setup
from core.errors import OutOfMemory, PotstillError
from core.reporting import NullReporter
from core.system.parent_death import EXIT_CRASHED
from core.train.checkpoint import read_checkpoint
from core.train.context import open_run
from core.train.data_parallel import shard_setup
from core.train.environment import is_out_of_memory
from core.train.process_group import FileRendezvous, Rendezvous, init_process_group
from core.train.rank_config import RankConfig, require_files, write_failure
from core.train.statistics import estimate_statistics
from core.train.torchrun import RankPlace
from core.train.trainer import TrainStep


class RankReporter(NullReporter):
    """Reporter of ranks above 0: it finds the checkpoint and the teachers that the configuration names."""

    def __init__(self, config: RankConfig) -> None:
        self._config = config

    def newest_checkpoint(self, track: str) -> Path | None:  # noqa: ARG002 - only the student is trained here
        """Return the checkpoint that rank 0 resumes from."""
        return None if self._config.checkpoint is None else Path(self._config.checkpoint)

    def find_teacher(self, fingerprint: str) -> Path | None:
        """Return the folder of a teacher that rank 0 trained or loaded."""
        folder = self._config.teachers.get(fingerprint)
        return None if folder is None else Path(folder)


def train_rank(config: RankConfig, place: RankPlace, rendezvous: Rendezvous) -> None:
    """Train from the configured checkpoint to the last step."""
    spec, workspace = config.parse_spec(), config.workspace(place.rank)
    with open_run(spec, workspace, RankReporter(config), place=place) as context:
        setup = build_student_setup(spec, workspace, context)
        config.ready_path(place.rank).touch()
        device = context.compute.device
        with init_process_group(rendezvous, rank=place.rank, world_size=place.world_size, device=device) as ranks:
            setup = shard_setup(setup, ranks)
            train_step = TrainStep(setup, ranks=ranks)
            done = 0 if config.checkpoint is None else read_checkpoint(Path(config.checkpoint), train_step.state)
            if done == 0:
                estimate_statistics(setup)
            for step in range(done, train_step.schedule.total_steps):
                if setup.teacher_outputs is not None:
                    setup.teacher_outputs.load_step(step)
                train_step.enqueue(step)
                train_step.drain_ready()
            train_step.drain_all()


def run_rank(
    config: RankConfig, place: RankPlace, rendezvous: Rendezvous, *, files: Mapping[str, str] | None = None
) -> int:
    """Train one rank, and write the error that ends it; return the exit status, 0 after the last step.

    ``files`` are digests by path, which this machine must have (:meth:`RankConfig.file_digests`).
    """
    try:
        require_files(files or {})
        train_rank(config, place, rendezvous)
    except Exception as error:  # noqa: BLE001 - rank 0 reports every error of this process
        if not isinstance(error, PotstillError):
            traceback.print_exc()
        write_failure(config, place.rank, _to_run_error(error, place.rank))
        return EXIT_CRASHED
    return 0


def main(arguments: Sequence[str]) -> int:
    """Train one rank that rank 0 has started on its own machine; return the exit status."""
    path, rank, world_size = arguments
    config = RankConfig.read(Path(path))
    place = RankPlace.on_one_machine(int(rank), int(world_size))
    return run_rank(config, place, FileRendezvous(config.store_path))


def _to_run_error(error: Exception, rank: int) -> PotstillError:
    """Convert an error as rank 0 would."""
    message = f"{type(error).__name__}: {error}"
    match error:
        case PotstillError():
            return error
        case _ if is_out_of_memory(error):
            return OutOfMemory(f"there is not enough memory for rank {rank}: {message}")
    return PotstillError(f"rank {rank} ended with {message}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

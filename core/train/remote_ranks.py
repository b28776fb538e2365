"""Processes of ranks 1 and above that torchrun has started, perhaps on other machines.

:mod:`core.rank_host` runs there. It starts and ends the process of a training by rank 0's orders.
"""

from __future__ import annotations

from collections.abc import Mapping

from core.errors import PotstillError
from core.train.rank_channel import RankChannel
from core.train.rank_config import RankConfig
from core.train.rank_processes import RankProcesses


class RemoteRanks(RankProcesses):
    """Ranks of one training that rank 0 reaches through messages."""

    def __init__(self, config: RankConfig, channel: RankChannel) -> None:
        self._channel = channel
        self._number = channel.start_training({"config": config.to_json(), "files": config.file_digests()})
        self.rendezvous = channel.rendezvous(self._number)

    def failed(self) -> dict[int, int]:
        """Return the nonzero exit statuses by rank, as reported so far."""
        return {rank: status for rank, (status, _) in self._channel.failures(self._number).items()}

    def are_ready(self) -> bool:
        """Return whether all ranks have built their training."""
        return self._channel.are_ready(self._number)

    def failure(self, failed: Mapping[int, int]) -> PotstillError:
        """Return the first error, or that of a killed rank, because the others failed because of it."""
        failures = self._channel.failures(self._number)
        killed = [rank for rank in failures if failed.get(rank, 0) < 0]
        return failures[next(iter(killed or failures))][1]

    def end(self) -> None:
        """Order the other machines to end their processes."""
        self._channel.end_training(self._number)

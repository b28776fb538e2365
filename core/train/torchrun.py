"""The environment that torchrun gives to its processes. No other module reads these variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from core.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class RankPlace:
    """Rank of a process, and its position among the ranks of its machine, which is the index of its device."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int

    @classmethod
    def on_one_machine(cls, rank: int, world_size: int) -> Self:
        """Return the place of a rank where one machine has them all."""
        return cls(rank, world_size, rank, world_size)


@dataclass(frozen=True, slots=True)
class TorchrunEnvironment:
    """Place of this process, and the address of the key-value store that all ranks share.

    ``has_agent_store`` tells whether torchrun's agent serves the store; otherwise rank 0 has to.
    """

    place: RankPlace
    master_addr: str
    master_port: int
    has_agent_store: bool

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Self | None:
        """Read the variables of torchrun; return None for a process that torchrun did not start.

        Raises ``InvalidRequest`` if one is missing or invalid, or if another launcher started several ranks.
        """
        if "TORCHELASTIC_RUN_ID" not in environ:
            if _is_several(environ.get("WORLD_SIZE")):
                raise InvalidRequest(
                    f"WORLD_SIZE is {environ['WORLD_SIZE']}, but torchrun did not start this process; start it with "
                    "torchrun, or unset WORLD_SIZE to run the job on this machine alone"
                )
            return None
        world_size = _read_int(environ, "WORLD_SIZE", minimum=1)
        local_world_size = _read_int(environ, "LOCAL_WORLD_SIZE", minimum=1, maximum=world_size)
        place = RankPlace(
            rank=_read_int(environ, "RANK", minimum=0, maximum=world_size - 1),
            world_size=world_size,
            local_rank=_read_int(environ, "LOCAL_RANK", minimum=0, maximum=local_world_size - 1),
            local_world_size=local_world_size,
        )
        return cls(
            place=place,
            master_addr=_read(environ, "MASTER_ADDR"),
            master_port=_read_int(environ, "MASTER_PORT", minimum=1, maximum=65535),
            has_agent_store=environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        )


def _is_several(world_size: str | None) -> bool:
    return world_size is not None and world_size.isdecimal() and int(world_size) > 1


def _read(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name)
    if not value:
        raise InvalidRequest(f"torchrun started this process, but {name} is not set; start all processes with torchrun")
    return value


def _read_int(environ: Mapping[str, str], name: str, *, minimum: int, maximum: int | None = None) -> int:
    value = _read(environ, name)
    is_valid = value.isdecimal() and int(value) >= minimum and (maximum is None or int(value) <= maximum)
    if not is_valid:
        limits = f"at least {minimum}" if maximum is None else f"{minimum}…{maximum}"
        raise InvalidRequest(f"torchrun started this process, but {name} is {value!r}; expected an integer, {limits}")
    return int(value)

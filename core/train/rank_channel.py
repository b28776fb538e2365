"""Messages between rank 0 and the processes of the other ranks, where torchrun has started them.

They go through torchrun's key-value store. A session is one attempt of a job: a round of torchrun's rendezvous. The
store outlives a round, and agents that joined later count other restarts, so no variable of torchrun names the round
alike in all processes. A handshake does: each process draws a nonce, rank 0 replies to the nonce with the name of its
session, and the process confirms. Messages of earlier rounds have other names.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, Self

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store

from core.errors import InvalidRequest, PotstillError, ProcessLost, error_document, restore_error
from core.train.process_group import StoreRendezvous, connect_store
from core.train.torchrun import TorchrunEnvironment

_POLL_SECONDS = 0.05
_PAUSE_POLL_SECONDS = 1.0
_JOIN_SECONDS = 600.0  # torchrun starts all processes within seconds of each other
_LEAVE_SECONDS = 10.0

Identity = Mapping[str, str]
"""What has to be equal in all processes, by its name in an error message; and ``machine``, which need not."""


class Outcome(StrEnum):
    """How rank 0 left the session."""

    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


class RankStore:
    """JSON documents in a store. Reads do not wait. Raises ``ProcessLost`` if the store cannot be reached."""

    def __init__(self, store: Store) -> None:
        self._store = PrefixStore("potstill", store)

    @classmethod
    def connect(cls, environment: TorchrunEnvironment) -> Self:
        """Connect to torchrun's store; rank 0 serves it, unless the agent does."""
        with _reached():
            return cls(connect_store(environment, serve=environment.place.rank == 0))

    def put(self, key: str, document: Any) -> None:
        """Store a document."""
        with _reached():
            self._store.set(key, json.dumps(document))

    def get(self, key: str) -> Any | None:
        """Return a document, or None if there is none."""
        with _reached():
            return json.loads(self._store.get(key)) if self._store.check([key]) else None

    def has(self, keys: Iterable[str]) -> bool:
        """Return whether all documents exist."""
        with _reached():
            return bool(self._store.check(list(keys)))

    def count(self, key: str) -> int:
        """Increment a counter, and return its value."""
        with _reached():
            return int(self._store.add(key, 1))


@contextmanager
def _reached() -> Iterator[None]:
    try:
        yield
    except dist.DistError as error:
        raise ProcessLost(f"torchrun's store, on the machine of the first agent, cannot be reached: {error}") from error


class RankChannel:
    """Messages of one session. ``machine`` is the name of this one. All processes count the trainings from 0."""

    def __init__(self, store: RankStore, session: str, environment: TorchrunEnvironment, machine: str) -> None:
        self.environment = environment
        self.machine = machine
        self._store = store
        self._session = session
        self._num_trainings = 0
        self._is_pause_requested = False
        self._polled_at = 0.0

    # --- rank 0 -------------------------------------------------------------------------------------

    def start_training(self, order: Mapping[str, Any]) -> int:
        """Order the other ranks to start a training; return its number."""
        number = self._num_trainings
        self._num_trainings += 1
        self._store.put(self._key(number, "order"), order)
        return number

    def end_training(self, number: int) -> None:
        """Order the other ranks to end a training."""
        self._store.put(self._key(number, "end"), True)

    def are_ready(self, number: int) -> bool:
        """Return whether all other ranks have built a training."""
        return self._store.has(self._key(number, "ready", rank) for rank in self._others())

    def failures(self, number: int) -> dict[int, tuple[int, PotstillError]]:
        """Return exit status and error of each rank that failed in a training, the first failure first."""
        if not self._store.has([self._key(number, "failed")]):
            return {}
        reports = {rank: self._store.get(self._key(number, "failure", rank)) for rank in self._others()}
        found = sorted((report["position"], rank, report) for rank, report in reports.items() if report is not None)
        return {rank: (report["status"], restore_error(report["error"])) for _, rank, report in found}

    def is_pause_requested(self) -> bool:
        """Return whether another machine has to be left. Reads the store once a second."""
        now = time.monotonic()
        if not self._is_pause_requested and now - self._polled_at >= _PAUSE_POLL_SECONDS:
            self._polled_at = now
            self._is_pause_requested = self._store.has([self._key("pause")])
        return self._is_pause_requested

    def close(self, outcome: Outcome) -> None:
        """End the session in all processes. Unless it failed, wait for them, because rank 0 may serve the store."""
        self._store.put(self._key("outcome"), outcome)
        deadline = time.monotonic() + _LEAVE_SECONDS
        while outcome is not Outcome.FAILED and time.monotonic() < deadline:
            if self._store.has(self._key("left", rank) for rank in self._others()):
                return
            time.sleep(_POLL_SECONDS)

    # --- other ranks --------------------------------------------------------------------------------

    def order(self, number: int) -> dict[str, Any] | None:
        """Return the order of a training, or None if there is none yet."""
        order: dict[str, Any] | None = self._store.get(self._key(number, "order"))
        return order

    def is_ended(self, number: int) -> bool:
        """Return whether rank 0 has left a training, or the session."""
        return self._store.has([self._key(number, "end")]) or self.outcome() is not None

    def report_ready(self, number: int) -> None:
        """Report that this rank has built a training."""
        self._store.put(self._key(number, "ready", self.environment.place.rank), True)

    def report_failure(self, number: int, status: int, error: PotstillError) -> None:
        """Report exit status and error of this rank."""
        report = {
            "position": self._store.count(self._key(number, "failures")),
            "status": status,
            "error": error_document(error),
        }
        self._store.put(self._key(number, "failure", self.environment.place.rank), report)
        self._store.put(self._key(number, "failed"), True)

    def request_pause(self) -> None:
        """Ask rank 0 to save a checkpoint and to end, because this machine has to be left. Repetitions do nothing."""
        if not self._is_pause_requested:
            self._is_pause_requested = True
            self._store.put(self._key("pause"), True)

    def outcome(self) -> Outcome | None:
        """Return how rank 0 has left the session, or None."""
        outcome = self._store.get(self._key("outcome"))
        return None if outcome is None else Outcome(outcome)

    def leave(self) -> None:
        """Report that this process has read the outcome."""
        self._store.put(self._key("left", self.environment.place.rank), True)

    # --- all ranks ----------------------------------------------------------------------------------

    def rendezvous(self, number: int) -> StoreRendezvous:
        """Return where the ranks of a training meet."""
        return StoreRendezvous(self.environment, self._key(number))

    def _others(self) -> range:
        return range(1, self.environment.place.world_size)

    def _key(self, *parts: object) -> str:
        return "/".join(str(part) for part in (self._session, *parts))


def open_session(store: RankStore, environment: TorchrunEnvironment, identity: Identity) -> RankChannel:
    """Wait as rank 0 until all other ranks have joined a new session.

    Raises:
        InvalidRequest: The processes differ in their versions, their spec or their options.
        ProcessLost: Not all ranks have joined in time.
    """
    session, deadline = secrets.token_hex(8), time.monotonic() + _JOIN_SECONDS
    channel = RankChannel(store, session, environment, identity["machine"])
    waiting = set(range(1, environment.place.world_size))
    identities: dict[int, Identity] = {}
    while waiting:
        if time.monotonic() > deadline:
            raise ProcessLost(f"ranks {sorted(waiting)} have not joined within {_JOIN_SECONDS:.0f} s")
        for rank in sorted(waiting):
            hello = store.get(f"hello/{rank}")
            if hello is not None:
                store.put(f"reply/{hello['nonce']}", {"session": session, "identity": identity})
            if (joined := store.get(f"{session}/joined/{rank}")) is not None:
                identities[rank] = joined
                waiting.remove(rank)
        time.sleep(_POLL_SECONDS)
    for rank, other in sorted(identities.items()):
        require_equal(other, rank, identity)
    return channel


def join_session(
    store: RankStore, environment: TorchrunEnvironment, identity: Identity, *, poll: Callable[[], None]
) -> RankChannel:
    """Join the session of rank 0 as another rank. ``poll`` may raise.

    Raises:
        InvalidRequest: This process differs from rank 0 in its versions, its spec or its options.
        ProcessLost: Rank 0 has not replied in time.
    """
    rank, nonce, deadline = environment.place.rank, secrets.token_hex(8), time.monotonic() + _JOIN_SECONDS
    store.put(f"hello/{rank}", {"nonce": nonce})
    while (reply := store.get(f"reply/{nonce}")) is None:
        poll()
        if time.monotonic() > deadline:
            raise ProcessLost(f"rank 0 has not replied within {_JOIN_SECONDS:.0f} s")
        time.sleep(_POLL_SECONDS)
    store.put(f"{reply['session']}/joined/{rank}", dict(identity))
    require_equal(identity, rank, reply["identity"])
    return RankChannel(store, reply["session"], environment, identity["machine"])


def require_equal(identity: Identity, rank: int, expected: Identity) -> None:
    """Compare the identity of a rank with that of rank 0. Raises ``InvalidRequest`` if they differ."""
    for name, value in expected.items():
        if name != "machine" and identity.get(name) != value:
            raise InvalidRequest(
                f"rank {rank} on {identity.get('machine')} has {name} {identity.get(name)!r}, and rank 0 on "
                f"{expected['machine']} has {value!r}; all machines need the same versions, spec and options"
            )

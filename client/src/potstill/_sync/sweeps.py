# Generated from `potstill._async` by `make docs`; do not edit.
"""``/v1/sweeps``: jobs that differ in a few fields."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import PrivateAttr

from potstill._sync.polling import Poll
from potstill._sync.runtime import sleep
from potstill.calls import Call, create_call, json_body, object_path, query_call, read_call
from potstill.documents import FrontPoint, SweepDocument, SweepEstimate, SweepSummary
from potstill.errors import NotReady

if TYPE_CHECKING:
    from potstill._sync.transport import Transport
    from potstill.job_spec import JobSpec

CostName = Literal["size_bytes", "parameters", "flops", "latency_ms"]

POLL_SECONDS = 3.0


class Sweep(SweepDocument):
    """A sweep as the service last described it. Actions return the new state; the object itself does not change."""

    _sweeps: Sweeps = PrivateAttr()

    def refresh(self) -> Sweep:
        """Get the sweep's current state."""
        return self._sweeps.get(self.id)

    def wait(self, *, timeout_seconds: float | None = None) -> Sweep:
        """Wait until all jobs have ended; see :meth:`Sweeps.wait`."""
        return self._sweeps.wait(self.id, timeout_seconds=timeout_seconds)

    def cancel(self) -> Sweep:
        """Cancel all jobs that have not ended."""
        return self._sweeps.cancel(self.id)

    def delete(self) -> None:
        """Delete the sweep; its jobs stay."""
        self._sweeps.delete(self.id)

    def front(self, cost: CostName = "size_bytes") -> Sequence[FrontPoint]:
        """Return the students and compressed files that no other one beats in accuracy and this cost."""
        found: list[FrontPoint] = getattr(self.fronts, cost)
        return found


class Sweeps:
    """``/v1/sweeps``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        spec: JobSpec | Mapping[str, Any],
        grid: Mapping[str, Sequence[Any]] | None = None,
        *,
        points: Sequence[Mapping[str, Any]] | None = None,
        name: str | None = None,
        idempotency_key: str | None = None,
    ) -> Sweep:
        """Submit a job for each combination of the grid, e.g. ``{"training.epochs": [20, 40]}``.

        ``points`` are merge patches of the spec for fields that vary together; each is combined with the grid. All jobs
        are created, or none. Raises :class:`InvalidSpec`, which names the job and the field.
        """
        body = json_body(_document(spec, grid, points, name))
        call = create_call("/v1/sweeps", body, idempotency_key=idempotency_key)
        return self._bind(self._transport.read(call, Sweep))

    def estimate(
        self,
        spec: JobSpec | Mapping[str, Any],
        grid: Mapping[str, Sequence[Any]] | None = None,
        *,
        points: Sequence[Mapping[str, Any]] | None = None,
    ) -> SweepEstimate:
        """Estimate the duration of a sweep, where teachers that jobs share count once; nothing is submitted."""
        call = query_call("/v1/sweeps/estimate", _document(spec, grid, points, None))
        return self._transport.read(call, SweepEstimate)

    def get(self, sweep_id: str) -> Sweep:
        """Get a sweep with its jobs and Pareto fronts."""
        return self._bind(self._transport.read(read_call(object_path("sweeps", sweep_id)), Sweep))

    def list(self, *, limit: int | None = None) -> Iterator[SweepSummary]:
        """Iterate over the sweeps without their jobs, newest first."""
        return self._transport.pages("/v1/sweeps", SweepSummary, limit=limit)

    def cancel(self, sweep_id: str) -> Sweep:
        """Cancel all jobs of a sweep that have not ended."""
        call = Call("POST", object_path("sweeps", sweep_id, "cancel"), repeatable=True)
        return self._bind(self._transport.read(call, Sweep))

    def delete(self, sweep_id: str) -> None:
        """Delete a sweep; its jobs stay."""
        self._transport.delete(object_path("sweeps", sweep_id))

    def wait(
        self,
        sweep_id: str,
        *,
        timeout_seconds: float | None = None,
        on_change: Callable[[Sweep], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> Sweep:
        """Wait until all jobs have ended, and return the sweep. ``on_change`` receives each state that is read.

        Goes on after an outage of the service. Raises :class:`NotReady` after the timeout; the jobs go on.
        """
        poll = Poll(timeout_seconds=timeout_seconds, clock=clock)
        while True:
            sweep = poll.read(lambda: self.get(sweep_id))
            if on_change is not None:
                on_change(sweep)
            if sweep.terminal:
                return sweep
            if poll.is_late:
                raise NotReady(f"sweep {sweep.id} is still {sweep.status} after {timeout_seconds:g} s; its jobs go on")
            sleep(POLL_SECONDS)

    def _bind(self, sweep: Sweep) -> Sweep:
        sweep._sweeps = self  # noqa: SLF001 - both classes are one unit
        return sweep


def _document(
    spec: Mapping[str, Any],
    grid: Mapping[str, Sequence[Any]] | None,
    points: Sequence[Mapping[str, Any]] | None,
    name: str | None,
) -> dict[str, Any]:
    document: dict[str, Any] = {"spec": dict(spec)}
    document |= {"grid": {field: list(values) for field, values in grid.items()}} if grid else {}
    document |= {"points": [dict(point) for point in points]} if points else {}
    return document | ({"name": name} if name is not None else {})

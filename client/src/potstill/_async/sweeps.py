"""``/v1/sweeps``: jobs that differ in a few fields."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import PrivateAttr

from potstill._async.polling import Poll
from potstill._async.runtime import sleep
from potstill.calls import Call, create_call, json_body, object_path, query_call, read_call
from potstill.documents import FrontPoint, SweepDocument, SweepEstimate, SweepSummary
from potstill.errors import NotReady

if TYPE_CHECKING:
    from potstill._async.transport import AsyncTransport
    from potstill.job_spec import JobSpec

CostName = Literal["size_bytes", "parameters", "flops", "latency_ms"]

POLL_SECONDS = 3.0


class AsyncSweep(SweepDocument):
    """A sweep as the service last described it. Actions return the new state; the object itself does not change."""

    _sweeps: AsyncSweeps = PrivateAttr()

    async def refresh(self) -> AsyncSweep:
        """Get the sweep's current state."""
        return await self._sweeps.get(self.id)

    async def wait(self, *, timeout_seconds: float | None = None) -> AsyncSweep:
        """Wait until all jobs have ended; see :meth:`AsyncSweeps.wait`."""
        return await self._sweeps.wait(self.id, timeout_seconds=timeout_seconds)

    async def cancel(self) -> AsyncSweep:
        """Cancel all jobs that have not ended."""
        return await self._sweeps.cancel(self.id)

    async def delete(self) -> None:
        """Delete the sweep; its jobs stay."""
        await self._sweeps.delete(self.id)

    def front(self, cost: CostName = "size_bytes") -> Sequence[FrontPoint]:
        """Return the students and compressed files that no other one beats in accuracy and this cost."""
        found: list[FrontPoint] = getattr(self.fronts, cost)
        return found


class AsyncSweeps:
    """``/v1/sweeps``."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(
        self,
        spec: JobSpec | Mapping[str, Any],
        grid: Mapping[str, Sequence[Any]] | None = None,
        *,
        points: Sequence[Mapping[str, Any]] | None = None,
        name: str | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncSweep:
        """Submit a job for each combination of the grid, e.g. ``{"training.epochs": [20, 40]}``.

        ``points`` are merge patches of the spec for fields that vary together; each is combined with the grid. All jobs
        are created, or none. Raises :class:`InvalidSpec`, which names the job and the field.
        """
        body = json_body(_document(spec, grid, points, name))
        call = create_call("/v1/sweeps", body, idempotency_key=idempotency_key)
        return self._bind(await self._transport.read(call, AsyncSweep))

    async def estimate(
        self,
        spec: JobSpec | Mapping[str, Any],
        grid: Mapping[str, Sequence[Any]] | None = None,
        *,
        points: Sequence[Mapping[str, Any]] | None = None,
    ) -> SweepEstimate:
        """Estimate the duration of a sweep, where teachers that jobs share count once; nothing is submitted."""
        call = query_call("/v1/sweeps/estimate", _document(spec, grid, points, None))
        return await self._transport.read(call, SweepEstimate)

    async def get(self, sweep_id: str) -> AsyncSweep:
        """Get a sweep with its jobs and Pareto fronts."""
        return self._bind(await self._transport.read(read_call(object_path("sweeps", sweep_id)), AsyncSweep))

    def list(self, *, limit: int | None = None) -> AsyncIterator[SweepSummary]:
        """Iterate over the sweeps without their jobs, newest first."""
        return self._transport.pages("/v1/sweeps", SweepSummary, limit=limit)

    async def cancel(self, sweep_id: str) -> AsyncSweep:
        """Cancel all jobs of a sweep that have not ended."""
        call = Call("POST", object_path("sweeps", sweep_id, "cancel"), repeatable=True)
        return self._bind(await self._transport.read(call, AsyncSweep))

    async def delete(self, sweep_id: str) -> None:
        """Delete a sweep; its jobs stay."""
        await self._transport.delete(object_path("sweeps", sweep_id))

    async def wait(
        self,
        sweep_id: str,
        *,
        timeout_seconds: float | None = None,
        on_change: Callable[[AsyncSweep], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> AsyncSweep:
        """Wait until all jobs have ended, and return the sweep. ``on_change`` receives each state that is read.

        Goes on after an outage of the service. Raises :class:`NotReady` after the timeout; the jobs go on.
        """
        poll = Poll(timeout_seconds=timeout_seconds, clock=clock)
        while True:
            sweep = await poll.read(lambda: self.get(sweep_id))
            if on_change is not None:
                on_change(sweep)
            if sweep.terminal:
                return sweep
            if poll.is_late:
                raise NotReady(f"sweep {sweep.id} is still {sweep.status} after {timeout_seconds:g} s; its jobs go on")
            await sleep(POLL_SECONDS)

    def _bind(self, sweep: AsyncSweep) -> AsyncSweep:
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

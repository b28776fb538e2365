"""Hours that the remaining runs of the quality benchmark take."""

from __future__ import annotations

import statistics
from collections.abc import Collection

from benchmarks.quality.arms import SCRATCH, Arm
from benchmarks.quality.plan import Plan, Step
from core.spec.costs import relative_cost

# Per step of one thread, measured on two cores of an AMD EPYC; only for runs without a measured one of their kind.
_TEACHER_SECONDS = {"cnn": 5_300.0, "vit": 2_900.0, "assistant": 700.0, "vit4": 2_700.0}
_UNKNOWN_COST, _PEER_COST = 1.3, 2.2  # relative to labels alone; a peer runs its teacher at every step
_MAX_COST = 2.5  # `costs.json` includes teachers at every step, which are cached here
_RUN_SECONDS = 8.0  # of a run, besides its training


class Estimate:
    """Seconds of each run: from finished runs of its arm, or from the costs of its method."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._measured: dict[Arm, list[float]] = {}
        for step in plan.steps:
            result = plan.result(step)
            if step.arm is not None and result is not None and result["status"] == "succeeded":
                self._measured.setdefault(step.arm, []).append(result["seconds"] / self._epochs(step, step.arm))
        self._slower = {track: self._slowdown(track) for track in plan.protocol.tracks}

    def seconds(self, step: Step) -> float:
        """Return the time of one run on one thread."""
        if step.arm is None:
            result = self._plan.result(step)
            return (
                _TEACHER_SECONDS.get(step.name.removeprefix("teacher-"), 0.0) if result is None else result["seconds"]
            )
        measured = self._measured.get(step.arm)
        if measured:
            return statistics.fmean(measured) * self._epochs(step, step.arm)
        return self._from_costs(step, step.arm) * self._slower[step.arm.track]

    def remaining(self, only: Collection[str] = ()) -> float:
        """Return the sum over all runs without a result."""
        return sum(map(self.seconds, self._plan.pending(only)))

    def lines(self, only: Collection[str], *, workers: int) -> list[str]:
        """Return the remaining hours by part of the plan, in order, and their sum."""
        hours: dict[str, list[float]] = {}
        for step in self._plan.pending(only):
            hours.setdefault(_part(step), []).append(self.seconds(step) / 3600 / workers)
        lines = [f"{len(values):>4} runs {sum(values):>6.1f} h  {part}" for part, values in hours.items()]
        total = sum(len(values) for values in hours.values())
        time = sum(map(sum, hours.values()))
        return [*lines, f"{total:>4} runs {time:>6.1f} h  in all, {workers} at once with one thread each"]

    def _epochs(self, step: Step, arm: Arm) -> int:
        return self._plan.protocol.epochs(self._plan.protocol.tracks[arm.track], step.seed)

    def _from_costs(self, step: Step, arm: Arm) -> float:
        protocol, track = self._plan.protocol, self._plan.protocol.tracks[arm.track]
        steps = self._epochs(step, arm) * -(-protocol.sizes.train // protocol.batch_size)
        cost = relative_cost(arm.method) or _UNKNOWN_COST
        if arm.peer is not None:
            cost = _PEER_COST
        return _RUN_SECONDS + steps * track.step_seconds * min(cost, _MAX_COST)

    def _slowdown(self, track: str) -> float:
        """Return the measured time of labels alone on this machine, relative to that of the costs."""
        for arm, seconds in self._measured.items():
            if arm.track == track and arm.name == SCRATCH:
                step = self._plan.seeds(arm)[0]
                return statistics.fmean(seconds) * self._epochs(step, arm) / self._from_costs(step, arm)
        return 1.0


def _part(step: Step) -> str:
    if step.arm is None:
        return "teachers"
    group = {"method": "methods", "kd": "methods", "peer": "peers"}.get(step.arm.kind, "controls")
    role = "tuning" if step.is_tuning else ("seeds 0 to 2" if step.seed < 3 else "seeds 3 and later")
    return f"track {step.arm.track}, {group}: {role}"

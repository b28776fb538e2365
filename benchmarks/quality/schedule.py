"""Runs the steps of a plan in worker processes, until all are finished or a stop is requested."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from typing import Protocol

from benchmarks.quality.plan import Plan, Run, Step
from benchmarks.quality.results import Result

_POLL_SECONDS = 0.5
_MAX_CRASHES = 3  # of worker processes in sequence, without a finished run between them


class OtherWeights(Exception):
    """A teacher that was trained again has other weights than the one of the results, as on another processor.

    Students of both are not comparable: their differences include that of the teachers.
    """


class StopFlag(Protocol):
    """An event of threads or processes."""

    def is_set(self) -> bool: ...


class Scheduler:
    """Keeps a number of workers busy with the first steps that can start.

    ``execute`` runs in a worker and returns the result of a run, or None if it was interrupted. ``has_weights`` says
    whether the weights of a finished run exist; without them it is trained again before a run that needs them.
    ``discard`` deletes the working files of a run whose result is saved.
    """

    def __init__(
        self,
        plan: Plan,
        execute: Callable[[Run], Result | None],
        *,
        executor: Callable[[], Executor],
        has_weights: Callable[[str], bool],
        discard: Callable[[str], None],
        workers: int,
        report: Callable[[str], None] = print,
    ) -> None:
        self._plan = plan
        self._execute = execute
        self._new_executor = executor
        self._has_weights = has_weights
        self._discard = discard
        self._workers = workers
        self._report = report
        self._restored: set[str] = set()

    def run(self, only: Collection[str], stop: StopFlag) -> bool:
        """Run the pending steps. Return True if all are finished, False after a stop or when some cannot start.

        Raises:
            BrokenExecutor: Worker processes end again and again.
            OtherWeights: A teacher that was trained again is not that of the results.
        """
        crashes = 0
        while True:
            executor = self._new_executor()
            try:
                finished = self._run_with(executor, only, stop)
            except BrokenExecutor:
                crashes = 1 if self._progressed else crashes + 1
                if crashes >= _MAX_CRASHES:
                    raise
                self._report("A worker process was killed; its run resumes from its checkpoint.")
                continue
            finally:
                executor.shutdown(wait=True, cancel_futures=True)
            return finished

    def _run_with(self, executor: Executor, only: Collection[str], stop: StopFlag) -> bool:
        running: dict[Future[Result | None], Step] = {}
        self._progressed = False
        while True:
            for step, run in self._startable(only, running.values()):
                if stop.is_set() or len(running) >= self._workers:
                    break
                self._report(f"{step.name} started")
                running[executor.submit(self._execute, run)] = step
            if not running:
                return not stop.is_set() and not self._plan.pending(only)
            done: set[Future[Result | None]] = set()
            while not done:
                done, _ = wait(running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            for future in done:
                self._finish(running.pop(future), future.result())

    def _finish(self, step: Step, result: Result | None) -> None:
        if result is None:
            self._report(f"{step.name} interrupted")
            return
        self._progressed = True
        known = self._plan.result(step)
        if known is None:
            self._plan.results.add(result)
        elif known.get("saved_weights") != result.get("saved_weights"):
            raise OtherWeights(
                f"{step.name} was trained again, and its weights are not those that the results belong to: processor "
                "or versions differ. Give another folder with --results to start anew."
            )
        self._discard(step.name)
        self._restored.add(step.name)
        top1 = result.get("validation_top1")
        score = "" if top1 is None else f", {top1:.1%} on the validation images"
        self._report(f"{step.name} {result['status']} in {result['seconds']:.0f} s{score}")

    def _startable(self, only: Collection[str], running: Iterable[Step]) -> list[tuple[Step, Run]]:
        """Return the first steps whose inputs exist, in order; also finished ones whose weights are missing."""
        active = set(running)
        found: dict[Step, Run] = {}
        for step in self._plan.pending(only):
            run = self._plan.run(step)
            if run is None or step in active:
                continue
            if all(map(self._is_available, run.models.values())):
                found.setdefault(step, run)
            for needed, again in self._untrained(run):
                if needed not in active:
                    found.setdefault(needed, again)
            if len(found) >= self._workers:
                break
        return list(found.items())

    def _is_available(self, name: str) -> bool:
        result = self._plan.result(self._plan.step(name))
        return result is not None and result["status"] == "succeeded" and self._has_weights(name)

    def _untrained(self, run: Run) -> Iterator[tuple[Step, Run]]:
        """Yield the runs that can train the missing inputs of a run now, also inputs of its inputs."""
        for name in run.models.values():
            step = self._plan.step(name)
            again, result = self._plan.run(step), self._plan.result(step)
            failed = result is not None and (result["status"] != "succeeded" or name in self._restored)
            if again is None or failed or self._is_available(name):
                continue
            if all(map(self._is_available, again.models.values())):
                yield step, again
            else:
                yield from self._untrained(again)

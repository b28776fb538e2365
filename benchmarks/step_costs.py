"""Cost of a training step of every method, relative to ``scratch`` with the same student.

Both trainings run in this process, on the same images. After warm-up steps, single steps of the method and of
``scratch`` alternate, so that both meet the same load and clock of the machine. The cost is the median of the ratios
of neighboring steps. Steps are those of a job after its first epoch: teacher outputs are read from the cache if the
method allows it. The teachers of other methods run in every step; they have the student's size, and random weights,
which cost the same as trained ones.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.engine import JobInputs
from benchmarks.results import RESULTS, machine, table, write_json
from core.distillation import build_student_setup
from core.ingest.dataset import ingest_builtin
from core.models.build import build_student
from core.models.plan import plan_student
from core.models.weights import save_folder
from core.reporting import NullReporter
from core.spec import METHODS, StudentSpec
from core.spec.costs import COSTS, format_costs
from core.spec.examples import example_job, example_student
from core.spec.info import InputInfo
from core.train.context import open_run
from core.train.trainer import TrainStep

RESULT = RESULTS / "step_costs.json"
IMAGE_SIZE, BATCH_SIZE, NUM_CLASSES = 16, 64, 10
WARMUP_STEPS, MIN_STEPS = 5, 15
_DATASET, _STUDENT = "ds_digits", "mdl_student"


@dataclass(frozen=True, slots=True)
class StepCost:
    """Median seconds of both steps, and median and middle half of the ratios of neighboring steps."""

    method: str
    seconds: float
    scratch_seconds: float
    cost: float
    lower: float
    upper: float
    steps: int


def main(arguments: Sequence[str]) -> int:
    """Measure the selected methods and print the table; write results and costs if all were measured."""
    options = _parser().parse_args(arguments)
    selected = options.methods.split(",") if options.methods else list(METHODS)
    with tempfile.TemporaryDirectory(prefix="potstill-step-costs-") as folder:
        inputs = _prepare_inputs(Path(folder))
        costs = []
        for name in selected:
            costs.append(measure(inputs, name, seconds=options.seconds, threads=options.threads))
            print(f"{name:<24} {costs[-1].cost:.2f} × scratch", flush=True)
    print(_table(costs))
    if options.write and not options.methods:
        _write(costs, options.seconds)
    return 0


def measure(inputs: JobInputs, name: str, *, seconds: float, threads: int) -> StepCost:
    """Measure one method for about ``seconds``, and for at least 15 steps."""
    with ExitStack() as runs:
        method, scratch = (
            _train_step(inputs, document, runs, threads=threads) for document in (_document(name), _scratch(name))
        )
        times = alternate(method.run, scratch.run, seconds=seconds, max_steps=method.schedule.total_steps)
    return summarize(name, *times)


def alternate(
    first: Callable[[int], Any],
    second: Callable[[int], Any],
    *,
    seconds: float,
    max_steps: int,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[list[float], list[float]]:
    """Call both with step after step and return their seconds, without the warm-up.

    The one that starts changes with every step, so that neither always follows the other.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for step in range(WARMUP_STEPS):
        first(step)
        second(step)
    deadline = clock() + seconds
    for step in range(WARMUP_STEPS, max_steps):
        if len(times[0]) >= MIN_STEPS and clock() > deadline:
            break
        for index in (0, 1) if step % 2 else (1, 0):
            began = clock()
            (first, second)[index](step)
            times[index].append(clock() - began)
    return times


def summarize(name: str, method_seconds: Sequence[float], scratch_seconds: Sequence[float]) -> StepCost:
    """Return the quartiles of the ratios of neighboring steps; the cost is their median."""
    method, scratch = statistics.median(method_seconds), statistics.median(scratch_seconds)
    ratios = [own / other for own, other in zip(method_seconds, scratch_seconds, strict=True)]
    lower, cost, upper = statistics.quantiles(ratios, n=4)
    return StepCost(name, method, scratch, cost, lower, upper, len(ratios))


def _train_step(inputs: JobInputs, document: dict[str, Any], runs: ExitStack, *, threads: int) -> TrainStep:
    """Build a job's training as a worker does, and compute the teacher outputs that it caches."""
    spec = inputs.resolve(document, threads=threads)
    root = inputs.work / "runs" / spec.method.name
    root.mkdir(parents=True, exist_ok=True)
    workspace = inputs.workspace(spec, root)
    context = runs.enter_context(open_run(spec, workspace, NullReporter()))
    setup = build_student_setup(spec, workspace, context)
    if setup.teacher_outputs is not None:
        setup.teacher_outputs.load_step(0)  # without augmentation all epochs have the same view
    return TrainStep(setup)


def _document(name: str) -> dict[str, Any]:
    document = example_job(name, dataset=_DATASET, pool=_DATASET, trained=_STUDENT, image_size=IMAGE_SIZE)
    document["training"] |= {"batch_size": BATCH_SIZE, "augmentation": "none"}
    for teacher in document.get("teachers", ()):
        teacher["weights"] = "random"
        del teacher["training"]
    return document


def _scratch(name: str) -> dict[str, Any]:
    """Return the job of ``scratch`` with the student and the training of a method's job."""
    document = _document(name)
    student = {key: value for key, value in document["student"].items() if key != "weights"}
    return {**{k: v for k, v in document.items() if k != "teachers"}, "student": student, "method": {"name": "scratch"}}


def _prepare_inputs(work: Path) -> JobInputs:
    """Store the digits, and a student with random weights for methods that continue from a trained one."""
    ingest_builtin("digits", work / "digits")
    info = InputInfo(num_classes=NUM_CLASSES, channels=1, image_size=IMAGE_SIZE)
    spec = StudentSpec.model_validate(example_student("transformer", IMAGE_SIZE))
    built = build_student(plan_student(spec, info, image_size=IMAGE_SIZE))
    save_folder(
        built.module,
        work / "student",
        architecture=built.architecture,
        arguments=built.arguments,
        preprocessing=built.preprocessing,
    )
    return JobInputs(work, {_DATASET: work / "digits"}, {_STUDENT: work / "student"})


def _table(costs: Sequence[StepCost]) -> str:
    figures = ("× scratch", "middle half", "ms per step", "ms of scratch", "steps")
    rows = (
        (
            cost.method,
            f"{cost.cost:.2f}",
            f"{cost.lower:.2f} to {cost.upper:.2f}",
            f"{1000 * cost.seconds:.1f}",
            f"{1000 * cost.scratch_seconds:.1f}",
            str(cost.steps),
        )
        for cost in costs
    )
    return table(("method", *figures), rows, right=figures)


def _write(costs: Sequence[StepCost], seconds: float) -> None:
    on = machine()
    about = " ".join((__doc__ or "").split())
    write_json(RESULT, {"about": about, "machine": on, "seconds": seconds, "rows": [asdict(cost) for cost in costs]})
    where = f"{on['processor']}, {on['cpus']} CPUs, torch {on['torch']}"
    COSTS.write_text(format_costs({cost.method: cost.cost for cost in costs}, measured_on=where), encoding="utf-8")
    print("Costs written; run `make docs` to update the pages.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks step_costs", description=__doc__)
    parser.add_argument("--methods", default="", help="comma-separated names; nothing is written")
    parser.add_argument("--seconds", type=float, default=6.0, help="seconds for each method")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="write the costs for GET /v1/methods and the docs")
    return parser

"""Times of a first job, a second job and four jobs on one teacher, against packages that run the teacher at every step.

Ours and theirs run in alternation, on the same networks, images, batches and losses. A first job fills the teacher
cache, a second one reads it. Their times are of training only; ours of the first job and of the four students include
the checkpoints, metrics and validation of the training stage.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.figures import Figure, ratio, save_figures
from benchmarks.peers import peers, train
from benchmarks.workload import Workload, WorkloadSize, steady_epoch_seconds

SECOND_JOB_GOALS = {"deit_tiny": "≥ 2.8", "deit_small": "≥ 7", "dla34": "≥ 1.2", "equal": None}
TEACHER_LABELS = {
    "deit_tiny": "a deit_tiny-sized teacher",
    "deit_small": "a deit_small-sized teacher",
    "dla34": "a dla34 teacher",
    "equal": "a teacher of the size of the student",
}
TEMPERATURES = (1.0, 2.0, 4.0, 8.0)  # of the four students

Seconds = dict[str, list[float]]


def main(arguments: Sequence[str]) -> int:
    """Measure, print and write."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    comparisons: dict[str, Callable[[Path, argparse.Namespace], list[Figure]]] = {
        "first": first_job,
        "second": second_job,
        "four": four_students,
    }
    figures = []
    with tempfile.TemporaryDirectory(prefix="potstill-benchmark-") as folder:
        for name in options.only.split(",") if options.only else comparisons:
            figures += comparisons[name](options.work or Path(folder), options)
    if options.only and not options.out:
        print(*figures, sep="\n")
        return 0
    if not options.quick or options.out:
        save_figures("against_peers", (__doc__ or "").strip(), figures, path=options.out, threads=options.threads)
    return 0


def first_job(work: Path, options: argparse.Namespace) -> list[Figure]:
    """Compare a job that fills the cache with the same training by each peer."""
    figures = []
    for teacher, sizes in {
        "deit_tiny": _sizes(options, num_images=192, epochs=20),
        "equal": _sizes(options, num_images=192, epochs=20),
    }.items():
        workload = Workload(work, sizes, threads=options.threads)
        spec = workload.spec(teacher)
        seconds: Seconds = {"ours": [], "total": [], **{name: [] for name in peers()}}
        early: Seconds = {name: [] for name in ("ours", "timm.task")}  # of the first 8 epochs
        for repeat in range(options.repeats):
            workload.clear_teacher_cache()
            times = workload.run(spec)
            seconds["ours"].append(times.training)
            seconds["total"].append(times.total)
            early["ours"].append(sum(times.epochs[:8]))
            for peer in peers():
                epochs = train(workload, spec, peer)
                seconds[peer].append(sum(epochs))
                if peer in early:
                    early[peer].append(sum(epochs[:8]))
            _print_repeat(f"first job, {teacher}", repeat, seconds)
        figures += _first_figures(workload, teacher, seconds, early)
    return figures


def _first_figures(workload: Workload, teacher: str, seconds: Seconds, early: Seconds) -> list[Figure]:
    detail = f"{workload.sizes.describe()}, 4 views, {workload.source}"
    overhead = statistics.median(total - ours for total, ours in zip(seconds["total"], seconds["ours"], strict=True))
    early_ratio = ratio("", early["timm.task"], early["ours"]).value
    goal = "≥ 2" if teacher == "deit_tiny" else None
    question = f"first job against {{}}, {TEACHER_LABELS[teacher]}"
    figures = [
        ratio(question.format(peer), seconds[peer], seconds["ours"], goal=goal, detail=detail) for peer in peers()
    ]
    figures[0] = ratio(
        question.format("timm.task"),
        seconds["timm.task"],
        seconds["ours"],
        goal=goal,
        detail=f"{detail}; after 8 epochs {early_ratio:.2f}×. The ratio grows with the epochs on the same views",
    )
    figures.append(
        ratio(
            f"{question.format('timm.task')}, with evaluation and export",
            seconds["timm.task"],
            seconds["total"],
            detail=f"{detail}; ours includes {overhead:.1f} s, independent of the number of images, for "
            "preflight, accuracy, latency and export; theirs is training only",
        )
    )
    return figures


def second_job(work: Path, options: argparse.Namespace) -> list[Figure]:
    """Compare an epoch of a job with a filled teacher cache with an epoch of timm.task."""
    figures = []
    for teacher, goal in SECOND_JOB_GOALS.items():
        sizes = _sizes(options, num_images=256, epochs=5)
        workload = Workload(work, sizes, threads=options.threads)
        spec = workload.spec(teacher, temperature=3.0)
        short = workload.spec(teacher, epochs=3, temperature=3.0)
        workload.run(workload.spec(teacher), only_training=True)  # the first job
        seconds: Seconds = {"ours": [], "timm.task": []}
        for repeat in range(options.repeats):
            seconds["ours"].append(steady_epoch_seconds(workload.run(spec, only_training=True).epochs))
            seconds["timm.task"].append(steady_epoch_seconds(train(workload, short, "timm.task")))
            _print_repeat(f"second job, {teacher}", repeat, seconds)
        figures.append(
            ratio(
                f"second job against timm.task, {TEACHER_LABELS[teacher]}",
                seconds["timm.task"],
                seconds["ours"],
                goal=goal,
                detail=f"an epoch of {sizes.num_images} images, batches of {sizes.batch_size}, {workload.source}",
            )
        )
    return figures


def four_students(work: Path, options: argparse.Namespace) -> list[Figure]:
    """Compare four jobs on one teacher, the first of which fills the cache, with four runs of timm.task."""
    sizes = _sizes(options, num_images=192, epochs=8)
    workload = Workload(work, sizes, threads=options.threads)
    specs = [workload.spec("deit_tiny", temperature=temperature) for temperature in TEMPERATURES]
    seconds: Seconds = {"ours": [], "timm.task": []}
    for repeat in range(options.repeats):
        workload.clear_teacher_cache()
        seconds["ours"].append(sum(workload.run(spec, only_training=True).training for spec in specs))
        seconds["timm.task"].append(sum(sum(train(workload, spec, "timm.task")) for spec in specs))
        _print_repeat("four students", repeat, seconds)
    return [
        ratio(
            f"four students of one teacher against four runs of timm.task, {TEACHER_LABELS['deit_tiny']}",
            seconds["timm.task"],
            seconds["ours"],
            detail=f"{sizes.describe()}, 4 views, {workload.source}; with different temperatures",
        )
    ]


def _sizes(options: argparse.Namespace, **full: Any) -> WorkloadSize:
    return WorkloadSize(num_images=40, epochs=3, batch_size=20, tiny=True) if options.quick else WorkloadSize(**full)


def _print_repeat(label: str, repeat: int, seconds: Seconds) -> None:
    times = ", ".join(f"{name} {values[-1]:.2f} s" for name, values in seconds.items())
    print(f"{label}, repeat {repeat + 1}: {times}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks against_peers", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", default="", help="first, second or four, comma-separated; nothing is written")
    parser.add_argument("--quick", action="store_true", help="tiny networks, a smoke test; nothing is written")
    parser.add_argument("--out", type=Path, help="write the result here")
    parser.add_argument("--work", type=Path, help="folder of images and caches, instead of a temporary one")
    return parser

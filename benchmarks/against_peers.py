"""How long do a first, a second and four jobs on one teacher take, against packages that ask the teacher every time?

Everything is measured side by side, ours and theirs in turn, on the same networks, pictures, batches and losses.
A first job fills the teacher's cache, a second one finds it. Their times are of training alone; ours of the first job
and of the four students are of the job's training stage, with checkpoints, metrics and looks at the test split in it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.figures import Figure, keep, ratio
from benchmarks.lessons import Classroom, Sizes, settled
from benchmarks.peers import peers, train

GOALS_OF_SECOND = {"deit_tiny": "≥ 2.8", "deit_small": "≥ 7", "dla34": "≥ 1.2", "equal": None}
SIZE_WORDS = {
    "deit_tiny": "a deit_tiny-sized teacher",
    "deit_small": "a deit_small-sized teacher",
    "dla34": "a dla34 teacher",
    "equal": "a teacher as big as the student",
}
TEMPERATURES = (1.0, 2.0, 4.0, 8.0)  # what the four students differ in

Seconds = dict[str, list[float]]


def main(arguments: Sequence[str]) -> int:
    """Measure, print and write."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    questions: dict[str, Callable[[Path, argparse.Namespace], list[Figure]]] = {
        "first": first_job,
        "second": second_job,
        "four": four_students,
    }
    figures = []
    with tempfile.TemporaryDirectory(prefix="potstill-benchmark-") as folder:
        for name in options.only.split(",") if options.only else questions:
            figures += questions[name](options.work or Path(folder), options)
    if options.only and not options.out:
        print(*figures, sep="\n")
        return 0
    if not options.quick or options.out:
        keep("against_peers", (__doc__ or "").strip(), figures, path=options.out, threads=options.threads)
    return 0


def first_job(work: Path, options: argparse.Namespace) -> list[Figure]:
    """The job that fills the cache, whole, against the same training by each peer."""
    figures = []
    for teacher, sizes in {
        "deit_tiny": _sizes(options, pictures=192, epochs=20),
        "equal": _sizes(options, pictures=192, epochs=20),
    }.items():
        room = Classroom(work, sizes, threads=options.threads)
        spec = room.spec(teacher)
        taken: Seconds = {"ours": [], "whole": [], **{name: [] for name in peers()}}
        early: Seconds = {name: [] for name in ("ours", "timm.task")}  # when 8 epochs are done
        for repeat in range(options.repeats):
            room.forget_answers()
            ran = room.run(spec)
            taken["ours"].append(ran.training)
            taken["whole"].append(ran.whole)
            early["ours"].append(sum(ran.epochs[:8]))
            for peer in peers():
                epochs = train(room, spec, peer)
                taken[peer].append(sum(epochs))
                if peer in early:
                    early[peer].append(sum(epochs[:8]))
            _tell(f"first job, {teacher}", repeat, taken)
        figures += _first_figures(room, teacher, taken, early)
    return figures


def _first_figures(room: Classroom, teacher: str, taken: Seconds, early: Seconds) -> list[Figure]:
    detail = f"{room.sizes.words()}, 4 views, {room.source}"
    beside = statistics.median(whole - ours for whole, ours in zip(taken["whole"], taken["ours"], strict=True))
    soon = ratio("", early["timm.task"], early["ours"]).value
    goal = "≥ 2" if teacher == "deit_tiny" else None
    question = f"first job against {{}}, {SIZE_WORDS[teacher]}"
    figures = [ratio(question.format(peer), taken[peer], taken["ours"], goal=goal, detail=detail) for peer in peers()]
    figures[0] = ratio(
        question.format("timm.task"),
        taken["timm.task"],
        taken["ours"],
        goal=goal,
        detail=f"{detail}; after 8 epochs {soon:.2f}×. More epochs on the same views: more",
    )
    figures.append(
        ratio(
            f"{question.format('timm.task')}, with evaluation and export",
            taken["timm.task"],
            taken["whole"],
            detail=f"{detail}; of ours {beside:.1f} s, however many pictures there are, are for probing, measuring "
            "accuracy and latency, and export; theirs is training alone",
        )
    )
    return figures


def second_job(work: Path, options: argparse.Namespace) -> list[Figure]:
    """An epoch of a job that finds what its teacher said, against an epoch of timm.task."""
    figures = []
    for teacher, goal in GOALS_OF_SECOND.items():
        sizes = _sizes(options, pictures=256, epochs=5)
        room = Classroom(work, sizes, threads=options.threads)
        spec = room.spec(teacher, temperature=3.0)
        short = room.spec(teacher, epochs=3, temperature=3.0)
        room.run(room.spec(teacher), only_training=True)  # the first job
        taken: Seconds = {"ours": [], "timm.task": []}
        for repeat in range(options.repeats):
            taken["ours"].append(settled(room.run(spec, only_training=True).epochs))
            taken["timm.task"].append(settled(train(room, short, "timm.task")))
            _tell(f"second job, {teacher}", repeat, taken)
        figures.append(
            ratio(
                f"second job against timm.task, {SIZE_WORDS[teacher]}",
                taken["timm.task"],
                taken["ours"],
                goal=goal,
                detail=f"an epoch of {sizes.pictures} pictures, batches of {sizes.batch_size}, {room.source}",
            )
        )
    return figures


def four_students(work: Path, options: argparse.Namespace) -> list[Figure]:
    """Four jobs on one teacher, the first of which fills the cache, against four runs of timm.task."""
    sizes = _sizes(options, pictures=192, epochs=8)
    room = Classroom(work, sizes, threads=options.threads)
    specs = [room.spec("deit_tiny", temperature=temperature) for temperature in TEMPERATURES]
    taken: Seconds = {"ours": [], "timm.task": []}
    for repeat in range(options.repeats):
        room.forget_answers()
        taken["ours"].append(sum(room.run(spec, only_training=True).training for spec in specs))
        taken["timm.task"].append(sum(sum(train(room, spec, "timm.task")) for spec in specs))
        _tell("four students", repeat, taken)
    return [
        ratio(
            f"four students of one teacher against four runs of timm.task, {SIZE_WORDS['deit_tiny']}",
            taken["timm.task"],
            taken["ours"],
            detail=f"{sizes.words()}, 4 views, {room.source}; they differ in temperature",
        )
    ]


def _sizes(options: argparse.Namespace, **usual: Any) -> Sizes:
    return Sizes(pictures=40, epochs=3, batch_size=20, tiny=True) if options.quick else Sizes(**usual)


def _tell(what: str, repeat: int, taken: Seconds) -> None:
    seconds = ", ".join(f"{name} {values[-1]:.2f} s" for name, values in taken.items())
    print(f"{what}, repeat {repeat + 1}: {seconds}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks against_peers", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", default="", help="first, second or four, with commas between; nothing is written")
    parser.add_argument("--quick", action="store_true", help="tiny networks, to see that it works; nothing is written")
    parser.add_argument("--out", type=Path, help="write the result here")
    parser.add_argument("--work", type=Path, help="keep pictures and caches here instead of a temporary folder")
    return parser

"""What is each method worth on photographs? CIFAR-10, a small ViT student, the same budget for everybody.

Every method gets the same pictures, epochs, views and its defaults. One seed for all; `scratch`, `kd` and
the five that were best on held-out training pictures get three. The test split is looked at once a student,
when it is finished, and nothing is chosen by it. A run that is done is a file and is not done again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine import Shelf, Watching, run
from benchmarks.photographs import (
    FINAL,
    IMAGE_SIZE,
    LESSONS,
    NUM_CLASSES,
    STUDENTS,
    Deal,
    NothingToMeasureOn,
    cnn_teacher,
    deal_pictures,
)
from benchmarks.quality_page import page
from benchmarks.results import DOCS, RESULTS, ROOT, machine, write_json
from core.data.pixels import Pixels, load_pixels
from core.data.stored import SplitName, StoredDataset
from core.errors import PotstillError
from core.evaluate import EmbeddingEvaluator, evaluate_accuracy
from core.models.weights import load_folder
from core.reporting import Interrupted
from core.spec import METHODS

FOLDER = RESULTS / "quality"
PAGE = DOCS / "quality.md"
WORK = ROOT / "demo" / "quality"
BASELINES, BEST = ("scratch", "kd"), 5
_VIT = "vit_tiny_patch16_224"
_STUDENT = {"embed_dim": 64, "depth": 6, "num_heads": 2}
_CNN_STUDENT = {
    "architecture": "resnet18",
    "arguments": {"layers": [1, 1, 1, 1], "channels": [24, 48, 96, 192]},
}
_TEACHER = {"embed_dim": 128, "depth": 6, "num_heads": 4}
_FIGURES = ("parameters", "flops", "size_bytes")
_ATTENTIVE = {"attention", "attentions", "patch tokens"}  # what a CNN teacher does not have


@dataclass(frozen=True, slots=True)
class Budget:
    """What every student gets. Runs of another budget are kept apart by their figures, not their names."""

    train: int = 2_000
    validation: int = 1_000
    pool: int = 3_000
    lessons: int = 6_000
    epochs: int = 12
    views: int = 4
    teacher_epochs: int = 12
    batch_size: int = 64
    learning_rate: float = 1e-3

    @property
    def deal(self) -> Deal:
        """In pictures of each of ten classes."""
        return Deal(self.train // 10, self.validation // 10, self.pool // 10, self.lessons // 10)


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the table: a method with its teachers and its student."""

    name: str
    method: str
    student: str = "vit"
    teachers: tuple[str, ...] = ("cnn",)


def entries() -> tuple[Entry, ...]:
    """Every method, and the baselines of each pair that is not the usual one."""
    found = tuple(_entry(name) for name in METHODS)
    more = (
        Entry("kd, ViT teacher", "kd", teachers=("vit",)),
        Entry("scratch, CNN student", "scratch", student="cnn", teachers=()),
        Entry("kd, CNN student, ViT teacher", "kd", student="cnn", teachers=("vit",)),
    )
    return (*found[:2], *more, *found[2:])


def baseline(entry: Entry) -> str:
    """The entry that distils the same student from the same teacher by plain soft labels."""
    match entry.student, entry.teachers:
        case "cnn", _:
            return "kd, CNN student, ViT teacher"
        case _, ("vit",):
            return "kd, ViT teacher"
    return "kd"


def main(arguments: Sequence[str]) -> int:
    """Do what is not done yet, and write the page."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    budget = Budget(**json.loads(options.budget)) if options.budget else Budget()
    bench = Bench(options.work, options.results, budget, threads=options.threads, minutes=options.budget_minutes)
    if not options.report:
        try:
            chosen = options.methods.split(",") if options.methods else None
            bench.run([int(seed) for seed in options.seeds.split(",")], chosen)
        except (Interrupted, KeyboardInterrupt):
            print("The time is over; the same command goes on from here.")
        except NothingToMeasureOn as error:
            print(error, file=sys.stderr)
            return 1
    done = bench.results()
    if done:
        text = page(done, entries=entries(), baseline=baseline, budget=asdict(budget))
        options.page.write_text(text, encoding="utf-8")
        print(text)
    return 0


class Bench:
    """The runs of one budget: which are there, and how the next is done."""

    def __init__(self, work: Path, folder: Path, budget: Budget, *, threads: int, minutes: float | None) -> None:
        self.work = work
        self.folder = folder
        self.budget = budget
        self.threads = threads
        self.deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self.shelf = Shelf(work, {})
        self.teachers: dict[str, dict[str, Any]] = {}

    def run(self, seeds: Sequence[int], chosen: Sequence[str] | None) -> None:
        """Every entry by the first seed, then some by the others. Raises ``Interrupted`` at the end of the time."""
        self.work.mkdir(parents=True, exist_ok=True)
        self._gather()
        for entry, seed in self._plan(seeds, chosen):
            if self._read(entry, seed) is None:
                self._do(entry, seed)

    def results(self) -> list[dict[str, Any]]:
        """All runs of this budget that are done."""
        found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(self.folder.glob("*.json"))]
        return [result for result in found if result["budget"] == asdict(self.budget)]

    def _plan(self, seeds: Sequence[int], chosen: Sequence[str] | None) -> Iterator[tuple[Entry, int]]:
        wanted = [entry for entry in entries() if chosen is None or entry.name in chosen or entry.method in chosen]
        yield from ((entry, seeds[0]) for entry in wanted)
        again = wanted if chosen is not None else [entry for entry in wanted if entry.name in self._best(seeds[0])]
        yield from ((entry, seed) for seed in seeds[1:] for entry in again)

    def _best(self, seed: int) -> set[str]:
        """The baselines and the best by the validation pictures, each with the baseline of its own teacher."""
        mine = {entry.name: entry for entry in entries() if entry.student == "vit"}
        ranked = sorted(
            (r for r in self.results() if r["seed"] == seed and r["entry"] in mine and r["status"] == "succeeded"),
            key=lambda result: -result["validation_top1"],
        )
        best = [r["entry"] for r in ranked if mine[r["entry"]].method not in BASELINES][:BEST]
        return {*BASELINES, *best, *(baseline(mine[name]) for name in best)}

    def _gather(self) -> None:
        """Pictures and teachers. The ViT teacher is distilled from the CNN, once, from more pictures."""
        datasets = deal_pictures(self.work, self.budget.deal)
        cnn, models = cnn_teacher(self.work)
        self.shelf = Shelf(self.work, datasets, models)
        folder = self.work / f"vit-teacher-{self.budget.lessons}-{self.budget.teacher_epochs}"
        if not (folder / "config.json").is_file():
            document = {
                "dataset": LESSONS,
                "teachers": [cnn],
                "student": _vit(_TEACHER),
                "method": {"name": "kd"},
                "training": self._training(0) | {"epochs": self.budget.teacher_epochs},
                "export": ["safetensors"],
            }
            _, exported, _ = self._train(document, folder.name, self.shelf)
            shutil.copytree(exported, folder)
        self.teachers = {"cnn": cnn, "vit": _vit(_TEACHER) | {"weights": "mdl_vit"}}
        self.shelf = replace(self.shelf, models={**models, "mdl_vit": folder})

    def _do(self, entry: Entry, seed: int) -> None:
        label = f"{_slug(entry.name)}-{seed}"
        print(f"{label} …", end=" ", flush=True)
        result: dict[str, Any] = {"entry": entry.name, **asdict(entry), "seed": seed, "budget": asdict(self.budget)}
        result["cnn"] = self.teachers["cnn"]["architecture"]
        began = time.monotonic()
        try:
            figures, exported, reporter = self._train(self._document(entry, seed), label, self._shelf_of(entry, seed))
            result |= {"validation_top1": figures["top1"], **{name: figures[name] for name in _FIGURES}}
            result |= {"test_top1": self._tested(exported), "status": "succeeded", "terms": reporter.terms}
        except PotstillError as error:
            result |= {"status": error.code, "problem": error.detail[:500]}
        result |= {"seconds": round(time.monotonic() - began, 1), "machine": machine()}
        write_json(self.folder / f"{label}.json", result)
        if entry == _entry("scratch") and result["status"] == "succeeded":
            self._keep(exported, seed)
        shutil.rmtree(self.work / "runs" / label, ignore_errors=True)
        print(result["status"], f"{result.get('validation_top1', 0):.1%}", f"{result['seconds']} s", flush=True)

    def _train(self, document: Mapping[str, Any], label: str, shelf: Shelf) -> tuple[dict[str, Any], Path, Watching]:
        """Run a job, or go on with it: the student's figures, its files. Raises ``Interrupted`` when time is over."""
        root = self.work / "runs" / label
        spec = shelf.resolve(document, threads=self.threads)
        said = root / "spec.json"
        if said.is_file() and said.read_text(encoding="utf-8") != spec.model_dump_json():
            shutil.rmtree(root)  # an unfinished run of another budget
        root.mkdir(parents=True, exist_ok=True)
        said.write_text(spec.model_dump_json(), encoding="utf-8")
        reporter = Watching(root, teachers=self.work / "teachers", deadline=self.deadline)
        done = run(shelf, spec, root, reporter)
        return done.result["student"], root / "export", reporter

    def _tested(self, exported: Path) -> float:
        """The finished student's top-1 on the pictures that nothing else looks at; by its neighbours without a head."""
        built = load_folder(exported)
        built.module.eval()
        test = self._pixels(FINAL, "test")
        if built.num_classes:
            return evaluate_accuracy(built, test).top1
        train = self._pixels(STUDENTS, "train")
        judge = EmbeddingEvaluator(train, test, NUM_CLASSES, device=torch.device("cpu"), poll=lambda: None)
        judged = judge(built).accuracy
        assert judged is not None, "these pictures have labels"
        return judged.top1

    def _pixels(self, dataset: str, split: SplitName) -> Pixels:
        with StoredDataset.open(self.shelf.datasets[dataset]) as stored:
            return load_pixels(stored, split, IMAGE_SIZE, self.work / "cache", threads=self.threads)

    def _keep(self, exported: Path, seed: int) -> None:
        """Keep the plain student's weights, for methods that start from them."""
        target = self._scratch(seed)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(exported, target)

    def _document(self, entry: Entry, seed: int) -> dict[str, Any]:
        params = METHODS[entry.method].params
        method = {"name": entry.method, **params.about.example}
        method |= dict.fromkeys(params.model_validate(method).datasets(), "ds_pool")
        student = dict(_CNN_STUDENT) if entry.student == "cnn" else _vit(_STUDENT)
        if "weights" in params.about.needs.student:
            student["weights"] = "job_scratch"
        return {
            "dataset": STUDENTS,
            "teachers": [self.teachers[name] for name in entry.teachers],
            "student": student,
            "method": method,
            "training": self._training(seed),
            "export": ["safetensors"],
        }

    def _shelf_of(self, entry: Entry, seed: int) -> Shelf:
        if "weights" not in METHODS[entry.method].params.about.needs.student:
            return self.shelf
        if not self._scratch(seed).is_dir():
            self._do(_entry("scratch"), seed)
        return replace(self.shelf, models={**self.shelf.models, "job_scratch": self._scratch(seed)})

    def _scratch(self, seed: int) -> Path:
        return self.work / "students" / f"scratch-{self.budget.train}-{self.budget.epochs}-{seed}"

    def _training(self, seed: int) -> dict[str, Any]:
        budget = self.budget
        return {
            "epochs": budget.epochs,
            "views": budget.views,
            "batch_size": budget.batch_size,
            "learning_rate": budget.learning_rate,
            "image_size": IMAGE_SIZE,
            "augmentation": "light",
            "seed": seed,
        }

    def _read(self, entry: Entry, seed: int) -> dict[str, Any] | None:
        path = self.folder / f"{_slug(entry.name)}-{seed}.json"
        if not path.is_file():
            return None
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return result if result["budget"] == asdict(self.budget) else None


def _entry(name: str) -> Entry:
    """A method with the CNN as teacher, unless it needs another; several teachers are of both families."""
    needs = METHODS[name].params.about.needs
    student = "cnn" if needs.student_families == ("cnn",) else "vit"
    if needs.max_teachers == 0 or not needs.teacher:
        return Entry(name, name, student, ())
    first = "vit" if needs.teacher_families == ("transformer",) or _ATTENTIVE & set(needs.teacher) else "cnn"
    second = "cnn" if first == "vit" else "vit"
    return Entry(name, name, student, (first, second, first, second)[: max(1, needs.min_teachers)])


def _vit(sizes: Mapping[str, int]) -> dict[str, Any]:
    return {"architecture": _VIT, "arguments": {"patch_size": 4, **sizes}}


def _slug(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-").lower()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks quality", description=__doc__)
    parser.add_argument("--methods", default="", help="names with commas between; each by all of --seeds")
    parser.add_argument("--seeds", default="0,1,2", help="the first for all, the others for the best")
    parser.add_argument("--budget-minutes", type=float, default=None, help="leave after so long, to go on later")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--budget", default="", help='another budget as JSON, e.g. {"epochs": 2}')
    parser.add_argument("--work", type=Path, default=WORK, help="where pictures, teachers and unfinished runs are")
    parser.add_argument("--results", type=Path, default=FOLDER)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--report", action="store_true", help="only write the page anew")
    return parser

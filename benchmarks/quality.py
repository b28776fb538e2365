"""Accuracy of every method on CIFAR-10: a small ViT student, the same budget for each method.

Every method gets the same images, epochs and views, and its default parameters. All methods run with one seed;
`scratch`, `kd` and the five best on held-out training images run with three. The test split is evaluated once per
finished student, and no choice depends on it. A finished run is a result file and is not repeated.
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

from benchmarks.cifar10 import (
    FINAL,
    IMAGE_SIZE,
    NUM_CLASSES,
    STUDENTS,
    TEACHER_SET,
    ArchiveMissing,
    SplitSizes,
    cnn_teacher,
    split_images,
)
from benchmarks.engine import BenchmarkReporter, JobInputs, run
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
_VIT_ONLY = {"attention", "attentions", "patch tokens"}  # a CNN teacher has none of these


@dataclass(frozen=True, slots=True)
class Budget:
    """The training budget of every student. Each result file records its budget."""

    train: int = 2_000
    validation: int = 1_000
    pool: int = 3_000
    teacher_extra: int = 6_000
    epochs: int = 12
    views: int = 4
    teacher_epochs: int = 12
    batch_size: int = 64
    learning_rate: float = 1e-3

    @property
    def split_sizes(self) -> SplitSizes:
        """Return the images per class, of ten classes."""
        return SplitSizes(self.train // 10, self.validation // 10, self.pool // 10, self.teacher_extra // 10)


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the table: a method with its teachers and its student."""

    name: str
    method: str
    student: str = "vit"
    teachers: tuple[str, ...] = ("cnn",)


def entries() -> tuple[Entry, ...]:
    """Return every method, and the baselines of unusual pairs."""
    found = tuple(_entry(name) for name in METHODS)
    more = (
        Entry("kd, ViT teacher", "kd", teachers=("vit",)),
        Entry("scratch, CNN student", "scratch", student="cnn", teachers=()),
        Entry("kd, CNN student, ViT teacher", "kd", student="cnn", teachers=("vit",)),
    )
    return (*found[:2], *more, *found[2:])


def baseline(entry: Entry) -> str:
    """Return the name of the `kd` entry with the same student and teacher."""
    match entry.student, entry.teachers:
        case "cnn", _:
            return "kd, CNN student, ViT teacher"
        case _, ("vit",):
            return "kd, ViT teacher"
    return "kd"


def main(arguments: Sequence[str]) -> int:
    """Run the missing runs and write the page."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    budget = Budget(**json.loads(options.budget)) if options.budget else Budget()
    bench = QualityBenchmark(
        options.work, options.results, budget, threads=options.threads, minutes=options.budget_minutes
    )
    if not options.report:
        try:
            chosen = options.methods.split(",") if options.methods else None
            bench.run([int(seed) for seed in options.seeds.split(",")], chosen)
        except (Interrupted, KeyboardInterrupt):
            print("Time budget used up; run the same command again to continue.")
        except ArchiveMissing as error:
            print(error, file=sys.stderr)
            return 1
    done = bench.results()
    if done:
        text = page(done, entries=entries(), baseline=baseline, budget=asdict(budget))
        options.page.write_text(text, encoding="utf-8")
        print(text)
    return 0


class QualityBenchmark:
    """The runs of one budget."""

    def __init__(self, work: Path, folder: Path, budget: Budget, *, threads: int, minutes: float | None) -> None:
        self.work = work
        self.folder = folder
        self.budget = budget
        self.threads = threads
        self.deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self.inputs = JobInputs(work, {})
        self.teachers: dict[str, dict[str, Any]] = {}

    def run(self, seeds: Sequence[int], chosen: Sequence[str] | None) -> None:
        """Run every entry with the first seed, then some with the others. Raises ``Interrupted`` at the deadline."""
        self.work.mkdir(parents=True, exist_ok=True)
        self._prepare()
        for entry, seed in self._plan(seeds, chosen):
            if self._read(entry, seed) is None:
                self._run_entry(entry, seed)

    def results(self) -> list[dict[str, Any]]:
        """Return all finished runs of this budget."""
        found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(self.folder.glob("*.json"))]
        return [result for result in found if result["budget"] == asdict(self.budget)]

    def _plan(self, seeds: Sequence[int], chosen: Sequence[str] | None) -> Iterator[tuple[Entry, int]]:
        requested = [entry for entry in entries() if chosen is None or entry.name in chosen or entry.method in chosen]
        yield from ((entry, seeds[0]) for entry in requested)
        repeated = (
            requested if chosen is not None else [entry for entry in requested if entry.name in self._best(seeds[0])]
        )
        yield from ((entry, seed) for seed in seeds[1:] for entry in repeated)

    def _best(self, seed: int) -> set[str]:
        """Return the baselines and the best entries on the validation images, with the baselines of their teachers."""
        by_name = {entry.name: entry for entry in entries() if entry.student == "vit"}
        ranked = sorted(
            (r for r in self.results() if r["seed"] == seed and r["entry"] in by_name and r["status"] == "succeeded"),
            key=lambda result: -result["validation_top1"],
        )
        best = [r["entry"] for r in ranked if by_name[r["entry"]].method not in BASELINES][:BEST]
        return {*BASELINES, *best, *(baseline(by_name[name]) for name in best)}

    def _prepare(self) -> None:
        """Create datasets and teachers. The ViT teacher is distilled from the CNN once, on more images."""
        datasets = split_images(self.work, self.budget.split_sizes)
        cnn, models = cnn_teacher(self.work)
        self.inputs = JobInputs(self.work, datasets, models)
        folder = self.work / f"vit-teacher-{self.budget.teacher_extra}-{self.budget.teacher_epochs}"
        if not (folder / "config.json").is_file():
            document = {
                "dataset": TEACHER_SET,
                "teachers": [cnn],
                "student": _vit(_TEACHER),
                "method": {"name": "kd"},
                "training": self._training(0) | {"epochs": self.budget.teacher_epochs},
                "export": ["safetensors"],
            }
            _, exported, _ = self._train(document, folder.name, self.inputs)
            shutil.copytree(exported, folder)
        self.teachers = {"cnn": cnn, "vit": _vit(_TEACHER) | {"weights": "mdl_vit"}}
        self.inputs = replace(self.inputs, models={**models, "mdl_vit": folder})

    def _run_entry(self, entry: Entry, seed: int) -> None:
        label = f"{_slug(entry.name)}-{seed}"
        print(f"{label} …", end=" ", flush=True)
        result: dict[str, Any] = {"entry": entry.name, **asdict(entry), "seed": seed, "budget": asdict(self.budget)}
        result["cnn"] = self.teachers["cnn"]["architecture"]
        began = time.monotonic()
        try:
            figures, exported, reporter = self._train(self._document(entry, seed), label, self._inputs_of(entry, seed))
            result |= {"validation_top1": figures["top1"], **{name: figures[name] for name in _FIGURES}}
            result |= {"test_top1": self._tested(exported), "status": "succeeded", "terms": reporter.terms}
        except PotstillError as error:
            result |= {"status": error.code, "problem": error.detail[:500]}
        result |= {"seconds": round(time.monotonic() - began, 1), "machine": machine()}
        write_json(self.folder / f"{label}.json", result)
        if entry == _entry("scratch") and result["status"] == "succeeded":
            self._save_scratch(exported, seed)
        shutil.rmtree(self.work / "runs" / label, ignore_errors=True)
        print(result["status"], f"{result.get('validation_top1', 0):.1%}", f"{result['seconds']} s", flush=True)

    def _train(
        self, document: Mapping[str, Any], label: str, inputs: JobInputs
    ) -> tuple[dict[str, Any], Path, BenchmarkReporter]:
        """Run or resume a job; return the student's figures and files. Raises ``Interrupted`` at the deadline."""
        root = self.work / "runs" / label
        spec = inputs.resolve(document, threads=self.threads)
        spec_path = root / "spec.json"
        if spec_path.is_file() and spec_path.read_text(encoding="utf-8") != spec.model_dump_json():
            shutil.rmtree(root)  # an unfinished run of another budget
        root.mkdir(parents=True, exist_ok=True)
        spec_path.write_text(spec.model_dump_json(), encoding="utf-8")
        reporter = BenchmarkReporter(root, teachers=self.work / "teachers", deadline=self.deadline)
        done = run(inputs, spec, root, reporter)
        return done.result["student"], root / "export", reporter

    def _tested(self, exported: Path) -> float:
        """Return the finished student's top-1 on the test split; by nearest neighbors where it has no head."""
        built = load_folder(exported)
        built.module.eval()
        test = self._pixels(FINAL, "test")
        if built.num_classes:
            return evaluate_accuracy(built, test).top1
        train = self._pixels(STUDENTS, "train")
        evaluator = EmbeddingEvaluator(train, test, NUM_CLASSES, device=torch.device("cpu"), poll=lambda: None)
        accuracy = evaluator(built).accuracy
        assert accuracy is not None, "these images have labels"
        return accuracy.top1

    def _pixels(self, dataset: str, split: SplitName) -> Pixels:
        with StoredDataset.open(self.inputs.datasets[dataset]) as stored:
            return load_pixels(stored, split, IMAGE_SIZE, self.work / "cache", threads=self.threads)

    def _save_scratch(self, exported: Path, seed: int) -> None:
        """Save the `scratch` student for methods that start from trained weights."""
        target = self._scratch(seed)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(exported, target)

    def _document(self, entry: Entry, seed: int) -> dict[str, Any]:
        params = METHODS[entry.method].params
        method = {"name": entry.method, **params.info.example}
        method |= dict.fromkeys(params.model_validate(method).datasets(), "ds_pool")
        student = dict(_CNN_STUDENT) if entry.student == "cnn" else _vit(_STUDENT)
        if "weights" in params.info.needs.student:
            student["weights"] = "job_scratch"
        return {
            "dataset": STUDENTS,
            "teachers": [self.teachers[name] for name in entry.teachers],
            "student": student,
            "method": method,
            "training": self._training(seed),
            "export": ["safetensors"],
        }

    def _inputs_of(self, entry: Entry, seed: int) -> JobInputs:
        if "weights" not in METHODS[entry.method].params.info.needs.student:
            return self.inputs
        if not self._scratch(seed).is_dir():
            self._run_entry(_entry("scratch"), seed)
        return replace(self.inputs, models={**self.inputs.models, "job_scratch": self._scratch(seed)})

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
    """Return the entry of a method: the CNN as teacher where possible; several teachers alternate between families."""
    needs = METHODS[name].params.info.needs
    student = "cnn" if needs.student_families == ("cnn",) else "vit"
    if needs.max_teachers == 0 or not needs.teacher:
        return Entry(name, name, student, ())
    first = "vit" if needs.teacher_families == ("transformer",) or _VIT_ONLY & set(needs.teacher) else "cnn"
    second = "cnn" if first == "vit" else "vit"
    return Entry(name, name, student, (first, second, first, second)[: max(1, needs.min_teachers)])


def _vit(sizes: Mapping[str, int]) -> dict[str, Any]:
    return {"architecture": _VIT, "arguments": {"patch_size": 4, **sizes}}


def _slug(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-").lower()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks quality", description=__doc__)
    parser.add_argument("--methods", default="", help="comma-separated names; each runs with all of --seeds")
    parser.add_argument("--seeds", default="0,1,2", help="the first for all entries, the others for the best")
    parser.add_argument(
        "--budget-minutes", type=float, default=None, help="stop after so many minutes; a later run resumes"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--budget", default="", help='another budget as JSON, e.g. {"epochs": 2}')
    parser.add_argument("--work", type=Path, default=WORK, help="folder of images, teachers and unfinished runs")
    parser.add_argument("--results", type=Path, default=FOLDER)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--report", action="store_true", help="only write the page again")
    return parser

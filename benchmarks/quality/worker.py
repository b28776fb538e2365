"""One run of the quality benchmark in a worker process: a job of the engine, and the accuracy of its student."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.cifar10 import FINAL, NUM_CLASSES, STUDENTS, SplitSizes, split_digest, split_images
from benchmarks.engine import BenchmarkReporter, JobInputs, loss_terms, run
from benchmarks.quality.plan import Run
from benchmarks.quality.results import CRASHED, Result
from benchmarks.results import machine
from core.data.pixels import Pixels, load_pixels
from core.data.stored import SplitName, StoredDataset
from core.errors import InvalidSpec, PotstillError
from core.evaluate import EmbeddingEvaluator, evaluate_accuracy
from core.local_reporter import METRICS_FILE
from core.models.built import BuiltModel
from core.models.weights import CONFIG, WEIGHTS, load_folder
from core.reporting import Control, Interrupted
from core.system.disk import atomic_path
from core.system.parent_death import die_with_parent

THREADS = 1
_FIGURES = ("parameters", "flops", "size_bytes")
_CPU = torch.device("cpu")


class StoppableReporter(BenchmarkReporter):
    """Pauses the run, after a checkpoint, when a stop is requested."""

    def __init__(self, root: Path, *, teachers: Path, is_stopped: Callable[[], bool]) -> None:
        super().__init__(root, teachers=teachers)
        self._is_stopped = is_stopped

    def control(self) -> Control:
        """Return PAUSE after a stop request."""
        return Control.PAUSE if self._is_stopped() else super().control()


def weights_folder(work: Path, name: str) -> Path:
    """Return the folder of the weights of a run that other runs need."""
    return work / "models" / name


def run_folder(work: Path, name: str) -> Path:
    """Return the folder of a run's checkpoints and files."""
    return work / "runs" / name


def discard(work: Path, name: str) -> None:
    """Delete the folder of a run."""
    shutil.rmtree(run_folder(work, name), ignore_errors=True)


def has_weights(work: Path, name: str) -> bool:
    """Whether the weights of a run exist."""
    return (weights_folder(work, name) / CONFIG).is_file()


@dataclass(frozen=True, slots=True)
class Worker:
    """Executes runs in a work folder. ``is_stopped`` is asked before every training step."""

    work: Path
    sizes: SplitSizes
    archive: Path
    is_stopped: Callable[[], bool]

    def execute(self, task: Run) -> Result | None:
        """Train, or resume, and evaluate one run; return its result, or None if it was stopped.

        A stopped run continues from its checkpoint, also one that was killed after its last step. A run whose spec
        has changed since then starts again. A run that its own spec makes fail has a result. Other errors are returned
        with the status ``crashed``, for a later try.
        """
        root = self._root(task)
        began = time.monotonic()
        result: Result = {
            "name": task.name,
            "digest": task.digest,
            **task.details,
            "peer": task.peer,
            "spec": task.document,
        }
        try:
            result |= self._train(task, root)
            result["status"] = "succeeded"
        except Interrupted:
            _add_seconds(root, time.monotonic() - began)
            return None
        except PotstillError as error:
            is_final = isinstance(error, InvalidSpec) or getattr(error, "fault", None) == "spec"
            result |= {"status": error.code if is_final else CRASHED, "problem": error.detail[:500]}
        except Exception as error:  # noqa: BLE001 - a defect of one method must not end the runs of the others
            problem = "".join(traceback.format_exception(error))
            result |= {"status": CRASHED, "problem": problem[-2_000:]}
        result["seconds"] = round(_add_seconds(root, time.monotonic() - began), 1)
        result["machine"] = machine()
        return result

    def _root(self, task: Run) -> Path:
        root = run_folder(self.work, task.name)
        digest = root / "digest"
        if not digest.is_file() or digest.read_text(encoding="utf-8") != task.digest:
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir(parents=True)
            digest.write_text(task.digest, encoding="utf-8")
        return root

    def _train(self, task: Run, root: Path) -> Result:
        datasets = split_images(self.work, self.sizes, archive=self.archive)
        models = {reference: weights_folder(self.work, name) for reference, name in task.models.items()}
        inputs = JobInputs(self.work, datasets, models)
        spec = inputs.resolve(task.document, threads=THREADS)
        with StoppableReporter(root, teachers=self.work / "teachers", is_stopped=self.is_stopped) as reporter:
            if task.peer is None:
                figures = run(inputs, spec, root, reporter).result["student"]
            else:
                from benchmarks.quality.peers import train_peer  # imports the peer's package

                figures = train_peer(task.peer, spec, inputs.workspace(spec, root), reporter)
        exported = root / "export"
        if task.saves_weights:
            _copy(exported, weights_folder(self.work, task.name))
        return {
            "validation_top1": figures["top1"],
            **{name: figures[name] for name in _FIGURES if name in figures},
            **(self._tested(load_folder(exported), datasets, task) if task.is_tested else {}),
            "terms": _loss_terms(root / METRICS_FILE),
            "images": split_digest(datasets),
            "weights": {reference: _sha256(folder / WEIGHTS) for reference, folder in models.items()},
            **({"saved_weights": _sha256(exported / WEIGHTS)} if task.saves_weights else {}),
            "spec": spec.model_dump(mode="json"),
        }

    def _tested(self, built: BuiltModel, datasets: Mapping[str, Path], task: Run) -> Result:
        """Return the top-1 on the test split by the classifier, and by nearest neighbors, as far as there are both."""
        size = built.preprocessing.image_size
        test = self._pixels(datasets[FINAL], "test", size)
        found: Result = {}
        if built.num_classes:
            found["test_top1"] = evaluate_accuracy(built, test, poll=self._poll).top1
        if task.with_neighbors:
            train = self._pixels(datasets[STUDENTS], "train", size)
            evaluator = EmbeddingEvaluator(train, test, NUM_CLASSES, device=_CPU, poll=self._poll)
            accuracy = evaluator(built).accuracy
            assert accuracy is not None, "these images have labels"
            found["test_neighbors_top1"] = accuracy.top1
        return found

    def _pixels(self, folder: Path, split: SplitName, size: int) -> Pixels:
        with StoredDataset.open(folder) as stored:
            return load_pixels(stored, split, size, self.work / "cache", threads=THREADS)

    def _poll(self) -> None:
        if self.is_stopped():
            raise Interrupted(Control.PAUSE)


_worker: Worker | None = None  # of this process


def start_process(parent: int, work: Path, sizes: SplitSizes, archive: Path, stop: Any) -> None:
    """Prepare a worker process, which ends with its parent."""
    global _worker  # noqa: PLW0603 - an executor passes its initializer's results in no other way
    die_with_parent(parent)
    torch.set_num_threads(THREADS)
    _worker = Worker(work, sizes, archive, stop.is_set)


def execute(task: Run) -> Result | None:
    """Execute a run in this process, after :func:`start_process`."""
    assert _worker is not None, "start_process is the executor's initializer"
    return _worker.execute(task)


def _copy(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target, durable=False, unique=False) as temporary:
        shutil.copytree(source, temporary)


def _add_seconds(root: Path, seconds: float) -> float:
    """Add the time of an attempt to the file of a run; return the time of all attempts."""
    path = root / "seconds"
    total = seconds + (float(path.read_text(encoding="utf-8")) if path.is_file() else 0.0)
    path.write_text(str(total), encoding="utf-8")
    return total


def _loss_terms(metrics: Path) -> list[str]:
    """Return the names of the loss terms that the attempts of a run logged."""
    lines = metrics.read_text(encoding="utf-8").splitlines()
    return loss_terms({name for line in lines for name in json.loads(line)})


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

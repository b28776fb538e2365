"""``python -m core run``: a job without a service. Same spec, data and machine: the same student, bit for bit."""

from __future__ import annotations

import os

# Threads that wait must sleep, not spin: on a busy machine spinning makes a small model's steps many times
# slower. OpenMP reads this once, when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import json
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table

from core import pipeline
from core.data.stored import INDEX, StoredDataset
from core.errors import InvalidRequest, InvalidSpec, PotstillError
from core.ingest.dataset import Labels, ingest_archive, ingest_builtin, ingest_folder
from core.local_reporter import METRICS_FILE, ConsoleReporter
from core.models.safetensors_header import read_model_info
from core.reporting import Control, Interrupted, RunResult, Workspace
from core.resolve import resolver
from core.spec import JobSpec, parse_job_spec
from core.spec.facts import DatasetInfo

WORK = ".work"
_BUILTIN = "builtin:"
_MAX_DATASET = 200  # characters of the spec's field, which says here where the data came from
_EXIT_FAILED, _EXIT_INTERRUPTED = 1, 130

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """Distil vision transformers on this machine, without a service."""


@app.command()
def run(
    spec: Annotated[Path, typer.Argument(help="A job spec, JSON or YAML.", exists=True, dir_okay=False)],
    dataset: Annotated[str, typer.Option(help="A folder or archive of images, Parquet, or `builtin:digits`.")],
    out: Annotated[Path, typer.Option(help="Where the student's files go.", file_okay=False)],
    *,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was interrupted.")] = False,
    cache: Annotated[
        Path | None, typer.Option(help="Folder for trained teachers and decoded images, shared by runs.")
    ] = None,
    labels: Annotated[
        Labels, typer.Option(help="`none`: take the dataset as unlabelled, whatever its folders or columns say.")
    ] = "auto",
) -> None:
    """Run one job and leave the student in OUT.

    Ctrl-C saves a checkpoint; the same command with `--resume` goes on from it.
    """
    console = Console(stderr=True)
    try:
        job = _LocalJob.prepare(spec, dataset, out, cache=cache, resume=resume, labels=labels, console=console)
        result = job.run(console)
    except Interrupted:
        console.print("Interrupted; a checkpoint is saved. The same command with --resume goes on from it.")
        raise typer.Exit(_EXIT_INTERRUPTED) from None
    except PotstillError as error:
        console.print(f"{error.title}: {error.detail}", style="red", markup=False, highlight=False)
        raise typer.Exit(_EXIT_FAILED) from None
    console.print(_table(result))
    print(out.resolve())


@dataclass(frozen=True, slots=True)
class _LocalJob:
    """A resolved spec and the folders of its run."""

    spec: JobSpec
    out: Path
    workspace: Workspace

    @classmethod
    def prepare(
        cls,
        spec_file: Path,
        dataset: str,
        out: Path,
        *,
        cache: Path | None,
        resume: bool,
        labels: Labels,
        console: Console,
    ) -> _LocalJob:
        """Read the spec, take the dataset in, fill in every default. Raises ``PotstillError``."""
        document, models = _local_models(_read(spec_file))
        spec = parse_job_spec({**document, "dataset": dataset[-_MAX_DATASET:]})
        work = out / WORK
        if work.exists() and not resume:
            console.print(f"Starting over; the unfinished run in {work} is dropped (--resume would go on with it).")
            shutil.rmtree(work)
        work.mkdir(parents=True, exist_ok=True)
        stored = _take_in(dataset, work / "dataset", labels)
        # What the method reads beside is named in the spec as --dataset would be.
        others = {one: _take_in(one, work / field, "none") for field, one in spec.method.datasets().items()}
        resolution = resolver.resolve(
            spec,
            _facts(stored),
            {name: read_model_info(folder) for name, folder in models.items()},
            datasets={one: _facts(folder) for one, folder in others.items()},
            threads=_threads(),
        )
        for warning in resolution.estimate["warnings"]:
            console.print(f"Note: {warning}", style="yellow", markup=False, highlight=False)
        _same_as_before(work / "spec.json", resolution.spec)
        shared = work / "cache" if cache is None else cache
        workspace = Workspace(root=work / "run", cache=shared, dataset=stored, models=models, datasets=others)
        return cls(resolution.spec, out, workspace)

    def run(self, console: Console) -> RunResult:
        """Run it, and put the files in their place. Raises ``PotstillError`` or ``Interrupted``."""
        root = self.workspace.root
        root.mkdir(exist_ok=True)
        with (
            ConsoleReporter(root, teachers=self.workspace.cache / "teachers", console=console) as reporter,
            _interruptible(reporter),
        ):
            result = pipeline.run(self.spec, self.workspace, reporter)
        for name, path in result.artifacts.items():
            path.replace(self.out / name)
        (root / METRICS_FILE).replace(self.out / METRICS_FILE)
        kept = root / "weights"
        if kept.is_dir():
            shutil.rmtree(self.out / kept.name, ignore_errors=True)
            kept.rename(self.out / kept.name)
        shutil.rmtree(self.out / WORK)
        return result


def _read(path: Path) -> dict[str, Any]:
    """A spec file. YAML is read by the safe loader; JSON is YAML, but its own reader says better what is wrong."""
    text = path.read_text(encoding="utf-8")
    try:
        document = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise InvalidSpec(f"{path} cannot be read: {error}") from None
    if not isinstance(document, dict):
        raise InvalidSpec(f"{path} does not hold a job spec: an object with student, method, … is expected")
    return document


def _local_models(document: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Path]]:
    """Replace folders given as ``weights`` by references, as the spec knows no paths."""
    models: dict[str, Path] = {}

    def named(model: Any) -> Any:
        weights = model.get("weights") if isinstance(model, dict) else None
        if not isinstance(weights, str) or not Path(weights).is_dir():
            return model
        reference = f"mdl_local{len(models)}"
        models[reference] = Path(weights).resolve()
        return {**model, "weights": reference}

    replaced = dict(document)
    if "student" in document:
        replaced["student"] = named(document["student"])
    if isinstance(document.get("teachers"), list):
        replaced["teachers"] = [named(teacher) for teacher in document["teachers"]]
    return replaced, models


def _take_in(dataset: str, target: Path, labels: Labels) -> Path:
    """The stored dataset that ``--dataset`` names; made in ``target`` unless it is one, or an earlier run made it."""
    if (Path(dataset) / INDEX).is_file():
        return Path(dataset).resolve()
    if (target / INDEX).is_file():
        return target
    if dataset.startswith(_BUILTIN):
        ingest_builtin(dataset.removeprefix(_BUILTIN), target)
    elif Path(dataset).is_dir():
        ingest_folder(Path(dataset), target, labels=labels)
    elif Path(dataset).is_file():
        ingest_archive(Path(dataset), target, labels=labels)
    else:
        raise InvalidRequest(f"there is no dataset {dataset!r}: give a folder, an archive or builtin:digits")
    return target


def _facts(folder: Path) -> DatasetInfo:
    with StoredDataset.open(folder) as stored:
        return DatasetInfo(
            num_classes=stored.num_classes,
            classes=stored.classes,
            channels=stored.channels,
            image_size=stored.image_size,
            num_train=len(stored.split("train")),
            num_test=len(stored.split("test")),
        )


def _threads() -> int:
    """The same default as the service's ``job_threads``."""
    return os.cpu_count() or 1


def _same_as_before(path: Path, spec: JobSpec) -> None:
    """Refuse to go on with a run of another spec."""
    document = spec.model_dump_json(indent=2)
    if path.is_file() and path.read_text(encoding="utf-8") != document:
        raise InvalidRequest(f"{path.parent} holds an unfinished run of another spec; leave --resume out to start over")
    path.write_text(document, encoding="utf-8")


@contextmanager
def _interruptible(reporter: ConsoleReporter) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM asks for a checkpoint, the second ends at once."""
    signals = (signal.SIGINT, signal.SIGTERM)
    before: Mapping[signal.Signals, Any] = {number: signal.getsignal(number) for number in signals}

    def ask(_number: int, _frame: FrameType | None) -> None:
        reporter.control_override = Control.PAUSE
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in signals:
        signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _table(result: RunResult) -> Table:
    table = Table("", "top-1", "top-5", "parameters", "MB", "ms")
    rows = [("student", result.result["student"])]
    rows += [(f"teacher {index}", figures) for index, figures in enumerate(result.result["teachers"])]
    for name, figures in rows:
        table.add_row(
            name,
            *("—" if figures[key] is None else f"{100 * figures[key]:.2f}" for key in ("top1", "top5")),
            f"{figures['parameters']:,}",
            f"{figures['size_bytes'] / 1e6:.2f}",
            f"{figures['latency_ms']:.2f}",
        )
    return table


if __name__ == "__main__":
    app()

"""``python -m core run``: run a job without the service. Same spec, data and machine give a bit-identical student."""

from __future__ import annotations

import os

# Waiting threads must sleep: on a busy machine, spinning makes the steps of a small model many times slower. OpenMP
# reads the variable once, when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from core import pipeline
from core.data.stored import INDEX, read_dataset_info
from core.errors import FieldError, InvalidRequest, InvalidSpec, PotstillError
from core.ingest.dataset import IngestLimits, LayoutOptions, ingest_archive, ingest_builtin, ingest_folder
from core.ingest.decoder_pool import DecoderPool
from core.job_warnings import JobWarning
from core.local_reporter import METRICS_FILE, WEIGHTS_DIR, ConsoleReporter
from core.models.safetensors_header import read_model_info
from core.reporting import Control, Interrupted, RunResult, Workspace
from core.resolve import resolver
from core.spec import JobSpec, parse_job_spec
from core.spec.dataset_layout import ClassFrom, Labels
from core.spec.job import WEIGHT_KEYWORDS
from core.spec.parse import did_you_mean
from core.spec.spec_text import parse_document
from core.spec.teacher_names import teacher_name
from core.system.digest import file_digest
from core.torchrun_job import run_ranks, with_num_ranks
from core.train.rank_channel import RankChannel
from core.train.torchrun import TorchrunEnvironment

WORK_DIR = ".work"
_BUILTIN = "builtin:"
_MAX_DATASET_CHARS = 200  # of the spec's field, which holds the value of --dataset here
_MAX_INGEST_PROCESSES = 16  # beyond it, the process that reads the archive is the limit
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
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted run.")] = False,
    cache: Annotated[
        Path | None, typer.Option(help="Folder for trained teachers and decoded images, shared by runs.")
    ] = None,
    labels: Annotated[
        Labels, typer.Option(help="`none`: treat the dataset as unlabeled, regardless of its folders or columns.")
    ] = "auto",
    splits: Annotated[
        str, typer.Option(help="`none`: no folder is a split. Else the folders: `train=seg_train,test=seg_test`.")
    ] = "auto",
    class_from: Annotated[
        ClassFrom, typer.Option(help="The folder that names the class: `first` below the split, or the `parent`.")
    ] = "auto",
    ingest_processes: Annotated[
        int | None,
        typer.Option(
            min=1, envvar="POTSTILL_INGEST_PROCESSES", help="Processes that decode the images. Default: one per core."
        ),
    ] = None,
) -> None:
    """Run one job and write the student to OUT.

    Ctrl-C saves a checkpoint; the same command with `--resume` continues from it. Under torchrun, all processes train
    the student together, and the command always continues an unfinished run.
    """
    console = Console(stderr=True)

    def run_job(channel: RankChannel | None) -> RunResult:
        layout = _layout_options(labels, splits, class_from)
        ingest = partial(_ingest, processes=ingest_processes or _default_ingest_processes(), console=console)
        job = _LocalJob.prepare(
            spec,
            dataset,
            out,
            cache=cache,
            resume=resume,
            layout=layout,
            ingest=ingest,
            console=console,
            channel=channel,
        )
        return job.run(console, channel)

    with _exit_status(console):
        options = {"--dataset": dataset, "--labels": labels, "--splits": splits, "--class-from": class_from}
        arguments = {"the SHA-256 of the spec": file_digest(spec), "--out": str(out.resolve()), **options}
        result = run_ranks(TorchrunEnvironment.read(os.environ), arguments, run_job)
    if result is not None:
        console.print(_result_table(result))
        print(out.resolve())


@contextmanager
def _exit_status(console: Console) -> Iterator[None]:
    """Print an interruption or an error, and exit with its status."""
    try:
        yield
    except Interrupted:
        console.print("Interrupted; a checkpoint is saved. Run the same command with --resume to continue.")
        raise typer.Exit(_EXIT_INTERRUPTED) from None
    except PotstillError as error:
        console.print(f"{error.title}: {error.detail}", style="red", markup=False, highlight=False)
        raise typer.Exit(_EXIT_FAILED) from None


@dataclass(frozen=True, slots=True)
class _LocalJob:
    """Resolved spec and folders of a run."""

    spec: JobSpec
    out: Path
    workspace: Workspace
    warnings: list[JobWarning]

    @classmethod
    def prepare(
        cls,
        spec_path: Path,
        dataset: str,
        out: Path,
        *,
        cache: Path | None,
        resume: bool,
        layout: LayoutOptions,
        ingest: Callable[[str, Path, LayoutOptions], Path],
        console: Console,
        channel: RankChannel | None,
    ) -> _LocalJob:
        """Read and resolve the spec, and ingest the datasets. Raises ``PotstillError``."""
        document, models = _local_models(_read_spec(spec_path))
        if channel is not None:
            document = with_num_ranks(document, channel.environment.place.world_size)
        spec = parse_job_spec({**document, "dataset": dataset[-_MAX_DATASET_CHARS:]})
        _require_local_weights(spec, models)
        work = out / WORK_DIR
        if work.exists() and not resume and channel is None:
            console.print(f"Starting over; the unfinished run in {work} is deleted (--resume would continue it).")
            shutil.rmtree(work)
        work.mkdir(parents=True, exist_ok=True)
        stored = ingest(dataset, work / "dataset", layout)
        # In a local spec, further datasets have the form of --dataset.
        unlabeled = LayoutOptions(labels="none")
        others = {
            dataset: ingest(dataset, work / f"pool{index}", unlabeled)
            for index, dataset in enumerate(dict.fromkeys(spec.further_datasets().values()))
        }
        resolution = resolver.resolve(
            spec,
            read_dataset_info(stored),
            {name: read_model_info(folder) for name, folder in models.items()},
            datasets={dataset: read_dataset_info(folder) for dataset, folder in others.items()},
            threads=_threads(),
        )
        _check_same_spec(work / "spec.json", resolution.spec)
        shared_cache = work / "cache" if cache is None else cache
        workspace = Workspace(root=work / "run", cache=shared_cache, dataset=stored, models=models, datasets=others)
        warnings = [JobWarning.model_validate(entry) for entry in resolution.estimate["warnings"]]
        return cls(resolution.spec, out, workspace, warnings)

    def run(self, console: Console, channel: RankChannel | None) -> RunResult:
        """Run the job and move its files to the output folder. Raises ``PotstillError`` or ``Interrupted``."""
        root = self.workspace.root
        root.mkdir(exist_ok=True)
        with (
            ConsoleReporter(
                root,
                teachers=self.workspace.cache / "teachers",
                console=console,
                is_pause_requested=(lambda: False) if channel is None else channel.is_pause_requested,
            ) as reporter,
            _pause_on_signal(reporter, can_repeat=channel is not None),
        ):
            for warning in self.warnings:
                reporter.warning(warning)
            result = pipeline.run(self.spec, self.workspace, reporter, channel=channel)
        for name, path in result.artifacts.items():
            path.replace(self.out / name)
        (root / METRICS_FILE).replace(self.out / METRICS_FILE)
        weights = root / WEIGHTS_DIR
        if weights.is_dir():
            shutil.rmtree(self.out / WEIGHTS_DIR, ignore_errors=True)
            weights.rename(self.out / WEIGHTS_DIR)
        shutil.rmtree(self.out / WORK_DIR)
        return result


def _read_spec(path: Path) -> dict[str, Any]:
    """Read a spec file, JSON or YAML."""
    try:
        document = parse_document(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidSpec(f"{path} cannot be read: {error}") from None
    if not isinstance(document, dict):
        raise InvalidSpec(f"{path} does not hold a job spec: an object with student, method, … is expected")
    return document


def _local_models(document: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Path]]:
    """Replace folders given as ``weights`` by references, because a spec contains no paths."""
    models: dict[str, Path] = {}

    def with_reference(model: Any) -> Any:
        if isinstance(model, dict) and isinstance(model.get("distillation"), dict):
            model = {**model, "distillation": with_references(model["distillation"])}
        weights = model.get("weights") if isinstance(model, dict) else None
        if not isinstance(weights, str) or not Path(weights).is_dir():
            return model
        reference = f"mdl_local{len(models)}"
        models[reference] = Path(weights).resolve()
        return {**model, "weights": reference}

    def with_references(owner: dict[str, Any]) -> dict[str, Any]:
        replaced = dict(owner)
        if "student" in owner:
            replaced["student"] = with_reference(owner["student"])
        if isinstance(owner.get("teachers"), list):
            replaced["teachers"] = [with_reference(teacher) for teacher in owner["teachers"]]
        return replaced

    return with_references(document), models


def _layout_options(labels: Labels, splits: str, class_from: ClassFrom) -> LayoutOptions:
    try:
        return LayoutOptions.model_validate({"labels": labels, "splits": splits, "class_from": class_from})
    except ValidationError as error:
        raise InvalidRequest(f"--splits: {error.errors()[0]['msg']}") from None


def _require_local_weights(spec: JobSpec, models: Mapping[str, Path]) -> None:
    """Raise ``InvalidSpec`` for weights that are neither a keyword nor a folder."""
    errors = [
        FieldError(
            f"{at}/weights", f"there is no folder {model.weights!r}.{did_you_mean(model.weights, WEIGHT_KEYWORDS)}"
        )
        for at, model in spec.models().items()
        if model.weights not in models and model.weights not in WEIGHT_KEYWORDS
    ]
    if errors:
        raise InvalidSpec.for_fields(errors)


def _ingest(dataset: str, target: Path, layout: LayoutOptions, *, processes: int, console: Console) -> Path:
    """Return the folder of the stored dataset; ingest it to ``target`` unless it is stored already."""
    if (Path(dataset) / INDEX).is_file():
        return Path(dataset).resolve()
    if (target / INDEX).is_file():
        return target
    if dataset.startswith(_BUILTIN):
        report = ingest_builtin(dataset.removeprefix(_BUILTIN), target)
    elif Path(dataset).exists():
        ingest, limits = ingest_folder if Path(dataset).is_dir() else ingest_archive, IngestLimits()
        with DecoderPool(processes, max_pixels=limits.max_image_pixels) as decoders:
            report = ingest(Path(dataset), target, limits, options=layout, decoders=decoders)
    else:
        raise InvalidRequest(f"there is no dataset {dataset!r}: give a folder, an archive or builtin:digits")
    for warning in report.warnings:
        console.print(f"Warning: {warning.text}", style="yellow", markup=False, highlight=False)
    return target


def _default_ingest_processes() -> int:
    """Default number of decoder processes, equal to that of the service's ``ingest_processes``."""
    return min(os.cpu_count() or 1, _MAX_INGEST_PROCESSES)


def _threads() -> int:
    """Default number of threads, equal to that of the service's ``job_threads``."""
    return os.cpu_count() or 1


def _check_same_spec(path: Path, spec: JobSpec) -> None:
    """Write the spec to ``path``. Raises ``InvalidRequest`` if it holds another one."""
    document = spec.model_dump_json(indent=2)
    if path.is_file() and path.read_text(encoding="utf-8") != document:
        raise InvalidRequest(
            f"{path.parent} holds an unfinished run of another spec; delete it, or omit --resume, to start over"
        )
    path.write_text(document, encoding="utf-8")


@contextmanager
def _pause_on_signal(reporter: ConsoleReporter, *, can_repeat: bool) -> Iterator[None]:
    """Pause with a checkpoint on the first Ctrl-C or SIGTERM.

    On the second one, end at once; with ``can_repeat``, ignore it: torchrun and a scheduler send one each.
    """
    signals = (signal.SIGINT, signal.SIGTERM)
    previous: Mapping[signal.Signals, Any] = {number: signal.getsignal(number) for number in signals}

    def request_pause(_number: int, _frame: FrameType | None) -> None:
        reporter.control_override = Control.PAUSE
        if not can_repeat:
            for number, handler in previous.items():
                signal.signal(number, handler)

    for number in signals:
        signal.signal(number, request_pause)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _result_table(result: RunResult) -> Table:
    table = Table("", "top-1", "top-5", "parameters", "MB", "ms")
    rows = [("student", result.result["student"])]
    teachers = result.result["teachers"]
    rows += [(teacher_name(index, len(teachers)), figures) for index, figures in enumerate(teachers)]
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

"""``make demo``: distill a small ViT from a CNN over HTTP, with 300 labeled digits and 3,600 without labels.

Starts the embedded stack as a separate process and uses it through the SDK.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from core.spec.examples import SLIM_RESNET
from potstill import Job, Potstill, PotstillError
from potstill.documents import Baseline, Event, Measured, Result
from potstill.errors import NotReady
from potstill.formats import (
    escape_text,
    format_bytes,
    format_duration,
    format_gain,
    format_milliseconds,
    format_percent,
    format_quantity,
)

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

FOLDER = Path("demo")
HOST = "127.0.0.1"
READY_SECONDS = 120
STOP_SECONDS = 45
EXIT_VARIABLE = "DEMO_EXIT"

# The job of examples/job.json.
JOB: dict[str, Any] = {
    "teachers": [
        {
            **SLIM_RESNET,
            "training": {"epochs": 40, "batch_size": 64, "learning_rate": 3e-3, "augmentation": "none"},
        }
    ],
    "student": {
        "architecture": "vit_tiny_patch16_224",
        "arguments": {"patch_size": 7, "embed_dim": 64, "depth": 4, "num_heads": 4},
    },
    "method": {"name": "dist"},
    # A mirrored digit is not the same class.
    "training": {"epochs": 17, "batch_size": 64, "augmentation": "none", "image_size": 28},
    "baseline": True,
}


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    folder: Annotated[Path, typer.Option(file_okay=False, help="Folder for the stack's state and the students.")] = (
        FOLDER
    ),
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of the service. Default: 8000 if it is free, else any.")
    ] = None,
    *,
    exit_: Annotated[
        bool, typer.Option("--exit", envvar=EXIT_VARIABLE, help="Stop the stack after the results.")
    ] = False,
) -> None:
    """Distill a small ViT from a CNN through the HTTP API, and compare it with the same ViT trained by labels alone.

    300 digits have labels, and 3,600 more have none.

    Takes a few minutes on two CPU cores. Afterwards the stack keeps running; Ctrl-C stops it and all of its processes.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    started_at = time.monotonic()
    try:
        with stack(folder / "home", port=port) as (url, key):
            with Potstill(url, key) as client:
                job = run_job(client, folder / "distilled")
                show_result(_result(job), folder / "distilled", time.monotonic() - started_at)
            show_addresses(url, folder)
            if not exit_:
                out.print("[dim]The stack keeps running. Press Ctrl-C to stop it.[/]")
                signal.pause()
    except KeyboardInterrupt:
        sys.exit(130 if time.monotonic() - started_at < 1 else 0)
    except PotstillError as error:
        err.print(f"[bold red]The demo failed.[/] {escape_text(str(error))}")
        sys.exit(1)


@contextmanager
def stack(home: Path, *, port: int | None = None) -> Iterator[tuple[str, str]]:
    """Run the embedded stack on ``port``, or on a free one; yield its URL and key, and stop it at the end.

    Raises :class:`NotReady` with the end of its log if it does not start.
    """
    home.mkdir(parents=True, exist_ok=True)
    port = _free_port() if port is None else port
    url = f"http://{HOST}:{port}"
    log_path = home.with_name("stack.log")
    command = [_server(), "up", "--home", str(home), "--host", HOST, "--port", str(port)]
    with log_path.open("wb") as log:
        # A new session: Ctrl-C must reach only this process, or the stack stops while requests are running.
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)  # noqa: S603
    try:
        with out.status("starting the stack: API, worker, inspector, scheduler, Valkey"):
            _wait_until_ready(process, url, log_path)
        yield url, (home / "api-key").read_text(encoding="ascii").strip()
    finally:
        _stop(process)


def run_job(client: Potstill, folder: Path) -> Job:
    """Add the datasets, submit the job, follow it, and download its student to ``folder``."""
    with out.status("adding the datasets mnist-300 and mnist-unlabeled"):
        labeled, unlabeled = (
            client.datasets.create({"type": "builtin", "name": name}).wait()
            for name in ("mnist-300", "mnist-unlabeled")
        )
    for dataset, kind in ((labeled, "with labels"), (unlabeled, "without labels")):
        counts = {name: split.num_samples for name, split in (dataset.splits or {}).items()}
        out.print(f"[green]✓[/] dataset {dataset.name}: {counts['train']:,} training images {kind}")
    started_at = time.monotonic()
    job = client.jobs.create({"name": "distilled", "dataset": labeled.id, "unlabeled_dataset": unlabeled.id, **JOB})
    on_event = _ignore if out.is_terminal else None
    job = client.jobs.wait(job.id, progress=True, check=True, console=out, on_event=on_event)
    shutil.rmtree(folder, ignore_errors=True)  # files of an earlier demo
    job.download(folder)
    out.print(f"[green]✓[/] finished in {format_duration(time.monotonic() - started_at)}")
    return job


def show_result(result: Result, folder: Path, seconds: float) -> None:
    """Print the metrics of teacher, student and baseline, and the path of the student."""
    assert result.baseline is not None, "the job asks for it"
    table = Table(title="Handwritten digits, 300 of them with labels", title_justify="left", title_style="bold")
    table.add_column("")
    for heading in ("top-1", "parameters", "FLOPs", "size", "latency"):
        table.add_column(heading, justify="right")
    table.add_row("teacher, resnet18", *_cells(result.teachers[0]))
    table.add_row("student, labels only", *_cells(result.baseline))
    table.add_row("[bold]student, distilled[/]", *_cells(result.student))
    out.print()
    out.print(table)
    gain = format_gain(result.baseline.gain, result.baseline.gain_interval)
    out.print(f"Distillation changes top-1 by [bold]{gain}[/].")
    out.print(f"Total time: {format_duration(seconds)}.")
    out.print(f"[green]✓[/] {folder}/", soft_wrap=True)
    load = f"timm.create_model('local-dir:{folder}', pretrained=True)"
    out.print(f"[dim]load it:[/] {load}", soft_wrap=True)


def show_addresses(url: str, folder: Path) -> None:
    """Print the addresses of dashboard and API."""
    lines = f"dashboard  [bold]{url}[/]\nkey        {folder / 'home' / 'api-key'}\nAPI        {url}/docs"
    out.print(Panel(lines, expand=False, border_style="dim"))


def _result(job: Job) -> Result:
    assert job.result is not None, "the job succeeded"
    return job.result


def _cells(measured: Measured | Baseline) -> tuple[str, ...]:
    return (
        format_percent(measured.top1),
        format_quantity(measured.parameters),
        format_quantity(measured.flops),
        format_bytes(measured.size_bytes),
        format_milliseconds(measured.latency_ms),
    )


def _server() -> str:
    program = Path(sys.executable).with_name("potstill-server")
    if not program.exists():
        raise NotReady(f"{program} is missing; run `make install` first")
    return str(program)


def _free_port() -> int:
    """Return port 8000 if it is free, else any free port."""
    for port in (8000, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise NotReady("this machine has no free port")


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log_path: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    with Potstill(url, "none", max_retries=0) as client:  # the route takes no key
        while time.monotonic() < deadline and process.poll() is None:
            try:
                client.service.ready()
            except PotstillError:  # the port is not open, or the service not ready yet
                time.sleep(0.1)
            else:
                return
    end = log_path.read_text(errors="replace")[-2000:]
    raise NotReady(f"the stack did not become ready; the end of {log_path}:\n{end}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop the stack gracefully; kill it after a timeout or a second Ctrl-C."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        with out.status("stopping the stack"):
            process.wait(STOP_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        process.wait()


def _ignore(_: Event) -> None:
    """Ignore an event; the progress bar is enough."""


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    app()

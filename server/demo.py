"""``make demo``: distill a small ViT from a CNN on MNIST over HTTP, and compare it with training from labels.

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

from potstill import Job, Potstill, PotstillError
from potstill.documents import Event, Measured, Result
from potstill.errors import NotReady
from potstill.formats import (
    escape_text,
    format_bytes,
    format_duration,
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

# A slim ResNet: trains in seconds and is more accurate on digits than the student.
TEACHER: dict[str, Any] = {
    "architecture": "resnet18",
    "weights": "train",
    "arguments": {"layers": [1, 1, 1, 1], "channels": [32, 64, 128, 256]},
    "training": {"epochs": 4, "batch_size": 64, "learning_rate": 3e-3, "augmentation": "none"},
}
STUDENT: dict[str, Any] = {
    "architecture": "vit_tiny_patch16_224",
    "arguments": {"patch_size": 7, "embed_dim": 64, "depth": 4, "num_heads": 4},
}
TRAINING: dict[str, Any] = {
    "epochs": 10,
    "batch_size": 64,
    "learning_rate": 2e-3,
    "augmentation": "none",  # a mirrored digit is not the same class
    "image_size": 28,
    "seed": 0,
}
RUNS: dict[str, dict[str, Any]] = {
    # Best method here (one seed, top-1 in %): dist 94.3, kd 93.1, deit with soft labels 91.7, labels only 91.5.
    "distilled": {
        "method": {"name": "dist"},
        "teachers": [TEACHER],
    },
    "from-labels": {"method": {"name": "scratch"}},
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
    """Distill a small ViT from a CNN on MNIST through the HTTP API, and compare it with training from labels.

    Takes a few minutes on two CPU cores. Afterwards the stack keeps running; Ctrl-C stops it and all of its processes.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    started_at = time.monotonic()
    try:
        with stack(folder / "home", port=port) as (url, key):
            with Potstill(url, key) as client:
                jobs = run_jobs(client, folder)
                show_results(jobs, folder, time.monotonic() - started_at)
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


def run_jobs(client: Potstill, folder: Path) -> dict[str, Job]:
    """Submit all runs, follow each one, and download the students to ``folder``."""
    with out.status("adding the dataset mnist-5k"):
        dataset = client.datasets.create({"type": "builtin", "name": "mnist-5k"}).wait()
    counts = {name: split.num_samples for name, split in (dataset.splits or {}).items()}
    out.print(f"[green]✓[/] dataset mnist-5k: {', '.join(f'{number:,} {name}' for name, number in counts.items())}")
    queued = {
        name: client.jobs.create(
            {"name": name, "dataset": dataset.id, "student": STUDENT, "training": TRAINING, **parts}
        )
        for name, parts in RUNS.items()
    }
    return {name: _finish(client, name, job.id, folder / name) for name, job in queued.items()}


def show_results(jobs: dict[str, Job], folder: Path, seconds: float) -> None:
    """Print the metrics of teacher and students, and the paths of the files."""
    results = {name: _result(job) for name, job in jobs.items()}
    teacher = results["distilled"].teachers[0]
    table = Table(
        title="MNIST, 5,000 images: distilling a CNN into a small ViT", title_justify="left", title_style="bold"
    )
    table.add_column("")
    for heading in ("top-1", "parameters", "FLOPs", "size", "latency"):
        table.add_column(heading, justify="right")
    table.add_row(f"teacher, {TEACHER['architecture']}", *_cells(teacher))
    table.add_row("student, labels only", *_cells(results["from-labels"].student))
    table.add_row("[bold]student, distilled[/]", *_cells(results["distilled"].student))
    out.print()
    out.print(table)
    gain = (results["distilled"].student.top1 or 0.0) - (results["from-labels"].student.top1 or 0.0)
    out.print(
        f"Distillation changes top-1 by [bold]{gain * 100:+.1f} points[/]. Total time: {format_duration(seconds)}."
    )
    for name in jobs:
        out.print(f"[green]✓[/] {folder / name}/", soft_wrap=True)
    load = f"timm.create_model('local-dir:{folder / 'distilled'}', pretrained=True)"
    out.print(f"[dim]load it:[/] {load}", soft_wrap=True)


def show_addresses(url: str, folder: Path) -> None:
    """Print the addresses of dashboard and API."""
    lines = f"dashboard  [bold]{url}[/]\nkey        {folder / 'home' / 'api-key'}\nAPI        {url}/docs"
    out.print(Panel(lines, expand=False, border_style="dim"))


def _finish(client: Potstill, name: str, job_id: str, folder: Path) -> Job:
    started_at = time.monotonic()
    on_event = _ignore if out.is_terminal else None
    job = client.jobs.wait(job_id, progress=True, check=True, console=out, on_event=on_event)
    shutil.rmtree(folder, ignore_errors=True)  # files of an earlier demo
    job.download(folder)
    top1, seconds = format_percent(_result(job).student.top1), time.monotonic() - started_at
    out.print(f"[green]✓[/] {name}: top-1 {top1} in {format_duration(seconds)}")
    return job


def _result(job: Job) -> Result:
    assert job.result is not None, "the job succeeded"
    return job.result


def _cells(measured: Measured) -> tuple[str, ...]:
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

"""``make demo``: distil a small ViT from a CNN on real digits, over HTTP, and compare it with plain training.

Starts the embedded stack as a process of its own and talks to it as any client does.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import httpx
from rich.panel import Panel
from rich.table import Table

from client.console import duration, err, out, short, shown, size
from client.documents import Event, Job, Measures
from client.errors import ClientError, NotReady
from client.sdk import Potstill
from client.watch import follow

FOLDER = Path("demo")
HOST = "127.0.0.1"
READY_SECONDS = 120
STOP_SECONDS = 45
EXIT_VARIABLE = "DEMO_EXIT"

# A slim ResNet: small enough to be trained while one waits, and far better on digits than the student.
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
    "augmentation": "none",  # a mirrored digit is another sign
    "image_size": 28,
    "seed": 0,
}
RUNS: dict[str, dict[str, Any]] = {
    # What serves it best here (one seed, top-1): dist 94.3, kd 93.1, deit with soft labels 91.7, labels alone 91.5.
    "distilled": {
        "method": {"name": "dist"},
        "teachers": [TEACHER],
    },
    "from-labels": {"method": {"name": "scratch"}},
}


def main() -> None:
    """Run the demo; Ctrl-C ends it at any time and leaves no process behind."""
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    began = time.monotonic()
    try:
        with stack(FOLDER / "home") as (url, key):
            with Potstill(url, key) as potstill:
                jobs = run_jobs(potstill)
                show_results(jobs, time.monotonic() - began)
            show_addresses(url)
            if os.environ.get(EXIT_VARIABLE) != "1":
                out.print("[dim]The stack stays up. Ctrl-C stops it.[/]")
                signal.pause()
    except KeyboardInterrupt:
        sys.exit(130 if time.monotonic() - began < 1 else 0)
    except ClientError as error:
        err.print(f"[bold red]The demo ended early.[/] {shown(str(error))}")
        sys.exit(1)


@contextmanager
def stack(home: Path) -> Iterator[tuple[str, str]]:
    """The embedded stack on a free port, as its address and key; stopped in order at the end.

    Raises :class:`NotReady` with the end of its log where it does not come up.
    """
    home.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    url = f"http://{HOST}:{port}"
    log_path = home.with_name("stack.log")
    command = [_server(), "up", "--home", str(home), "--host", HOST, "--port", str(port)]
    with log_path.open("wb") as log:
        # A session of its own: Ctrl-C must reach us alone, or the stack stops while we still talk to it.
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)  # noqa: S603
    try:
        with out.status("starting the stack: API, worker, inspector, scheduler, Valkey"):
            _wait_until_ready(process, url, log_path)
        yield url, (home / "api-key").read_text(encoding="ascii").strip()
    finally:
        _stop(process)


def run_jobs(potstill: Potstill) -> dict[str, Job]:
    """Queue every run, follow them one after the other, and fetch their students."""
    with out.status("adding the dataset mnist-5k"):
        dataset = potstill.datasets.wait(potstill.datasets.create({"type": "builtin", "name": "mnist-5k"})["id"])
    counts = {name: split["num_samples"] for name, split in (dataset["splits"] or {}).items()}
    out.print(f"[green]✓[/] dataset mnist-5k: {', '.join(f'{number:,} {name}' for name, number in counts.items())}")
    queued = {
        name: potstill.jobs.submit(
            {"name": name, "dataset": dataset["id"], "student": STUDENT, "training": TRAINING, **parts}
        )
        for name, parts in RUNS.items()
    }
    return {name: _finish(potstill, name, job["id"]) for name, job in queued.items()}


def show_results(jobs: dict[str, Job], seconds: float) -> None:
    """Both students beside the teacher, and where their files are."""
    results = {name: _result(job) for name, job in jobs.items()}
    teacher: Measures = results["distilled"]["teachers"][0]
    table = Table(title="MNIST, 5,000 images: what a CNN teaches a small ViT", title_justify="left", title_style="bold")
    table.add_column("")
    for heading in ("top-1", "parameters", "FLOPs", "size", "latency"):
        table.add_column(heading, justify="right")
    table.add_row(f"teacher, {TEACHER['architecture']}", *_cells(teacher))
    table.add_row("student, from labels alone", *_cells(results["from-labels"]["student"]))
    table.add_row("[bold]student, distilled[/]", *_cells(results["distilled"]["student"]))
    out.print()
    out.print(table)
    gain = results["distilled"]["student"]["top1"] - results["from-labels"]["student"]["top1"]
    out.print(f"The teacher is worth [bold]{gain * 100:+.1f} points[/] of top-1. All in {duration(seconds)}.")
    for name in jobs:
        out.print(f"[green]✓[/] {FOLDER / name}/", soft_wrap=True)
    load = f"timm.create_model('local-dir:{FOLDER / 'distilled'}', pretrained=True)"
    out.print(f"[dim]open it:[/] {load}", soft_wrap=True)


def show_addresses(url: str) -> None:
    """Where to look next."""
    lines = f"dashboard  [bold]{url}[/]\nkey        {FOLDER / 'home' / 'api-key'}\nAPI        {url}/docs"
    out.print(Panel(lines, expand=False, border_style="dim"))


def _finish(potstill: Potstill, name: str, job_id: str) -> Job:
    began = time.monotonic()
    job = follow(potstill, job_id, console=out, label=name, on_event=_ignore if out.is_terminal else None)
    if job["status"] != "succeeded":
        reason = job["error"]["message"] if job["error"] else job["status"]
        raise NotReady(f"the job {name} ({job_id}) did not succeed: {reason}")
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)  # files of an earlier demo
    potstill.jobs.download(job_id, folder)
    out.print(
        f"[green]✓[/] {name}: top-1 {_result(job)['student']['top1']:.1%} in {duration(time.monotonic() - began)}"
    )
    return job


def _result(job: Job) -> Any:
    return job.get("result") or {}


def _cells(measures: Measures) -> tuple[str, ...]:
    return (
        f"{measures['top1']:.1%}",
        short(measures["parameters"]),
        short(measures["flops"]),
        size(measures["size_bytes"]),
        f"{measures['latency_ms']:.2f} ms",
    )


def _server() -> str:
    beside = Path(sys.executable).with_name("potstill-server")
    if not beside.exists():
        raise NotReady(f"{beside} is missing; run `make install` first")
    return str(beside)


def _free_port() -> int:
    """8000 if it is free, for an address that one can remember."""
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
    with httpx.Client(timeout=5, trust_env=False) as http:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if http.get(f"{url}/readyz").is_success:
                    return
            except httpx.TransportError:
                pass  # the port is not open yet
            time.sleep(0.1)
    end = log_path.read_text(errors="replace")[-2000:]
    raise NotReady(f"the stack did not get ready; the end of {log_path}:\n{end}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the stack to end in order; a second Ctrl-C does not wait for it."""
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
    """The bar says it all."""


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()

"""Do the paths that need a GPU work on this one? Minutes; skipped, and no failure, where there is no CUDA.

``--rehearse`` runs all of it on the CPU, with gloo in NCCL's place: that finds mistakes of the check itself.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from safetensors.torch import load_file

from benchmarks.engine import Shelf, Watching, run, run_afresh
from benchmarks.results import RESULTS, machine, write_json
from core.ingest.dataset import ingest_builtin
from core.pipeline import build_student_setup
from core.reporting import Interrupted
from core.spec import METHODS
from core.spec.examples import example_job
from core.train.context import open_run
from core.train.trainer import TrainStep
from worker.device import cuda_name
from worker.process.forked import ForkedProcess

SKIPPED = "skipped: no CUDA device"
RESULT = RESULTS / "gpu_check.json"
IMAGE_SIZE = 16
RESUME_TOLERANCE = 1e-2  # of a weight: on CUDA the kernels may add in another order
_QUICK = {"epochs": 1, "learning_rate": 2e-3, "warmup_epochs": 0, "augmentation": "none"}
MOST_SECONDS = 540.0  # ten minutes with room for the start; what is left then is reported as not run

FAMILIES: dict[str, tuple[str, Mapping[str, Any]]] = {
    "plain": ("scratch", {}),
    "logits": ("kd", {}),
    "distillation token": ("deit", {}),
    "several tokens": ("co_advise", {}),
    "features": ("fitnets", {"logits": "dkd"}),
    "feature maps": ("target_aware", {}),
    "patch manifolds": ("manifold", {}),
    "attention relations and shared weights": ("minivit", {}),
    "memory of embeddings": ("crd", {}),
    "exits": ("ofa", {}),
    "masked teacher": ("masked_teacher", {}),
    "CNN student and discriminator": ("cross_architecture", {}),
    "unlabelled pool": ("attention_probe", {}),
    "inversion": ("dearkd", {"data_free": True, "num_images": 64, "iterations": 10}),
    "pruning": ("uvc", {}),
    "two students": ("mutual", {}),
    "own layers": ("self_distillation", {}),
    "without labels": ("feature", {}),
}
"""One method of each kind of machinery, with parameters that keep it short."""


class NotHereError(Exception):
    """What is to be checked is not on this machine."""


@dataclass(frozen=True, slots=True)
class Bench:
    """The device to be checked, and what the checks share."""

    shelf: Shelf
    accelerator: str

    @property
    def device(self) -> torch.device:
        """The device by its name."""
        return torch.device(self.accelerator)

    def document(self, name: str, **parameters: Any) -> dict[str, Any]:
        """The example job of a method, short, on this device."""
        document = example_job(name, dataset="ds_digits", pool="ds_digits", image_size=IMAGE_SIZE)
        document["method"] |= parameters
        document["training"] |= _QUICK
        document["export"] = ["safetensors"]
        document["resources"] = {"accelerator": self.accelerator, "threads": 2}
        for teacher in document.get("teachers", ()):
            teacher["training"] = {**_QUICK, "batch_size": 64}
        return document


def main(arguments: Sequence[str]) -> int:
    """Run the checks and print how each ended; 1 where one failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu_check", description=__doc__)
    parser.add_argument("--rehearse", action="store_true", help="run everything on the CPU")
    parser.add_argument("--only", default="", help="names of checks with commas between")
    options = parser.parse_args(arguments)
    if not options.rehearse and cuda_name() is None:
        print(SKIPPED)
        return 0
    with tempfile.TemporaryDirectory(prefix="potstill-gpu-check-") as folder:
        ingest_builtin("digits", Path(folder) / "digits")
        shelf = Shelf(Path(folder), {"ds_digits": Path(folder) / "digits"})
        bench = Bench(shelf, "cpu" if options.rehearse else "cuda")
        found = _checked(bench, options.only.split(",") if options.only else None)
    if not options.rehearse and not options.only:
        write_json(RESULT, {"machine": machine(), "checks": found})
    return 1 if any(check["status"] == "failed" for check in found) else 0


def fork_then_start(bench: Bench) -> str:
    """A process forked from one that has torch imported and touched no device opens it, as the worker's jobs do.

    This has to be the first check: CUDA cannot be used in a fork of a process that has used it.
    """

    def work() -> int:
        x = torch.ones(64, 64, device=bench.device)
        return 0 if float((x @ x).sum()) == 64.0**3 else 1

    if bench.accelerator == "cuda" and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        raise AssertionError("this process has opened CUDA already, so a fork of it proves nothing")
    process = ForkedProcess(work)
    try:
        status = process.wait(120.0)
    finally:
        process.kill()
    assert status == 0, f"the forked process ended with {status}"
    return "the forked process opened the device"


def bf16_step(bench: Bench) -> str:
    """A training in bf16 learns, and its weights stay float32."""
    document = bench.document("scratch")
    document["training"] |= {"precision": "bf16", "epochs": 6, "batch_size": 32, "learning_rate": 1e-3}
    result, _ = run_afresh(bench.shelf, document, "bf16", threads=2)
    state = load_file(result.artifacts["model.safetensors"])
    assert {tensor.dtype for tensor in state.values() if tensor.is_floating_point()} == {torch.float32}
    top1 = result.result["student"]["top1"]
    assert top1 > 0.2, f"top-1 is {top1:.1%}, hardly more than the 10 % of guessing"
    return f"top-1 {top1:.1%} after 6 epochs"


def all_reduce(bench: Bench) -> str:
    """A process group of one process sums over itself, by NCCL on a GPU."""
    backend = "nccl" if bench.accelerator == "cuda" else "gloo"
    meeting = f"file://{bench.shelf.work / 'rendezvous'}"
    torch.distributed.init_process_group(
        backend, init_method=meeting, rank=0, world_size=1, timeout=timedelta(seconds=60)
    )
    try:
        x = torch.arange(8.0, device=bench.device)
        torch.distributed.all_reduce(x)
        assert x.tolist() == list(range(8)), x
    finally:
        torch.distributed.destroy_process_group()
    return f"{backend} summed over one process"


def resume(bench: Bench) -> str:
    """A training that is interrupted and goes on ends where an uninterrupted one does."""
    document = bench.document("kd")
    document["training"] |= {"precision": "fp32", "epochs": 2}
    whole, _ = run_afresh(bench.shelf, document, "whole", threads=2)
    expected = load_file(whole.artifacts["model.safetensors"])
    spec = bench.shelf.resolve(document, threads=2)
    root, teachers = bench.shelf.work / "runs" / "broken", bench.shelf.work / "teachers"
    try:
        run(bench.shelf, spec, root, Watching(root, teachers=teachers, pause_after=10))
    except Interrupted:
        pass
    else:
        raise AssertionError("the run did not pause")
    found = load_file(run(bench.shelf, spec, root, Watching(root, teachers=teachers)).artifacts["model.safetensors"])
    difference = max(float((found[name].double() - expected[name].double()).abs().max()) for name in expected)
    limit = 0.0 if bench.accelerator == "cpu" else RESUME_TOLERANCE
    assert difference <= limit, f"weights differ by {difference:.2e}, more than {limit:.0e}"
    return f"largest difference of a weight {difference:.1e}"


def queued_ahead(bench: Bench) -> str:
    """Steps are queued without a wait of the host for the device, and what they measured is read in order."""
    spec = bench.shelf.resolve(bench.document("scratch"), threads=2)
    root, waiting_is = bench.shelf.work / "runs" / "ahead", torch.cuda.set_sync_debug_mode
    workspace = bench.shelf.workspace(spec, root)
    with Watching(root, teachers=root / "teachers") as reporter, open_run(spec, workspace, reporter) as context:
        stepper = TrainStep(build_student_setup(spec, workspace, context), lag=2)
        stepper.run(0)  # what is set up once may wait
        on_cuda = bench.accelerator == "cuda"
        if on_cuda:
            waiting_is("error")
        try:
            for step in range(1, 9):
                stepper.enqueue(step)
        finally:
            if on_cuda:
                waiting_is("default")
        read = [reading.step for reading in stepper.drain_all()]
    assert read == list(range(1, 9)), read
    return "eight steps were queued without a wait"


def several_devices(bench: Bench) -> str:
    """Two devices train the student that one trains, as far as sums in another order allow."""
    if bench.accelerator == "cuda" and torch.cuda.device_count() < 2:
        raise NotHereError("this machine has one device")
    document = bench.document("kd")
    document["training"] |= {"precision": "fp32", "epochs": 2}
    alone, _ = run_afresh(bench.shelf, document, "alone", threads=2)
    document["resources"]["devices"] = 2
    together, _ = run_afresh(bench.shelf, document, "together", threads=2)
    expected, found = (load_file(one.artifacts["model.safetensors"]) for one in (alone, together))
    difference = max(float((found[name].double() - expected[name].double()).abs().max()) for name in expected)
    assert difference <= RESUME_TOLERANCE, f"weights differ by {difference:.2e}, more than {RESUME_TOLERANCE:.0e}"
    return f"largest difference of a weight {difference:.1e}"


def onnx_parity(bench: Bench) -> str:
    """The student that was trained on the device answers as its ONNX file does; the export refuses anything else."""
    document = bench.document("scratch") | {"export": ["safetensors", "onnx"]}
    result, _ = run_afresh(bench.shelf, document, "onnx", threads=2)
    assert result.artifacts["model.onnx"].stat().st_size > 0
    report = result.artifacts["report.json"].read_text(encoding="utf-8")
    found = re.search(r'"largest_logit_difference": ([0-9.e-]+)', report)
    assert found is not None, "the report does not say how far ONNX is off"
    return f"largest difference of a logit {float(found.group(1)):.1e}"


def families(bench: Bench) -> dict[str, Callable[[], str]]:
    """A tiny job for each kind of method that this version has."""

    def job(name: str, parameters: Mapping[str, Any]) -> str:
        document, shelf = bench.document(name, **parameters), bench.shelf
        if "weights" in METHODS[name].params.about.needs.student:
            trained, _ = run_afresh(shelf, bench.document("scratch"), "trained", threads=2)
            shelf = Shelf(shelf.work, shelf.datasets, {"job_trained": trained.artifacts["model.safetensors"].parent})
        result, reporter = run_afresh(shelf, document, name, threads=2)
        return f"{name}: top-1 {result.result['student']['top1']:.1%}, {', '.join(reporter.terms)}"

    return {
        kind: lambda name=name, parameters=parameters: job(name, parameters)  # type: ignore[misc]
        for kind, (name, parameters) in FAMILIES.items()
        if name in METHODS
    }


def _checked(bench: Bench, only: Sequence[str] | None) -> list[dict[str, Any]]:
    checks: dict[str, Callable[[], str]] = {
        "fork then start": lambda: fork_then_start(bench),
        "bf16 step": lambda: bf16_step(bench),
        "all-reduce": lambda: all_reduce(bench),
        "resume": lambda: resume(bench),
        "queued ahead": lambda: queued_ahead(bench),
        "several devices": lambda: several_devices(bench),
        "ONNX parity": lambda: onnx_parity(bench),
        **families(bench),
    }
    began, found = time.monotonic(), []
    for name, check in checks.items():
        if only is None or name in only:
            found.append(_one(name, check, late=time.monotonic() - began > MOST_SECONDS))
            print(
                f"{found[-1]['status']:<8} {name:<36} {found[-1]['seconds']:>6.1f} s  {found[-1]['said']}", flush=True
            )
    return found


def _one(name: str, check: Callable[[], str], *, late: bool) -> dict[str, Any]:
    began = time.monotonic()
    try:
        status, said = ("not run", "the time is over") if late else ("passed", check())
    except NotHereError as reason:
        status, said = "not run", str(reason)
    except Exception as error:  # noqa: BLE001 - every check is tried, and each failure is told
        status, said = "failed", f"{type(error).__name__}: {error}"
        traceback.print_exc()
    return {"name": name, "status": status, "seconds": round(time.monotonic() - began, 1), "said": said}

"""Checks of the CUDA code paths, in minutes; skipped without CUDA.

``--rehearse`` runs the same checks on the CPU, with gloo instead of NCCL, to find mistakes in the checks themselves.
"""

from __future__ import annotations

import argparse
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

from benchmarks.engine import BenchmarkReporter, JobInputs, run, run_new
from benchmarks.results import RESULTS, machine, write_json
from core.distillation import build_student_setup
from core.ingest.dataset import ingest_builtin
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
RESUME_TOLERANCE = 1e-2  # of a weight: CUDA kernels may sum in another order
_QUICK = {"epochs": 1, "learning_rate": 2e-3, "warmup_epochs": 0, "augmentation": "none"}
MAX_SECONDS = 540.0  # ten minutes minus the start-up; later checks are reported as not run

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
    "unlabeled pool": ("attention_probe", {}),
    "inversion": ("dearkd", {"data_free": True, "num_images": 64, "iterations": 10}),
    "pruning": ("uvc", {}),
    "two students": ("mutual", {}),
    "own layers": ("self_distillation", {}),
    "without labels": ("feature", {}),
    "foundation models": ("agglomerate", {}),
}
"""One method of each kind, with parameters that keep it short."""


class NotAvailableError(Exception):
    """This machine lacks the hardware of a check."""


@dataclass(frozen=True, slots=True)
class DeviceUnderTest:
    """The device under test and the inputs that the checks share."""

    inputs: JobInputs
    accelerator: str

    @property
    def torch_device(self) -> torch.device:
        """The torch device."""
        return torch.device(self.accelerator)

    def document(self, name: str, **parameters: Any) -> dict[str, Any]:
        """Return a short example job of a method on this device."""
        document = example_job(name, dataset="ds_digits", pool="ds_digits", image_size=IMAGE_SIZE)
        document["method"] |= parameters
        document["training"] |= _QUICK
        document["export"] = ["safetensors"]
        document["resources"] = {"accelerator": self.accelerator, "threads": 2}
        for teacher in document.get("teachers", ()):
            teacher["training"] = {**_QUICK, "batch_size": 64}
        return document


def main(arguments: Sequence[str]) -> int:
    """Run the checks and print their results. Return 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu_check", description=__doc__)
    parser.add_argument("--rehearse", action="store_true", help="run everything on the CPU")
    parser.add_argument("--only", default="", help="comma-separated names of checks")
    options = parser.parse_args(arguments)
    if not options.rehearse and cuda_name() is None:
        print(SKIPPED)
        return 0
    with tempfile.TemporaryDirectory(prefix="potstill-gpu-check-") as folder:
        ingest_builtin("digits", Path(folder) / "digits")
        inputs = JobInputs(Path(folder), {"ds_digits": Path(folder) / "digits"})
        device = DeviceUnderTest(inputs, "cpu" if options.rehearse else "cuda")
        checks = _run_checks(device, options.only.split(",") if options.only else None)
    if not options.rehearse and not options.only:
        write_json(RESULT, {"machine": machine(), "checks": checks})
    return 1 if any(check["status"] == "failed" for check in checks) else 0


def fork_then_start(device: DeviceUnderTest) -> str:
    """Initialize the device in a process forked from one that has imported torch and used no device, as jobs do.

    This must be the first check: CUDA cannot be used in a fork of a process that has used it.
    """

    def work() -> int:
        x = torch.ones(64, 64, device=device.torch_device)
        return 0 if float((x @ x).sum()) == 64.0**3 else 1

    if device.accelerator == "cuda" and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        raise AssertionError("this process has initialized CUDA already, so its fork proves nothing")
    process = ForkedProcess(work)
    try:
        status = process.wait(120.0)
    finally:
        process.kill()
    assert status == 0, f"the forked process ended with {status}"
    return "the forked process initialized the device"


def bf16_step(device: DeviceUnderTest) -> str:
    """Train in bf16: the student learns and its weights stay float32."""
    document = device.document("scratch")
    document["training"] |= {"precision": "bf16", "epochs": 6, "batch_size": 32, "learning_rate": 1e-3}
    result, _ = run_new(device.inputs, document, "bf16", threads=2)
    state = load_file(result.artifacts["model.safetensors"])
    assert {tensor.dtype for tensor in state.values() if tensor.is_floating_point()} == {torch.float32}
    top1 = result.result["student"]["top1"]
    assert top1 > 0.2, f"top-1 is {top1:.1%}, close to the 10 % of chance"
    return f"top-1 {top1:.1%} after 6 epochs"


def all_reduce(device: DeviceUnderTest) -> str:
    """Run an all-reduce in a process group of one, with NCCL on a GPU."""
    backend = "nccl" if device.accelerator == "cuda" else "gloo"
    init_method_url = f"file://{device.inputs.work / 'rendezvous'}"
    torch.distributed.init_process_group(
        backend, init_method=init_method_url, rank=0, world_size=1, timeout=timedelta(seconds=60)
    )
    try:
        x = torch.arange(8.0, device=device.torch_device)
        torch.distributed.all_reduce(x)
        assert x.tolist() == list(range(8)), x
    finally:
        torch.distributed.destroy_process_group()
    return f"{backend} summed over one process"


def resume(device: DeviceUnderTest) -> str:
    """Compare an interrupted and resumed training with an undisturbed one."""
    document = device.document("kd")
    document["training"] |= {"precision": "fp32", "epochs": 2}
    undisturbed, _ = run_new(device.inputs, document, "undisturbed", threads=2)
    expected = load_file(undisturbed.artifacts["model.safetensors"])
    spec = device.inputs.resolve(document, threads=2)
    root, teachers = device.inputs.work / "runs" / "interrupted", device.inputs.work / "teachers"
    try:
        run(device.inputs, spec, root, BenchmarkReporter(root, teachers=teachers, pause_after=10))
    except Interrupted:
        pass
    else:
        raise AssertionError("the run did not pause")
    found = load_file(
        run(device.inputs, spec, root, BenchmarkReporter(root, teachers=teachers)).artifacts["model.safetensors"]
    )
    difference = max(float((found[name].double() - expected[name].double()).abs().max()) for name in expected)
    limit = 0.0 if device.accelerator == "cpu" else RESUME_TOLERANCE
    assert difference <= limit, f"weights differ by {difference:.2e}, more than {limit:.0e}"
    return f"largest weight difference {difference:.1e}"


def enqueue_ahead(device: DeviceUnderTest) -> str:
    """Enqueue steps without host synchronization; their metrics are read in order."""
    spec = device.inputs.resolve(device.document("scratch"), threads=2)
    root, set_sync_mode = device.inputs.work / "runs" / "ahead", torch.cuda.set_sync_debug_mode
    workspace = device.inputs.workspace(spec, root)
    with (
        BenchmarkReporter(root, teachers=root / "teachers") as reporter,
        open_run(spec, workspace, reporter) as context,
    ):
        stepper = TrainStep(build_student_setup(spec, workspace, context), lag=2)
        stepper.run(0)  # the first step may synchronize
        on_cuda = device.accelerator == "cuda"
        if on_cuda:
            set_sync_mode("error")
        try:
            for step in range(1, 9):
                stepper.enqueue(step)
        finally:
            if on_cuda:
                set_sync_mode("default")
        read = [reading.step for reading in stepper.drain_all()]
    assert read == list(range(1, 9)), read
    return "eight steps enqueued without synchronization"


def several_devices(device: DeviceUnderTest) -> str:
    """Compare a training on two devices with one on a single device."""
    if device.accelerator == "cuda" and torch.cuda.device_count() < 2:
        raise NotAvailableError("this machine has one device")
    document = device.document("kd")
    document["training"] |= {"precision": "fp32", "epochs": 2}
    alone, _ = run_new(device.inputs, document, "alone", threads=2)
    document["resources"]["devices"] = 2
    together, _ = run_new(device.inputs, document, "together", threads=2)
    expected, found = (load_file(one.artifacts["model.safetensors"]) for one in (alone, together))
    difference = max(float((found[name].double() - expected[name].double()).abs().max()) for name in expected)
    assert difference <= RESUME_TOLERANCE, f"weights differ by {difference:.2e}, more than {RESUME_TOLERANCE:.0e}"
    return f"largest weight difference {difference:.1e}"


def onnx_parity(device: DeviceUnderTest) -> str:
    """Compare a student trained on the device with its ONNX file; the export fails if they differ."""
    document = device.document("scratch") | {"export": ["safetensors", "onnx"]}
    result, _ = run_new(device.inputs, document, "onnx", threads=2)
    assert result.artifacts["model.onnx"].stat().st_size > 0
    return f"largest logit difference {result.receipts['model.onnx']['logits']['max_difference']:.1e}"


def families(device: DeviceUnderTest) -> dict[str, Callable[[], str]]:
    """Return a small job for each kind of method."""

    def job(name: str, parameters: Mapping[str, Any]) -> str:
        document, inputs = device.document(name, **parameters), device.inputs
        if "weights" in METHODS[name].params.info.needs.student:
            trained, _ = run_new(inputs, device.document("scratch"), "trained", threads=2)
            inputs = JobInputs(
                inputs.work, inputs.datasets, {"job_trained": trained.artifacts["model.safetensors"].parent}
            )
        result, reporter = run_new(inputs, document, name, threads=2)
        return f"{name}: top-1 {result.result['student']['top1']:.1%}, {', '.join(reporter.terms)}"

    return {
        kind: lambda name=name, parameters=parameters: job(name, parameters)  # type: ignore[misc]
        for kind, (name, parameters) in FAMILIES.items()
        if name in METHODS
    }


def _run_checks(device: DeviceUnderTest, only: Sequence[str] | None) -> list[dict[str, Any]]:
    checks: dict[str, Callable[[], str]] = {
        "fork then start": lambda: fork_then_start(device),
        "bf16 step": lambda: bf16_step(device),
        "all-reduce": lambda: all_reduce(device),
        "resume": lambda: resume(device),
        "enqueue ahead": lambda: enqueue_ahead(device),
        "several devices": lambda: several_devices(device),
        "ONNX parity": lambda: onnx_parity(device),
        **families(device),
    }
    began, results = time.monotonic(), []
    for name, check in checks.items():
        if only is None or name in only:
            results.append(_run_check(name, check, late=time.monotonic() - began > MAX_SECONDS))
            print(
                f"{results[-1]['status']:<8} {name:<36} {results[-1]['seconds']:>6.1f} s  {results[-1]['message']}",
                flush=True,
            )
    return results


def _run_check(name: str, check: Callable[[], str], *, late: bool) -> dict[str, Any]:
    began = time.monotonic()
    try:
        status, message = ("not run", "time limit reached") if late else ("passed", check())
    except NotAvailableError as reason:
        status, message = "not run", str(reason)
    except Exception as error:  # noqa: BLE001 - every check runs, and each failure is reported
        status, message = "failed", f"{type(error).__name__}: {error}"
        traceback.print_exc()
    return {"name": name, "status": status, "seconds": round(time.monotonic() - began, 1), "message": message}

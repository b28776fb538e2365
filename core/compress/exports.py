"""The published files of compression steps: the formats of each compressed network, and the receipt of every file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.compress.measure import MeasuredStep
from core.errors import ExportFailed
from core.export import Exported, ExportInputs, TestSplit
from core.export.onnx_file import RUNTIME, open_runner
from core.export.parity import LogitDifference, file_input, parity_images, student_logits
from core.export.receipt import build_receipt
from core.export.report import format_versions
from core.export.student import write_formats
from core.job_warnings import JobWarning
from core.models.built import BuiltModel
from core.models.weights import load_folder
from core.spec import JobSpec
from core.spec.export_options import ExportOptions
from core.spec.exports import file_names
from core.train.context import RunContext


def export_steps(
    student_folder: Path, steps: Sequence[MeasuredStep], spec: JobSpec, context: RunContext, inputs: ExportInputs
) -> Exported:
    """Write the formats of ``spec.export`` for each compressed network; return the files of all applied steps.

    Each file has a receipt, as the student's own files have. A format that fails is left out with a warning.
    ``inputs`` are those of the student, whose weights are in ``student_folder``.
    """
    files: dict[str, Path] = {}
    receipts: dict[str, dict[str, Any]] = {}
    failures: dict[str, str] = {}
    network_folder = student_folder
    for step in steps:
        outcome = step.outcome
        if not outcome.is_applied:
            continue
        context.poll()
        files |= outcome.artifacts()
        if outcome.is_file:
            receipts[outcome.output] = _file_receipt(step, load_folder(network_folder), inputs)
            continue
        network_folder = outcome.folder
        exported, failed = _network_formats(step, spec.export_options, context, inputs)
        files |= exported.files
        receipts |= exported.receipts
        failures |= exported.failures
        if failed:
            context.reporter.warning(_warning(outcome.index, exported.failures, failed))
    return Exported(files, receipts, failures)


def _network_formats(
    step: MeasuredStep, formats: Sequence[ExportOptions], context: RunContext, inputs: ExportInputs
) -> tuple[Exported, Sequence[ExportOptions]]:
    """Write the formats of a step's network to its folder; return the files with their receipts, and what failed."""
    folder, output = step.outcome.folder, step.outcome.output
    network = load_folder(folder)
    failed: dict[ExportOptions, str] = {}
    own_inputs = ExportInputs(
        samples=inputs.samples, test=_test_split(step, context, network.preprocessing.image_size), latency=step.latency
    )
    receipts = write_formats(network, folder, formats, failed, inputs=own_inputs, poll=context.poll)
    named = {
        f"{output}/{name}": _with_folder(output, receipt)
        for options, receipt in receipts.items()
        for name in file_names(options)
    }
    files = {name: folder / name.rpartition("/")[2] for name in named}
    failures = {f"{output}/{file_names(options)[0]}": why for options, why in failed.items()}
    return Exported(files, named, failures), tuple(failed)


def _test_split(step: MeasuredStep, context: RunContext, image_size: int) -> TestSplit:
    """Return the images to evaluate the files of a step's network on, with the predictions of that network."""
    pixels = context.pixels("test", image_size)
    return TestSplit.select(
        pixels.images,
        labels=pixels.labels if context.is_labeled else None,
        predictions=step.predictions,
        flops=int(step.summary["flops"]),
    )


def _with_folder(folder: str, receipt: Mapping[str, Any]) -> dict[str, Any]:
    """Return a receipt whose files have the names of their artifacts, with the folder."""
    return {**receipt, "files": [{**file, "name": f"{folder}/{file['name']}"} for file in receipt["files"]]}


def _file_receipt(step: MeasuredStep, network: BuiltModel, inputs: ExportInputs) -> dict[str, Any]:
    """Return the receipt of a quantized file: logits against those of its network in PyTorch, other values as measured.

    The gate of the step accepts its accuracy, so there is no tolerance for its logits. ``agreement`` is that with the
    uncompressed student.
    """
    images = parity_images(inputs.samples)
    logits = open_runner(step.outcome.path)(file_input(network, images, preprocessing=False))
    details = {
        "format": "onnx",
        "preprocessing": False,
        "runtime": RUNTIME,
        "logits": LogitDifference.between(logits, student_logits(network, images)).to_json(None),
    }
    scores = {
        **inputs.test.scores(None),  # the accuracy of the student
        "top1": step.summary["top1"],
        "agreement": step.summary.get("agreement"),
        "evaluated_images": inputs.test.num_test,
    }
    return build_receipt(
        [step.outcome.path], details=details, scores=scores, latency=step.latency, versions=format_versions("onnx")
    )


def _warning(index: int, failures: Mapping[str, str], failed: Sequence[ExportOptions]) -> JobWarning:
    return JobWarning(
        code=ExportFailed.code,
        field=f"/compression/{index}",
        message="; ".join(f"{name} is left out: {why}" for name, why in failures.items()),
        fix=f"leave {' and '.join(options.label for options in failed)} out of export; the other files are complete",
    )

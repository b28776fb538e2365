"""Further formats of the networks that compression steps return, such as ONNX, in the folder of each step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.compress.measure import MeasuredStep
from core.errors import ExportFailed
from core.evaluate import Latency
from core.export import Exported, ExportInputs
from core.export.formats import ExportContext, write_format
from core.export.onnx_file import RUNTIME, open_runner
from core.export.parity import file_input, parity_images, student_logits
from core.export.receipt import build_receipt
from core.export.report import versions
from core.job_warnings import JobWarning
from core.models.weights import load_folder
from core.spec import JobSpec
from core.spec.exports import EXPORT_FORMATS, REQUIRED_FORMAT
from core.train.context import RunContext


def export_steps(
    exported: Exported, steps: Sequence[MeasuredStep], spec: JobSpec, context: RunContext, inputs: ExportInputs
) -> Exported:
    """Add the files of applied steps to those of the student, and the formats of ``spec.export`` for each network.

    A format that fails is left out with a warning. Each ONNX file of a step has a receipt.
    """
    files, receipts = dict(exported.files), dict(exported.receipts)
    for step in steps:
        outcome = step.outcome
        files |= outcome.artifacts()
        if not outcome.is_applied:
            continue
        if outcome.is_file:
            receipts[outcome.output] = _receipt(step, files["config.json"].parent, inputs)
            continue
        network = load_folder(outcome.folder)
        for options in spec.export_options:
            context.poll()
            if options.format == REQUIRED_FORMAT:
                continue
            export = ExportContext(folder=outcome.folder, options=options, samples=inputs.samples, poll=context.poll)
            try:
                write_format(network, export)
            except ExportFailed as error:
                context.reporter.warning(_warning(outcome.index, f"{outcome.output}/{export.path.name}", error))
            else:
                files |= {f"{outcome.output}/{path.name}": path for path in export.paths}
    return Exported(files, receipts)


def _receipt(step: MeasuredStep, student_folder: Path, inputs: ExportInputs) -> dict[str, Any]:
    """Return the receipt of a quantized file: logits against those of the student in PyTorch, other values as measured.

    The gate of the step accepts its accuracy, so there is no tolerance for its logits.
    """
    student, images = load_folder(student_folder), parity_images(inputs.samples)
    logits = open_runner(step.outcome.path)(file_input(student, images, preprocessing=False))
    difference = (logits - student_logits(student, images)).abs()
    details = {
        "format": "onnx",
        "preprocessing": False,
        "runtime": RUNTIME,
        "logits": {
            "max_difference": difference.max().item(),
            "mean_difference": difference.mean().item(),
            "tolerance": None,
            "images": len(images),
        },
    }
    scores = {
        **inputs.test.scores(None),  # the accuracy of the student
        "top1": step.summary["top1"],
        "agreement": step.summary.get("agreement"),
        "evaluated_images": inputs.test.num_test,
    }
    latency = [Latency(**each) for each in step.details["latency"]]
    packages = ("potstill-server", "torch", "timm", *EXPORT_FORMATS["onnx"].packages)
    return build_receipt(
        [step.outcome.path], details=details, scores=scores, latency=latency, versions=versions(packages)
    )


def _warning(index: int, artifact: str, error: ExportFailed) -> JobWarning:
    return JobWarning(
        code=ExportFailed.code,
        field=f"/compression/{index}",
        message=f"{artifact} is left out: {error.detail}",
        fix="leave this format out of export; the other files are complete",
    )

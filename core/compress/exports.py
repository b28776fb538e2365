"""Further formats of the networks that compression steps return, such as ONNX, in the folder of each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.compress.measure import MeasuredStep
from core.errors import ExportFailed
from core.evaluate import Latency
from core.export import Exported, ExportInputs
from core.export.formats import ExportContext, write_format
from core.export.onnx_file import RUNTIME, open_runner
from core.export.parity import LogitDifference, file_input, parity_images, student_logits
from core.export.receipt import build_receipt
from core.export.report import format_versions
from core.job_warnings import JobWarning
from core.models.built import BuiltModel
from core.models.weights import CONFIG, load_folder
from core.spec import JobSpec
from core.spec.exports import REQUIRED_FORMAT
from core.train.context import RunContext


def export_steps(
    exported: Exported, steps: Sequence[MeasuredStep], spec: JobSpec, context: RunContext, inputs: ExportInputs
) -> Exported:
    """Add the files of applied steps to those of the student, and the formats of ``spec.export`` for each network.

    A format that fails is left out with a warning. Each ONNX file of a step has a receipt.
    """
    files, receipts = dict(exported.files), dict(exported.receipts)
    quantized = [step for step in steps if step.outcome.is_applied and step.outcome.is_file]
    if quantized:
        student = load_folder(files[CONFIG].parent)
        receipts |= {step.outcome.output: _receipt(step, student, inputs) for step in quantized}
    for step in steps:
        outcome = step.outcome
        files |= outcome.artifacts()
        if not outcome.is_applied or outcome.is_file:
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


def _receipt(step: MeasuredStep, student: BuiltModel, inputs: ExportInputs) -> dict[str, Any]:
    """Return the receipt of a quantized file: logits against those of the student in PyTorch, other values as measured.

    The gate of the step accepts its accuracy, so there is no tolerance for its logits.
    """
    images = parity_images(inputs.samples)
    logits = open_runner(step.outcome.path)(file_input(student, images, preprocessing=False))
    details = {
        "format": "onnx",
        "preprocessing": False,
        "runtime": RUNTIME,
        "logits": LogitDifference.between(logits, student_logits(student, images)).to_json(None),
    }
    scores = {
        **inputs.test.scores(None),  # the accuracy of the student
        "top1": step.summary["top1"],
        "agreement": step.summary.get("agreement"),
        "evaluated_images": inputs.test.num_test,
    }
    latency = [Latency(**each) for each in step.details["latency"]]
    return build_receipt(
        [step.outcome.path], details=details, scores=scores, latency=latency, versions=format_versions("onnx")
    )


def _warning(index: int, artifact: str, error: ExportFailed) -> JobWarning:
    return JobWarning(
        code=ExportFailed.code,
        field=f"/compression/{index}",
        message=f"{artifact} is left out: {error.detail}",
        fix="leave this format out of export; the other files are complete",
    )

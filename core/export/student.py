"""The exported folder: weights, config, further formats, model card and report. Each file is complete or absent."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from core.data.pixels import Images
from core.errors import ExportFailed
from core.evaluate import Latency
from core.export.card import model_card
from core.export.formats import ExportContext, failure_warning, guard_format, no_poll, runner_for, write_format
from core.export.parity import file_input, parity_images
from core.export.receipt import TestSplit, build_receipt, file_latency, predicted_classes
from core.export.report import build_report, format_versions
from core.models.built import BuiltModel
from core.models.weights import CONFIG, load_folder
from core.reporting import Reporter
from core.spec import JobSpec
from core.spec.export_options import ExportOptions, GraphOptions
from core.spec.exports import REQUIRED_FORMAT, file_names
from core.system.disk import write_atomic
from core.system.fault_injection import fault_point

CARD = "README.md"
REPORT = "report.json"

Receipts = dict[ExportOptions, dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportInputs:
    """Images and measurements that the exported files are compared with.

    Args:
        samples: Real images (N, C, H, W), uint8, for a comparison of each file with the weights.
        test: Images to evaluate each file on.
        latency: Of the student's weights in PyTorch.
    """

    samples: Images
    test: TestSplit
    latency: Sequence[Latency]


@dataclass(frozen=True, slots=True)
class Exported:
    """The exported files, the receipt of each file of an export format, and why others failed, by artifact name."""

    files: Mapping[str, Path] = field(default_factory=dict)
    receipts: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)


NOTHING = Exported()


def export_student(
    folder: Path,
    *,
    spec: JobSpec,
    dataset: Mapping[str, Any],
    result: Mapping[str, Any],
    details: Mapping[str, Any],
    stages: Mapping[str, float],
    inputs: ExportInputs,
    reporter: Reporter,
    failed: Mapping[ExportOptions, str] = MappingProxyType({}),
    sections: Mapping[str, Any] = MappingProxyType({}),
    compressed: Exported = NOTHING,
    poll: Callable[[], None] = no_poll,
) -> Exported:
    """Complete a folder that ``save_folder`` wrote; return its files and those of compressed networks.

    A format that fails is left out, with a warning and its reason in the report: the student is trained, and its other
    files do not depend on it.

    Args:
        dataset: ``name``, ``fingerprint``, ``num_train``, ``num_test``, and further fields for the report.
        result, details, stages: The job result of the API contract, further measurements, and seconds by stage.
        inputs: Images and measurements that the files are compared with.
        reporter: Receives the warning; the report has all warnings of the job.
        failed: Reason by format of those that are known to fail, which are not tried again.
        sections: Sections of the report; the card reads ``evaluation``.
        compressed: The files of the compression steps, which card and report list.
        poll: Called between files and while they are measured; it may raise to interrupt.

    Raises:
        WeightsMismatch: The folder's weights cannot be loaded.
    """
    student, failures = load_folder(folder), dict(failed)
    receipts = write_formats(student, folder, spec.export_options, failures, inputs=inputs, poll=poll)
    if failures:
        reporter.warning(failure_warning(failures))
    own = _by_name(folder, receipts, failures)
    common: dict[str, Any] = {"spec": spec, "dataset": dataset, "result": result}
    card = model_card(
        **common,
        student=student,
        threads=torch.get_num_threads(),
        receipts=receipts,
        compressed=compressed.receipts,
        top1_metric=details.get("student", {}).get("top1_metric"),
        evaluation=sections.get("evaluation"),
    )
    report = build_report(
        **common,
        details=details,
        stages=stages,
        warnings=reporter.warnings(),
        sections={**sections, "exports": _exports_section(own) | _exports_section(compressed)},
    )
    write_atomic(folder / CARD, card.encode())
    write_atomic(folder / REPORT, (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode())
    fault_point("student.exported")
    files = {name: folder / name for name in (CONFIG, *own.files, CARD, REPORT)}
    return Exported(files | dict(compressed.files), {**own.receipts, **compressed.receipts})


def _by_name(folder: Path, receipts: Receipts, failures: Mapping[ExportOptions, str]) -> Exported:
    """Return files, receipts and failures by file name; all files of a format share its receipt."""
    by_name = {name: receipt for options, receipt in receipts.items() for name in file_names(options)}
    failed = {file_names(options)[0]: why for options, why in failures.items()}
    return Exported({name: folder / name for name in by_name}, by_name, failed)


def _exports_section(exported: Exported) -> dict[str, Any]:
    """Return the report's section on the files: a receipt or the reason of the failure, by the name of the first file.

    The further files of a format, such as OpenVINO's weights, are in the receipt of the first.
    """
    first = {name: receipt for name, receipt in exported.receipts.items() if receipt["files"][0]["name"] == name}
    return first | {name: {"failed": why} for name, why in exported.failures.items()}


def write_formats(
    student: BuiltModel,
    folder: Path,
    formats: Iterable[ExportOptions],
    failures: dict[ExportOptions, str],
    *,
    inputs: ExportInputs,
    poll: Callable[[], None],
) -> Receipts:
    """Write the formats of a network without an entry in ``failures``, and add those that fail.

    Returns the receipt of each: the file compared with the network, evaluated and timed under its own runtime. The
    network's weights are in ``folder`` already. ``inputs`` has the measurements of this network.
    """
    receipts = {}
    for options in formats:
        poll()
        if options in failures:
            continue
        context = ExportContext(folder=folder, options=options, samples=inputs.samples, poll=poll)
        try:
            receipts[options] = _write_with_receipt(student, context, inputs)
        except ExportFailed as error:
            if options.format == REQUIRED_FORMAT:
                raise
            failures[options] = error.detail
    poll()
    return receipts


def _write_with_receipt(student: BuiltModel, context: ExportContext, inputs: ExportInputs) -> dict[str, Any]:
    details = {**context.options.model_dump(mode="json"), **write_format(student, context)}
    if context.options.format == REQUIRED_FORMAT:  # the evaluation measured this file
        scores, latency = inputs.test.scores(inputs.test.predictions), inputs.latency
        return _receipt(context, details, scores, latency)
    return guard_format(context, lambda: _measure(student, context, inputs, details))


def _measure(
    student: BuiltModel, context: ExportContext, inputs: ExportInputs, details: Mapping[str, Any]
) -> dict[str, Any]:
    """Open the file in its runtime, evaluate it on the test split and time it."""
    options, poll, test = context.options, context.poll, inputs.test
    preprocessing = isinstance(options, GraphOptions) and options.preprocessing
    run = runner_for(options.format, context.path)
    latency = file_latency(
        run, file_input(student, parity_images(inputs.samples)[:1], preprocessing=preprocessing), poll=poll
    )
    has_classes = test.predictions is not None
    predicted = (
        predicted_classes(run, student, test.images, preprocessing=preprocessing, poll=poll) if has_classes else None
    )
    return _receipt(context, details, test.scores(predicted), latency)


def _receipt(
    context: ExportContext, details: Mapping[str, Any], scores: Mapping[str, Any], latency: Sequence[Latency]
) -> dict[str, Any]:
    versions = format_versions(context.options.format)
    return build_receipt(context.paths, details=details, scores=scores, latency=latency, versions=versions)

"""The exported folder: weights, config, further formats, model card and report. Each file is complete or absent."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from core.data.pixels import Images
from core.errors import ExportFailed
from core.export.card import model_card
from core.export.formats import ExportContext, failure_warning, no_poll, write_format
from core.export.report import build_report
from core.models.built import BuiltModel
from core.models.weights import CONFIG, load_folder
from core.reporting import Reporter
from core.spec import JobSpec
from core.spec.exports import EXPORT_FORMATS, REQUIRED_FORMAT
from core.system.disk import write_atomic
from core.system.fault_injection import fault_point

CARD = "README.md"
REPORT = "report.json"


def export_student(
    folder: Path,
    *,
    spec: JobSpec,
    dataset: Mapping[str, Any],
    result: Mapping[str, Any],
    details: Mapping[str, Any],
    stages: Mapping[str, float],
    samples_NCHW: Images,
    reporter: Reporter,
    failed: Mapping[str, str] = MappingProxyType({}),
    sections: Mapping[str, Any] = MappingProxyType({}),
    poll: Callable[[], None] = no_poll,
) -> dict[str, Path]:
    """Complete a folder that ``save_folder`` wrote; return its files by artifact name.

    A format that fails is left out, with a warning and its reason in the report: the student is trained, and its other
    files do not depend on it.

    Args:
        dataset: ``name``, ``fingerprint``, ``num_train``, ``num_test``, and further fields for the report.
        result: The job result of the API contract; ``details`` has measurements for the report beyond it.
        stages: Seconds by stage.
        samples_NCHW: Real images, for a comparison of each format with the weights.
        reporter: Receives the warning; the report has all warnings of the job.
        failed: Reason by format of those that are known to fail, which are not tried again.
        sections: Sections of the report; the card reads ``evaluation``.
        poll: Called between files; it may raise to interrupt.

    Raises:
        WeightsMismatch: The folder's weights cannot be loaded.
    """
    student = load_folder(folder)
    failures = dict(failed)
    written = _write_formats(student, folder, spec.export, failures, samples=samples_NCHW, poll=poll)
    if failures:
        reporter.warning(failure_warning(failures))
    formats = [name for name in spec.export if name not in failures]
    poll()
    common: dict[str, Any] = {"spec": spec, "dataset": dataset, "result": result}
    card = model_card(
        **common,
        student=student,
        threads=torch.get_num_threads(),
        formats=formats,
        top1_metric=details.get("student", {}).get("top1_metric"),
        evaluation=sections.get("evaluation"),
    )
    report = build_report(
        **common,
        details=dict(details) | written | {name: {"failed": why} for name, why in failures.items()},
        stages=stages,
        warnings=reporter.warnings(),
        sections=sections,
    )
    write_atomic(folder / CARD, card.encode())
    write_atomic(folder / REPORT, (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode())
    fault_point("student.exported")
    file_names = (EXPORT_FORMATS[name].file_name for name in formats)
    return {name: folder / name for name in (CONFIG, *file_names, CARD, REPORT)}


def _write_formats(
    student: BuiltModel,
    folder: Path,
    formats: Iterable[str],
    failures: dict[str, str],
    *,
    samples: Images,
    poll: Callable[[], None],
) -> dict[str, Any]:
    """Write the formats without an entry in ``failures``, and add those that fail; return details by format."""
    details = {}
    for name in formats:
        poll()
        if name in failures:
            continue
        context = ExportContext(path=folder / EXPORT_FORMATS[name].file_name, samples=samples, poll=poll)
        try:
            format_details = write_format(name, student, context)
        except ExportFailed as error:
            if name == REQUIRED_FORMAT:
                raise
            failures[name] = error.detail
        else:
            if format_details:
                details[name] = format_details
    return details

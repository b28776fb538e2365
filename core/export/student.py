"""The exported folder: weights, config, further formats, model card and report. Each file is complete or absent."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from core.data.pixels import Images
from core.export.card import model_card
from core.export.formats import ExportContext, exporter
from core.export.report import build_report
from core.models.weights import CONFIG, load_folder
from core.spec import JobSpec
from core.spec.exports import EXPORT_FORMATS
from core.spec.warnings import JobWarning
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
    warnings: Callable[[], list[JobWarning]],
    poll: Callable[[], None] | None = None,
) -> dict[str, Path]:
    """Complete a folder that ``save_folder`` wrote; return its files by artifact name.

    Args:
        dataset: ``name``, ``fingerprint``, ``num_train``, ``num_test``, and further fields for the report.
        result: The job result of the API contract.
        details: Measurements for the report beyond the result.
        stages: Seconds by stage.
        samples_NCHW: Real images, for a comparison of each format with the weights.
        warnings: Returns the job's warnings; called after all formats are exported.
        poll: Called between files; it may raise to interrupt.

    Raises:
        ExportMismatch: The outputs of an exported file differ from those of the weights.
        WeightsMismatch: The folder's weights cannot be loaded.
    """
    student = load_folder(folder)
    files = {CONFIG: folder / CONFIG}
    report_details = dict(details)
    poll = poll or _no_poll
    for name in spec.export:
        poll()
        path = folder / EXPORT_FORMATS[name].file_name
        format_details = exporter(name)(student, ExportContext(path=path, samples=samples_NCHW, poll=poll))
        files[path.name] = path
        if format_details:
            report_details[name] = format_details
    poll()
    card = model_card(
        spec=spec,
        student=student,
        dataset=dataset,
        result=result,
        threads=torch.get_num_threads(),
        formats=spec.export,
        top1_metric=details.get("student", {}).get("top1_metric"),
    )
    report = build_report(
        spec=spec,
        dataset=dataset,
        result=result,
        details=report_details,
        stages=stages,
        warnings=warnings(),
    )
    write_atomic(folder / CARD, card.encode())
    write_atomic(folder / REPORT, (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode())
    fault_point("student.exported")
    return files | {CARD: folder / CARD, REPORT: folder / REPORT}


def _no_poll() -> None:
    """Never interrupt."""

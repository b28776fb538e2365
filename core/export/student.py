"""The folder that is handed out: weights, config, ONNX, model card and report, each whole or absent."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from core.data.pixels import Images
from core.export.card import model_card
from core.export.onnx_file import ABSOLUTE, PARITY_IMAGES, RELATIVE, export_onnx
from core.export.report import build_report
from core.models.weights import CONFIG, WEIGHTS, load_folder
from core.spec import JobSpec
from core.system.disk import write_atomic
from core.system.fault_injection import fault_point

ONNX = "model.onnx"
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
    poll: Callable[[], None] | None = None,
) -> dict[str, Path]:
    """Complete a folder that ``save_folder`` wrote and return its files by their public names.

    ``dataset`` has ``name``, ``fingerprint``, ``num_train``, ``num_test`` and whatever else the report
    should say; ``result`` is the contract's job result; ``stages`` are seconds by name; ``samples_NCHW``
    are real pictures for the check of the ONNX file. ``poll`` is called between the files and may raise.

    Raises:
        ExportMismatch: An exported file does not give what the weights give.
        WeightsMismatch: The folder's weights cannot be loaded back.
    """
    student = load_folder(folder)
    files = {WEIGHTS: folder / WEIGHTS, CONFIG: folder / CONFIG}
    measured = dict(details)
    if "onnx" in spec.export:
        if poll is not None:
            poll()
        difference = export_onnx(student, folder / ONNX, samples_NCHW=samples_NCHW, classes=student.classes)
        files[ONNX] = folder / ONNX
        measured["onnx"] = {
            "largest_logit_difference": difference,
            "accepted": f"{ABSOLUTE} + {RELATIVE} × |logit|",
            "images": min(PARITY_IMAGES, len(samples_NCHW)),
            "size_bytes": (folder / ONNX).stat().st_size,
        }
    if poll is not None:
        poll()
    card = model_card(
        spec=spec,
        student=student,
        dataset=dataset,
        result=result,
        threads=torch.get_num_threads(),
        formats=spec.export,
        rule=details.get("student", {}).get("top1_metric"),
    )
    report = build_report(spec=spec, dataset=dataset, result=result, details=measured, stages=stages)
    write_atomic(folder / CARD, card.encode())
    write_atomic(folder / REPORT, (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode())
    fault_point("student.exported")
    return files | {CARD: folder / CARD, REPORT: folder / REPORT}

"""Presentation of a job's compression steps, and of the receipts of its files. Pure functions, no HTTP, no store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from api.dashboard import formats
from core.spec.exports import EXPORT_FORMATS

Document = Mapping[str, Any]
_ONNX_FILE = EXPORT_FORMATS["onnx"].file_name


@dataclass(frozen=True, slots=True)
class CompressionRow:
    """One compression step, or the uncompressed student, with texts of its figures on the test split.

    ``artifact`` is the file with the weights, None if none is published.
    """

    label: str
    outcome: Literal["student", "applied", "rejected", "failed"]
    reason: str | None
    artifact: str | None
    top1: str
    change: str
    size: str
    smaller: str
    latency: str
    batch_latency: str


@dataclass(frozen=True, slots=True)
class ReceiptRow:
    """What was measured of one exported file under its own runtime. ``details`` are (label, value) pairs."""

    artifact: str
    runtime: str
    top1: str
    agreement: str
    difference: str
    latency: str
    batch_latency: str
    size: str
    details: tuple[tuple[str, str], ...]


def compression_rows(result: Document, artifacts: Sequence[Document]) -> list[CompressionRow]:
    """Return the student and a row for each compression step; empty for a job without steps.

    If a step has an ONNX file, the student's ONNX file has a row too: only times of the same runtime are comparable.
    """
    entries = result.get("compressed") or []
    if not entries:
        return []
    receipts = {artifact["name"]: artifact["receipt"] for artifact in artifacts}
    student = result["student"]
    own = {**student, "artifact": "model.safetensors"}
    rows = [_compression_row("Student", "student", own, student, receipts)]
    exported = receipts.get(_ONNX_FILE)
    if exported is not None and any((entry.get("artifact") or "").endswith(".onnx") for entry in entries):
        own = {**exported, "artifact": _ONNX_FILE, "latency_ms": exported["latency_ms"]["1"]}
        rows.append(_compression_row("Student in ONNX", "student", own, student, receipts))
    for index, entry in enumerate(entries):
        # Results of earlier versions have no step, name or outcome.
        label = f"{entry.get('step', index)} {entry.get('name', '')}".strip()
        rows.append(_compression_row(label, entry.get("status", "applied"), entry, student, receipts))
    return rows


def _compression_row(
    label: str, outcome: Any, metrics: Document, student: Document, receipts: Mapping[str, Document | None]
) -> CompressionRow:
    artifact = metrics.get("artifact")
    top1, reference = metrics.get("top1"), student.get("top1")
    size, full_size = metrics.get("size_bytes"), student.get("size_bytes")
    is_step = outcome != "student"
    latency = (receipts.get(artifact or "") or {}).get("latency_ms") or {}
    return CompressionRow(
        label=label,
        outcome=outcome,
        reason=metrics.get("reason"),
        artifact=artifact if artifact in receipts else None,
        top1=formats.percent(top1),
        change=formats.points(None if not is_step or top1 is None or reference is None else top1 - reference),
        size=formats.size(size),
        smaller=_smaller(size, full_size) if is_step else "",
        latency=formats.milliseconds(metrics.get("latency_ms")),
        batch_latency=formats.milliseconds(latency.get("32")),
    )


def _smaller(size: float | None, full_size: float | None) -> str:
    """Describe a size in relation to the student's; a difference below 5 % is not worth a word."""
    if not size or not full_size or max(size, full_size) < 1.05 * min(size, full_size):
        return ""
    if size < full_size:
        return f"{formats.times(full_size / size)} smaller"
    return f"{formats.times(size / full_size)} larger"


def receipt_rows(artifacts: Sequence[Document]) -> list[ReceiptRow]:
    """Return the receipts of the exported files; a format of several files has one row, that of its first file."""
    return [
        _receipt_row(artifact["name"], receipt)
        for artifact in artifacts
        if (receipt := artifact["receipt"]) is not None and _is_first(artifact["name"], receipt)
    ]


def _is_first(name: str, receipt: Document) -> bool:
    files = receipt.get("files") or [{"name": name}]
    return bool(files[0]["name"] == name)


def _receipt_row(name: str, receipt: Document) -> ReceiptRow:
    logits, latency = receipt["logits"], receipt["latency_ms"]
    tolerance = logits["tolerance"]
    accepted = "any: the step's gate judges the accuracy"
    if tolerance is not None:
        accepted = f"{tolerance['absolute']:g} + {tolerance['relative']:g} × logit"
    versions = ", ".join(f"{package} {version}" for package, version in receipt["versions"].items())
    rows = [
        ("SHA-256", receipt["sha256"]),
        ("Mean logit difference", f"{logits['mean_difference']:.1g}"),
        ("Accepted difference", accepted),
        ("Compared images", str(logits["images"])),
        ("Evaluated images", f"{receipt['evaluated_images']:,} of {receipt['test_images']:,}"),
        ("PyTorch's top-1 on them", formats.percent(receipt.get("top1_student"))),
        ("Threads", str(receipt["threads"])),
        ("Versions", versions),
    ]
    return ReceiptRow(
        artifact=name,
        runtime=receipt["runtime"],
        top1=formats.percent(receipt["top1"]),
        agreement=formats.percent(receipt["agreement"]),
        difference=f"{logits['max_difference']:.1g}",
        latency=formats.milliseconds(latency["1"]),
        batch_latency=formats.milliseconds(latency["32"]),
        size=formats.size(receipt["size_bytes"]),
        details=tuple(rows),
    )

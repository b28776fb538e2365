"""The artifacts of a job: weights and config for timm, further formats, a model card and a report."""

from core.export.formats import failure_warning
from core.export.onnx_file import export_onnx, open_session
from core.export.receipt import TestSplit
from core.export.student import Exported, ExportInputs, export_student

__all__ = [
    "ExportInputs",
    "Exported",
    "TestSplit",
    "export_onnx",
    "export_student",
    "failure_warning",
    "open_session",
]

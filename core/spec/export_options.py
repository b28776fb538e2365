"""Options of the export formats: the objects in a spec's ``export``.

Each class is the object form of one or more formats. A format without options there is written as its name alone.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from core.spec.document import StrictModel

Precision = Literal["fp32", "fp16"]

DEFAULT_OPSET, MIN_OPSET, MAX_OPSET = 20, 17, 23


class ExportOptions(StrictModel):
    """A format without options."""

    format: str

    @property
    def label(self) -> str:
        """The format, with the options that differ from their defaults: ``onnx (precision fp16)``."""
        fields = type(self).model_fields
        changed = [
            f"{name} {str(value).lower()}" for name, value in self if name != "format" and value != fields[name].default
        ]
        return f"{self.format} ({', '.join(changed)})" if changed else self.format

    @property
    def is_default(self) -> bool:
        """Whether all options have their defaults."""
        return self.label == self.format


class SafetensorsOptions(ExportOptions):
    """The weights; they have no options."""

    format: Literal["safetensors"]


class GraphOptions(ExportOptions):
    """Options of a format that holds the network as a graph."""

    preprocessing: bool = Field(
        default=False,
        description="Put scaling and normalization into the file: it takes the pixels of an image, uint8 in 0…255, "
        "instead of normalized float32. The image still has to be resized.",
    )


class PrecisionOptions(GraphOptions):
    """Options of a graph whose weights have a precision."""

    precision: Precision = Field(
        default="fp32",
        description="`fp16` halves the file, which is then named after it, such as `model.fp16.onnx`. Input and logits "
        "stay float32.",
    )


class OnnxOptions(PrecisionOptions):
    """Options of `model.onnx`."""

    format: Literal["onnx"]
    opset: int = Field(
        default=DEFAULT_OPSET,
        ge=MIN_OPSET,
        le=MAX_OPSET,
        description="Version of ONNX's operators. Above 20 only the slower one of torch's two exporters can be used.",
    )


class OpenvinoOptions(PrecisionOptions):
    """Options of `model.xml` with `model.bin`."""

    format: Literal["openvino"]


class TorchExportOptions(PrecisionOptions):
    """Options of `model.pt2`."""

    format: Literal["torch_export"]

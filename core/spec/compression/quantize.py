"""Parameters of ``quantize``: weights and activations in fewer bits, in an ONNX file."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from core.spec.compression.base import FineTuningParams, StepInfo
from core.spec.document import NOT_AVAILABLE

Dtype = Literal["int8", "int4", "fp16", "bf16"]
QuantizationMode = Literal["static", "dynamic", "qat"]
Calibration = Literal["minmax", "percentile", "entropy"]
Operator = Literal["MatMul", "Gemm", "Conv", "Add", "Mul", "Softmax", "LayerNormalization"]

MIN_CALIBRATION_IMAGES = 8
DEFAULT_OPERATORS: tuple[Operator, ...] = ("MatMul", "Gemm", "Conv")

_ONLY_INT8 = ("calibration", "calibration_images", "operators", "mixed")
_ONLY_POST_TRAINING = ("operators", "mixed")
_ONLY_QAT = ("epochs", "learning_rate", "temperature", "alpha")


class QuantizeParams(FineTuningParams):
    """Write the network as an ONNX file with weights of fewer bits, measured under ONNX Runtime."""

    info: ClassVar[StepInfo] = StepInfo(
        summary="An ONNX file with weights, and for int8 activations, in fewer bits.", writes_file=True
    )
    name: Literal["quantize"] = Field(description="The step's name.")
    dtype: Dtype = Field(
        default="int8",
        description="`int8`: weights and activations of `operators`. `int4`: weights of matrix products, in blocks. "
        "`fp16`: all weights and activations. `bf16` is not available: ONNX Runtime has no CPU kernels for it.",
    )
    mode: QuantizationMode | None = Field(
        default=None,
        description="Only with int8. `static` (the default): ranges of activations are calibrated on training images. "
        "`dynamic`: they are computed for each batch. `qat`: the network is trained with rounded weights and "
        "activations, by distillation.",
    )
    calibration: Calibration = Field(
        default="minmax",
        description="Only with mode static: how the range of an activation follows from its values. `minmax`: all of "
        "them. `percentile`: 99.99 % of them. `entropy`: the range with the smallest divergence from them.",
    )
    calibration_images: int = Field(
        default=256,
        ge=MIN_CALIBRATION_IMAGES,
        le=10_000,
        description="Only with modes static and qat: training images of the calibration, drawn by the seed; at most "
        "those that the student is trained on.",
    )
    operators: tuple[Operator, ...] = Field(
        default=DEFAULT_OPERATORS,
        min_length=1,
        max_length=7,
        description="Only with modes static and dynamic: ONNX operators to quantize; dynamic quantizes MatMul and Gemm "
        "of them. A transformer whose normalization and softmax are quantized too often loses much accuracy.",
    )
    mixed: bool = Field(
        default=True,
        description="Only with modes static and dynamic: where the gate does not hold, leave the operators with the "
        "largest error in float until it does.",
    )
    block_size: Literal[16, 32, 64, 128, 256] = Field(
        default=32, description="Only with int4: number of weights of one row that share a scale."
    )

    @property
    def output(self) -> str:
        """``model.DTYPE.onnx``."""
        return f"model.{self.dtype}.onnx"

    @property
    def training_epochs(self) -> int:
        """The parameter ``epochs`` with mode qat."""
        return self.epochs if self.mode == "qat" else 0

    @field_validator("dtype")
    @classmethod
    def _refuse_unserved(cls, dtype: Dtype) -> Dtype:
        if dtype == "bf16":
            raise PydanticCustomError(
                NOT_AVAILABLE,
                "bf16 is not available: ONNX Runtime has no kernels for it on a CPU, so the file cannot be verified; "
                "set dtype to fp16",
            )
        return dtype

    @model_validator(mode="after")
    def _refuse_parameters_of_others(self) -> Self:
        """Refuse combinations that do not exist, and parameters that have no effect on this dtype and mode."""
        if self.mode is not None and self.dtype != "int8":
            raise PydanticCustomError(
                "quantize_mode",
                "mode {mode} exists for int8 only, and dtype is {dtype}; leave mode out, or set dtype to int8",
                {"mode": self.mode, "dtype": self.dtype},
            )
        for names, wanted, applies in (
            (_ONLY_INT8, "dtype int8", self.dtype == "int8"),
            (("calibration",), "mode static", self.effective_mode == "static"),
            (("calibration_images",), "modes static and qat", self.effective_mode in {"static", "qat"}),
            (_ONLY_POST_TRAINING, "modes static and dynamic", self.effective_mode in {"static", "dynamic"}),
            (_ONLY_QAT, "mode qat", self.mode == "qat"),
            (("block_size",), "dtype int4", self.dtype == "int4"),
        ):
            unused = [name for name in names if name in self.model_fields_set and not self._is_default(name)]
            if unused and not applies:
                raise PydanticCustomError(
                    "quantize_unused",
                    "{names} is used with {wanted} only; leave it out",
                    {"names": " and ".join(unused), "wanted": wanted},
                )
        return self

    @property
    def effective_mode(self) -> QuantizationMode | None:
        """The mode, which defaults to ``static`` for int8; None for other dtypes."""
        return (self.mode or "static") if self.dtype == "int8" else None

    def _is_default(self, name: str) -> bool:
        """Whether a parameter has its default, as all do in a resolved spec."""
        return bool(getattr(self, name) == type(self).model_fields[name].default)

"""The step ``quantize``: an ONNX file with fewer bits, and the accuracy of that file under ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

from core.compress import qat
from core.compress.base import CompressionStep, StepCost, StepInputs, StepOutput, StepPlan, StepProblems
from core.compress.fake_quantization import quantized_layers
from core.compress.float_onnx import EXPORTED, input_batches, write_float_graph, write_quantized
from core.compress.int8 import CALIBRATION_BATCH, Int8Quantizer, calibrate
from core.compress.onnx_runtime import OnnxNetwork
from core.compress.sensitivity import choose_operators, logit_error
from core.compress.weight_only import to_float16, to_int4
from core.data.holdout import draw_images
from core.data.pixels import Pixels
from core.errors import ExportFailed, FieldError
from core.evaluate.held_out import top1
from core.export.formats import check_format
from core.job_warnings import JobWarning
from core.models.built import BuiltModel
from core.spec.compression.quantize import MIN_CALIBRATION_IMAGES, QuantizeParams

FEW_CALIBRATION_IMAGES = 100
_RANKING_IMAGES = 64  # on which the errors of operators are compared
_EXPORT_SECONDS = 10.0
_TRIALS = 4  # quantized graphs that are evaluated on the held-out images, in the estimate


class Quantize(CompressionStep[QuantizeParams]):
    """Quantization of the network's ONNX graph."""

    def check(self, plan: StepPlan, problems: StepProblems) -> None:
        """Refuse networks that ONNX cannot hold, and static calibration on too few images."""
        try:
            check_format("onnx", plan.student)
        except ExportFailed as error:
            detail = f"it writes an ONNX file, and {error.detail}; leave it out, or take another student"
            problems.errors.append(FieldError(plan.pointer(), detail))
        field = "dtype" if self.params.dtype == "int4" else "mode"
        value = getattr(self.params, field)
        if value in {"dynamic", "int4"} and not _has_matrix_products(plan.student):
            detail = (
                f"{value} quantizes matrix products, and {plan.student.architecture} consists of convolutions; set "
                "mode to static, with dtype int8"
            )
            problems.errors.append(FieldError(plan.pointer(field), detail))
        if self.params.effective_mode == "static":
            self._check_calibration(plan, problems)

    def _check_calibration(self, plan: StepPlan, problems: StepProblems) -> None:
        count = min(self.params.calibration_images, plan.num_images)
        pointer = plan.pointer("calibration_images")
        if count < MIN_CALIBRATION_IMAGES:
            detail = (
                f"{count} training images are left for the calibration, and at least {MIN_CALIBRATION_IMAGES} are "
                "needed; use a larger dataset, or set mode to dynamic"
            )
            problems.errors.append(FieldError(pointer, detail))
        elif count < FEW_CALIBRATION_IMAGES:
            problems.warnings.append(
                JobWarning(
                    code="calibration_images_few",
                    field=pointer,
                    message=f"the ranges of activations are calibrated on {count} training images; below "
                    f"{FEW_CALIBRATION_IMAGES}, rare values are missed",
                    fix="raise calibration_images, or use a larger dataset",
                )
            )

    def cost(self, plan: StepPlan) -> StepCost:
        """The export, the calibration, and a few evaluations on the held-out images."""
        trials = _TRIALS if self.params.mixed and self.params.dtype == "int8" else 1
        calibration = self.params.calibration_images if self.params.effective_mode == "static" else 0
        return StepCost(
            forward_images=calibration + (1 + trials) * plan.num_held_out,
            training_epochs=self.params.training_epochs,
            seconds=_EXPORT_SECONDS,
        )

    def run(self, inputs: StepInputs) -> StepOutput:
        """Write the quantized file. See :class:`core.compress.base.CompressionStep`."""
        graph = write_float_graph(inputs.student, inputs.training, inputs.folder, inputs.poll)
        inputs.poll()
        match self.params.dtype:
            case "int8" if self.params.mode == "qat":
                model, details = self._qat(inputs)
            case "int8":
                model, details = self._int8(inputs, graph)
            case "int4":
                model, details = to_int4(graph, block_size=self.params.block_size), {}
            case _:
                model, details = to_float16(graph), {}
        path = inputs.folder / "final.onnx"
        write_quantized(model, path, graph)
        float_size = (inputs.folder / EXPORTED).stat().st_size
        details = {"dtype": self.params.dtype, "mode": self.params.effective_mode, **details}
        return StepOutput(file=path, details=details | {"float_size_bytes": float_size})

    def _qat(self, inputs: StepInputs) -> tuple[onnx.ModelProto, dict[str, Any]]:
        trained = qat.train(inputs, self.params)
        inputs.poll()
        model = qat.to_int8(trained, inputs.training, inputs.folder / "traced.onnx")
        return model, {"trained_top1": inputs.top1(trained), "layers": len(quantized_layers(trained.module))}

    def _int8(self, inputs: StepInputs, graph: Path) -> tuple[onnx.ModelProto, dict[str, Any]]:
        images = draw_images(inputs.training, self.params.calibration_images, inputs.seed)
        ranges = None
        if self.params.effective_mode == "static":
            batches = input_batches(images, inputs.student, CALIBRATION_BATCH)
            ranges = calibrate(graph, batches, self.params, inputs.poll)
        quantizer = Int8Quantizer(self.params, graph, ranges)
        if not quantizer.names:
            raise ExportFailed(f"the graph has no operator to quantize ({', '.join(self.params.operators)})")
        trial = _Trial(quantizer, inputs, draw_images(images, _RANKING_IMAGES, inputs.seed))

        def accepts(accuracy: float) -> bool:
            return not self.params.mixed or inputs.accepts(accuracy, self.params)

        chosen = choose_operators(quantizer.names, errors=trial.errors, top1=trial.top1, accepts=accepts)
        return quantizer.quantize(chosen.quantized), {
            "quantized_operators": len(chosen.quantized),
            "float_operators": list(chosen.in_float),
            "trials": chosen.num_trials,
            "calibration_images": len(images) if ranges is not None else 0,
        }


def _has_matrix_products(student: BuiltModel) -> bool:
    """Whether the network has linear layers besides its classifier."""
    found = student.module.get_classifier()  # type: ignore[operator]
    heads = found if isinstance(found, tuple) else (found,)  # two with a distillation token
    classifier = {module for head in heads for module in head.modules()}
    return any(isinstance(module, torch.nn.Linear) for module in student.module.modules() if module not in classifier)


class _Trial:
    """Evaluates graphs with some operators in int8."""

    def __init__(self, quantizer: Int8Quantizer, inputs: StepInputs, ranking: Pixels) -> None:
        self._quantizer = quantizer
        self._inputs = inputs
        self._ranking = ranking
        self._path = inputs.folder / "trial.onnx"

    def top1(self, names: Sequence[str]) -> float:
        """Held-out accuracy with the operators ``names`` in int8."""
        return top1(self._open(names), self._inputs.held_out, poll=self._inputs.poll)

    def errors(self) -> list[float]:
        """Error of the logits with each operator alone in int8."""
        expected = self._logits(OnnxNetwork.open(self._quantizer.graph, self._inputs.student.preprocessing))
        return [logit_error(self._logits(self._open([name])), expected) for name in self._quantizer.names]

    def _open(self, names: Sequence[str]) -> OnnxNetwork:
        self._inputs.poll()
        onnx.save(self._quantizer.quantize(names), self._path)
        return OnnxNetwork.open(self._path, self._inputs.student.preprocessing)

    def _logits(self, network: Callable[[Tensor], Tensor]) -> Tensor:
        images_BCHW = self._ranking.batch(torch.arange(len(self._ranking))).float() / 255
        return network(images_BCHW)

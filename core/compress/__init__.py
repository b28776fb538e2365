"""Compression of a trained student: steps in order, each judged on held-out images."""

from core.compress.base import CompressionStep, StepCost, StepInputs, StepOutput, StepPlan, StepProblems
from core.compress.compression import Compression
from core.compress.exports import export_steps
from core.compress.measure import MeasuredStep, measure_steps
from core.compress.outcome import StepOutcome
from core.compress.registry import build_step, implementation

__all__ = [
    "Compression",
    "CompressionStep",
    "MeasuredStep",
    "StepCost",
    "StepInputs",
    "StepOutcome",
    "StepOutput",
    "StepPlan",
    "StepProblems",
    "build_step",
    "export_steps",
    "implementation",
    "measure_steps",
]

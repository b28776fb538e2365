"""Distillation methods, one file per method."""

from core.methods.base import Batch, ImageSources, Method, MethodContext, StepContext, StepInfo, Teacher
from core.methods.registry import build_method, implementation, plan_student_variant
from core.models.taps import FeatureRequest, Outputs

__all__ = [
    "Batch",
    "FeatureRequest",
    "ImageSources",
    "Method",
    "MethodContext",
    "Outputs",
    "StepContext",
    "StepInfo",
    "Teacher",
    "build_method",
    "implementation",
    "plan_student_variant",
]

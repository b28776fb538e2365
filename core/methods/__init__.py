"""How a student is taught: one file a method."""

from core.methods.base import Batch, Method, Moment, Room, Setting, Sources, Teacher
from core.methods.registry import build_method, implementation, student_form
from core.models.taps import Outputs, Wanted

__all__ = [
    "Batch",
    "Method",
    "Moment",
    "Outputs",
    "Room",
    "Setting",
    "Sources",
    "Teacher",
    "Wanted",
    "build_method",
    "implementation",
    "student_form",
]
